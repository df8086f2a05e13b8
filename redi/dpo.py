"""The DPO baseline, Eq. (2): TRL's `DPOTrainer` on exactly the tokens that REDI trains on."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from redi.checks import CheckedTrainer
from redi.text.training_rows import prepare_rows

UNREAD_OPTIONS = {
    "padding_free": "TRL's DPOTrainer pads",
    "truncation_mode": "traces are cut at the end",
    "pad_token": "the pad token comes with the model's tokenizer",
}


class PreparedDPOTrainer(CheckedTrainer, DPOTrainer):
    """[`~trl.DPOTrainer`] on pairs from `redi.text.training_rows`; loss, reference and metrics are TRL's own.

    TRL 1.16 appends no eos token to a conversation, so its DPO would not learn where an answer ends. REDI here, and
    DPO in the authors' code (https://huggingface.co/papers/2505.24850), score one. TRL also cannot tokenise before it
    has loaded the model.
    """

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: PreTrainedTokenizerBase, args: DPOConfig, dataset_name: str
    ) -> Dataset:
        """Tokenises pairs; returns those that have been tokenised already as they are."""
        name = f"{dataset_name} dataset"
        return prepare_rows(dataset, ("pairs",), processing_class, args.max_length, args.dataset_num_proc, name)[0]
