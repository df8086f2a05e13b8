"""The DPO baseline, Eq. (2): TRL's `DPOTrainer` on exactly the tokens that REDI trains on."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from redi.checks import CheckedTrainer
from redi.text.training_rows import PAIR_COLUMNS, prepare_problems

UNREAD_OPTIONS = {
    "padding_free": "TRL's DPOTrainer pads",
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
        """Tokenises pairs; returns pairs that `prepare_problems` has tokenised already as they are."""
        pairs = prepare_problems(
            dataset, processing_class, args.max_length, args.dataset_num_proc, name=f"{dataset_name} dataset"
        )
        if not set(PAIR_COLUMNS) <= set(pairs.column_names):
            raise ValueError(f"the {dataset_name} dataset must hold pairs (chosen, rejected): DPO compares the two")
        return pairs
