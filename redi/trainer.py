"""`REDITrainer`: the objectives of stage 2 on TRL's `DPOTrainer`. Private hooks of TRL 1.16 are overridden here."""

from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import DPOTrainer

from redi.callbacks import CollapseGuard, UpdateNorm
from redi.config import REDIConfig
from redi.losses import OBJECTIVES
from redi.runs.model_folder import leaves_out_cap
from redi.text.training_rows import prepare_rows
from redi.trace_trainer import TraceTrainer


class REDITrainer(TraceTrainer, DPOTrainer):
    """Trainer for Reinforcement Distillation (REDI), https://huggingface.co/papers/2505.24850.

    Minimises Eq. (5), -log p(y_w|x)/|y_w| + alpha * log p(y_l|x)/|y_l|, averaged over the pairs of the global batch,
    or another objective of `redi.losses.OBJECTIVES`. There is no reference model. Use it like any TRL trainer:

    ```python
    trainer = REDITrainer(
        model="path/to/sft-checkpoint",
        args=REDIConfig(output_dir="out", alpha=0.8),
        train_dataset=load_dataset("path/to/pairs", split="train"),
    )
    trainer.train()
    ```

    Rows of `train_dataset` are pairs, in either shape that `redi.text.encoding.split_row` accepts, or traces
    (`prompt, completion, label, weight?`). A problem may have any number of traces of either side. The objective is
    then a mean over the problems of the global batch, where each side of a problem contributes the weighted mean over
    its traces. For pairs this is Eq. (5). A side without traces contributes nothing; its problem still counts.

    Prompt and completion are tokenised apart, and a completion ends with one eos token, scored and counted in |y|. An
    optimizer step is a list of micro-batches of complete traces, packed without padding and balanced over ranks
    (`redi.engine.batching`). `padding_free=False` and objectives that are not sums over traces, as SimPO, train on
    padded pairs, in `_compute_loss`.

    Logged metrics are averaged over the problems since the last log, and as `eval_*` over all of `eval_dataset`:
    `loss`; `logps/{chosen,rejected}`, the mean log-probability of a completion's tokens; `rewards/margins` and
    `rewards/accuracies`, chosen minus rejected LogPS and how often this is positive;
    `completions/mean_length/{chosen,rejected}`, in scored tokens. `num_tokens` are all tokens so far.
    """

    _tag_names = ["trl", "redi"]
    has_own_head = True

    def __init__(self, model: Any, args: REDIConfig, **kwargs: Any):
        if not isinstance(args, REDIConfig):
            raise TypeError(f"`args` must be a `REDIConfig`, got `{type(args).__name__}`")
        args = self._own_steps(args)
        hook = _NoReferenceModel(self)
        super().__init__(model=model, args=args, **kwargs | {"callbacks": [*(kwargs.get("callbacks") or []), hook]})
        hook.undo()
        # The flag was set only to keep the reference model from being loaded. Left on, `evaluate` would refuse to run.
        self.precompute_ref_logps = False
        base_model = self.model.get_base_model() if is_peft_model(self.model) else self.model
        if leaves_out_cap(base_model.config, base_model.config.get_text_config()._attn_implementation):
            base_model.set_attn_implementation("eager")
        objective = OBJECTIVES[args.objective]
        self._name, self._paper = objective.title, {"title": objective.paper[0], "id": objective.paper[1]}  # for cards
        self.about = objective.describe(args)
        self.pair_loss = objective.loss(args)
        self._plan_steps(objective.weights(args), objective.negative_term(args))
        if args.collapse_guard != "off":
            self.add_callback(CollapseGuard(args))
        if args.log_update_norm:
            self.add_callback(UpdateNorm(self.accelerator, self._metrics["train"]))

    # --- traces ----------------------------------------------------------------------------------------------------

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: PreTrainedTokenizerBase,
        args: REDIConfig,
        dataset_name: str,
    ) -> Dataset:
        """Tokenises pairs or traces; see `prepare_rows`."""
        if isinstance(dataset, IterableDataset):
            raise TypeError(f"the {dataset_name} dataset must be a `Dataset`, got an `IterableDataset`")
        # Traces that are not pairs need the engine: padding_free training.
        kinds = ("pairs", "traces") if self.trains_on_traces else ("pairs",)
        name = f"{dataset_name} dataset"
        return prepare_rows(dataset, kinds, processing_class, args.max_length, args.dataset_num_proc, name)[0]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        return dataset

    def _record(self, sums: torch.Tensor, rows: list[int]) -> None:
        """Records one value per problem; see `TraceTrainer`."""
        present = sums[:, :, 3] > 0
        values = {}
        for side, name in ((1, "chosen"), (0, "rejected")):
            values[f"logps/{name}"] = sums[present[:, side], side, 0]
            values[f"completions/mean_length/{name}"] = sums[present[:, side], side, 2]
        both = present.all(dim=1)
        values["rewards/margins"] = sums[both, 1, 0] - sums[both, 0, 0]
        values["rewards/accuracies"] = (values["rewards/margins"] > 0).float()
        for name, problems in values.items():
            if len(problems):
                self._metrics["train" if self.model.training else "eval"][name].extend(problems.tolist())

    def _held_out_loss(self, loss: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        if OBJECTIVES[self.args.objective].is_sum:
            return loss
        (rejected, _, rejected_lengths, _), (chosen, _, chosen_lengths, _) = sums.permute(1, 2, 0)  # (B,) each
        logps = chosen * chosen_lengths, rejected * rejected_lengths
        return self.pair_loss(*logps, chosen_lengths, rejected_lengths).mean()

    # --- pairs, padded ---------------------------------------------------------------------------------------------

    def _compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        if return_outputs:
            raise ValueError("`compute_metrics` is not supported: REDI computes no logits")
        mask = inputs["completion_mask"][:, 1:]  # (2B, T-1): the first B rows are chosen, the last B rejected
        scored = torch.nn.functional.pad(mask, (0, 1)).bool()  # position t predicts token t + 1
        logps = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            positions=scored.flatten().nonzero()[:, 0],
            targets=inputs["input_ids"][:, 1:][mask.bool()],
        )
        # |y| counts the scored tokens: after truncation, only the kept ones.
        lengths = mask.sum(dim=1)
        segments = torch.repeat_interleave(torch.arange(len(mask), device=mask.device), lengths)

        def sums(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.zeros(len(mask), device=mask.device).index_add(0, segments, values).chunk(2)  # (B,) each

        chosen_logps, rejected_logps = sums(logps)
        chosen_lengths, rejected_lengths = lengths.chunk(2)
        self._record_pairs(chosen_logps / chosen_lengths, rejected_logps / rejected_lengths, lengths)
        if self.model.training:
            self._count_tokens(int(self.accelerator.reduce(inputs["attention_mask"].sum())))
        if self.negative_term is not None:
            rejected_logps = sums(self.negative_term(logps))[1]
        return self.pair_loss(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths).mean()

    @torch.no_grad()
    def _record_pairs(self, chosen: torch.Tensor, rejected: torch.Tensor, lengths: torch.Tensor) -> None:
        """Records means over the pairs of a micro-batch on all ranks, from LogPS `(B,)` and lengths `(2B,)`."""
        chosen_lengths, rejected_lengths = lengths.float().chunk(2)
        values = {
            "logps/chosen": chosen,
            "logps/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "completions/mean_length/chosen": chosen_lengths,
            "completions/mean_length/rejected": rejected_lengths,
        }
        means = torch.stack([value.mean() for value in values.values()])
        means = self.accelerator.reduce(means, reduction="mean").tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, mean in zip(values, means, strict=True):
            metrics[name].append(mean)


class _NoReferenceModel(TrainerCallback):
    """Keeps `DPOTrainer.__init__` from loading a reference model, or copying a reference adapter, that never runs.

    `precompute_ref_log_probs` prevents it with every launcher except FSDP, where a model is loaded and freed again.
    That happens after `Trainer.__init__`, which does not read `is_fsdp_enabled` after calling `on_init_end`. So
    `is_fsdp_enabled` is false from `on_init_end` until `undo`.
    """

    def __init__(self, trainer: DPOTrainer):
        self.trainer = trainer

    def on_init_end(self, args, state, control, **kwargs):
        self.uses_fsdp = self.trainer.is_fsdp_enabled
        self.trainer.is_fsdp_enabled = False

    def undo(self) -> None:
        self.trainer.is_fsdp_enabled = self.uses_fsdp
        self.trainer.remove_callback(self)
        model = self.trainer.model
        if is_peft_model(model) and "ref" in model.peft_config:
            model.delete_adapter("ref")
