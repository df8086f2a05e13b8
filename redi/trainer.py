"""`REDITrainer`: the only module that touches TRL's private hooks (TRL 1.16)."""

from functools import partial
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer
from trl.trainer.utils import add_fused_lm_head, global_then_local_main_first

from redi.config import REDIConfig
from redi.data.tokens import encode, split_pair
from redi.losses import redi_loss, simpo_loss

logger = get_logger(__name__)

TOKEN_COLUMNS = ["prompt_ids", "chosen_ids", "rejected_ids"]


class REDITrainer(DPOTrainer):
    """Trainer for Reinforcement Distillation (REDI), https://huggingface.co/papers/2505.24850.

    Minimises Eq. (5), -log p(y_w|x)/|y_w| + alpha * log p(y_l|x)/|y_l|, averaged over the pairs of the global batch,
    with no reference model. Use it like any TRL trainer:

    ```python
    trainer = REDITrainer(
        model="path/to/sft-checkpoint",
        args=REDIConfig(output_dir="out", alpha=0.8),
        train_dataset=load_dataset("path/to/pairs", split="train"),
    )
    trainer.train()
    ```

    The only changes with respect to [`~trl.DPOTrainer`] are
    - `_prepare_dataset`: prompt and completion are tokenised separately and one eos token is appended, scored and
      counted;
    - `_precompute_ref_logps`: does nothing, so that no reference model is ever loaded or run;
    - `_compute_loss`: the objective, and metrics in mean per-token log-probabilities (the paper's LogPS).

    Rows of `train_dataset` are conversational, in either shape that `redi.data.tokens.split_pair` takes.

    Logged metrics, averaged over the pairs since the last log: `loss`; `logps/chosen`, `logps/rejected` (per-token
    log-probabilities, averaged over each completion's tokens, then over pairs); `rewards/margins` and
    `rewards/accuracies` (chosen minus rejected LogPS, and how often it is positive); `completions/chosen_length` and
    `completions/rejected_length` (scored tokens).
    """

    _tag_names = ["trl", "redi"]
    _name = "REDI"
    _paper = {
        "title": "Harnessing Negative Signals: Reinforcement Distillation from Teacher Data for LLM Reasoning",
        "id": "2505.24850",
    }

    def __init__(self, model: Any, args: REDIConfig, **kwargs: Any):
        if not isinstance(args, REDIConfig):
            raise TypeError(f"`args` must be a `REDIConfig`, got `{type(args).__name__}`")
        super().__init__(model=model, args=args, **kwargs)
        # The flag only kept the reference model from being loaded; left on, it would make `evaluate` refuse to run.
        self.precompute_ref_logps = False
        # DPOTrainer asks its fused LM head for four outputs per token; REDI reads only the log-probabilities.
        add_fused_lm_head(self.model, outputs=("log_probs",))
        self.pair_loss = (
            partial(redi_loss, alpha=args.alpha)
            if args.objective == "redi"
            else partial(simpo_loss, beta=args.simpo_beta, gamma=args.simpo_gamma)
        )

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: PreTrainedTokenizerBase,
        args: REDIConfig,
        dataset_name: str,
    ) -> Dataset:
        """Tokenises pairs into `prompt_ids, chosen_ids, rejected_ids`; a dataset that has these columns is kept."""
        if isinstance(dataset, IterableDataset):
            raise TypeError(f"the {dataset_name} dataset must be a `Dataset`, got an `IterableDataset`")
        if set(TOKEN_COLUMNS) <= set(dataset.column_names):
            return dataset
        missing = {"chosen", "rejected"} - set(dataset.column_names)
        if missing:
            raise ValueError(
                f"the {dataset_name} dataset has no column {sorted(missing)}; it has {dataset.column_names}. REDI "
                "trains on pairs: make them with data_preprocess/build_pairs.py"
            )
        with global_then_local_main_first():
            dataset = dataset.map(
                _tokenize_pair,
                with_indices=True,
                fn_kwargs={"tokenizer": processing_class},
                remove_columns=dataset.column_names,
                num_proc=args.dataset_num_proc,
                desc=f"Tokenizing {dataset_name} dataset",
            )
            return _limit_length(dataset, args.max_length, dataset_name)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        return dataset

    def _compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        mask = inputs["completion_mask"]  # (2B, T): the first B rows are chosen, the last B rejected
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(mask == 0, -100),
            use_cache=False,
            fused_lm_head=True,
        )
        # (2B, T-1), zero outside the completion; summed in float32, where 19k bf16 terms would lose whole nats
        logps = outputs.log_probs.float().sum(dim=1)
        # |y| is what is scored: after truncation, the kept tokens only. The first column predicts nothing.
        lengths = mask[:, 1:].sum(dim=1)
        chosen_logps, rejected_logps = logps.chunk(2)
        chosen_lengths, rejected_lengths = lengths.chunk(2)
        loss = self.pair_loss(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths).mean()
        self._record(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _record(
        self,
        chosen_logps: torch.Tensor,
        rejected_logps: torch.Tensor,
        chosen_lengths: torch.Tensor,
        rejected_lengths: torch.Tensor,
    ) -> None:
        """Adds a micro-batch's metrics, averaged over the pairs of all ranks. All arguments `(B,)`."""
        chosen, rejected = chosen_logps / chosen_lengths, rejected_logps / rejected_lengths
        values = {
            "logps/chosen": chosen,
            "logps/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "completions/chosen_length": chosen_lengths.float(),
            "completions/rejected_length": rejected_lengths.float(),
        }
        means = torch.stack([value.mean() for value in values.values()])
        means = self.accelerator.reduce(means, reduction="mean").tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, mean in zip(values, means, strict=True):
            metrics[name].append(mean)


def _tokenize_pair(row: dict[str, Any], index: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    try:
        prompt, chosen, rejected = split_pair(row)
        prompt_ids, chosen_ids = encode(tokenizer, prompt, chosen)
        return {
            "prompt_ids": prompt_ids,
            "chosen_ids": chosen_ids,
            "rejected_ids": encode(tokenizer, prompt, rejected)[1],
        }
    except ValueError as error:
        raise ValueError(f"row {index} of the pairs: {error}") from error


def _limit_length(dataset: Dataset, max_length: int | None, name: str) -> Dataset:
    """Drops pairs whose prompt fills `max_length`, counts the traces that the collator will cut, and says both."""
    if max_length is None:
        return dataset

    def longest(rows: dict[str, list[list[int]]]) -> dict[str, list[int]]:
        prompts = [len(ids) for ids in rows["prompt_ids"]]
        completions = zip(rows["chosen_ids"], rows["rejected_ids"], strict=True)
        longer = [max(map(len, pair)) for pair in completions]
        return {"prompt_len": prompts, "total_len": [p + c for p, c in zip(prompts, longer, strict=True)]}

    lengths = dataset.map(longest, batched=True, remove_columns=dataset.column_names)
    kept = [i for i, length in enumerate(lengths["prompt_len"]) if length < max_length]
    num_cut = sum(length > max_length for length in lengths["total_len"])
    if num_cut:
        logger.warning(
            f"max_length={max_length} is exceeded by {num_cut} of {len(dataset)} pairs of the {name} dataset: "
            f"{len(dataset) - len(kept)} are dropped (the prompt fills it), the others cut at the end"
        )
    return dataset if len(kept) == len(dataset) else dataset.select(kept)
