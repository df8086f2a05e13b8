"""`REDITrainer`: Eq. (5) on TRL's `DPOTrainer`. Private hooks of TRL 1.16 are overridden here."""

import contextlib
import copy
from functools import partial
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model, send_to_device
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_pt_utils import get_model_param_count
from trl import DPOTrainer

from redi.callbacks import CollapseGuard, SetEpoch, UpdateNorm
from redi.checks import CheckedTrainer
from redi.config import REDIConfig
from redi.engine.batching import StepDataset, step_cost
from redi.engine.logprobs import add_scoring
from redi.losses import redi_loss, simpo_loss
from redi.runs.model_folder import leaves_out_cap
from redi.text.training_rows import NAME, prepare_rows

logger = get_logger(__name__)


class REDITrainer(CheckedTrainer, DPOTrainer):
    """Trainer for Reinforcement Distillation (REDI), https://huggingface.co/papers/2505.24850.

    Minimises Eq. (5), -log p(y_w|x)/|y_w| + alpha * log p(y_l|x)/|y_l|, averaged over the pairs of the global batch.
    There is no reference model. Use it like any TRL trainer:

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
    (`redi.engine.batching`). Evaluation, SimPO and `padding_free=False` use padded pairs, in `_compute_loss`.

    Logged metrics are averaged over the problems since the last log: `loss`; `logps/{chosen,rejected}`, the mean
    log-probability of a completion's tokens; `rewards/margins` and `rewards/accuracies`, chosen minus rejected LogPS
    and how often this is positive; `completions/mean_length/{chosen,rejected}`, in scored tokens.
    """

    _tag_names = ["trl", "redi"]
    _name = "REDI"
    _paper = {
        "title": "Harnessing Negative Signals: Reinforcement Distillation from Teacher Data for LLM Reasoning",
        "id": "2505.24850",
    }
    has_own_head = True

    def __init__(self, model: Any, args: REDIConfig, **kwargs: Any):
        if not isinstance(args, REDIConfig):
            raise TypeError(f"`args` must be a `REDIConfig`, got `{type(args).__name__}`")
        self.pairs_per_device = args.per_device_train_batch_size * args.gradient_accumulation_steps
        self.num_micro_batches = args.gradient_accumulation_steps
        self.trains_on_traces = args.padding_free
        args = copy.copy(args)
        if self.trains_on_traces:
            # One step of the Trainer is a full optimizer step here: `training_step` accumulates by itself.
            args.per_device_train_batch_size, args.gradient_accumulation_steps = self.pairs_per_device, 1
            args.padding_free = False  # DPOTrainer would warn that it does not support it
        hook = _NoReferenceModel(self)
        super().__init__(model=model, args=args, **kwargs | {"callbacks": [*(kwargs.get("callbacks") or []), hook]})
        hook.undo()
        # The flag was set only to keep the reference model from being loaded. Left on, `evaluate` would refuse to run.
        self.precompute_ref_logps = False
        base_model = self.model.get_base_model() if is_peft_model(self.model) else self.model
        if leaves_out_cap(base_model.config, base_model.config.get_text_config()._attn_implementation):
            base_model.set_attn_implementation("eager")
        add_scoring(base_model)
        self.pair_loss = (
            partial(redi_loss, alpha=args.alpha)
            if args.objective == "redi"
            else partial(simpo_loss, beta=args.simpo_beta, gamma=args.simpo_gamma)
        )
        if self.trains_on_traces:
            self.layouts = ("packed", "padded")
            self._plan_steps(base_model)
        if args.collapse_guard != "off":
            self.add_callback(CollapseGuard(args))
        if args.log_update_norm:
            self.add_callback(UpdateNorm(self.accelerator, self._metrics["train"]))

    # --- data ------------------------------------------------------------------------------------------------------

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
        kinds = ("pairs", "traces") if self.trains_on_traces and dataset_name == "train" else ("pairs",)
        name = f"{dataset_name} dataset"
        return prepare_rows(dataset, kinds, processing_class, args.max_length, args.dataset_num_proc, name)[0]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        return dataset

    def _plan_steps(self, model: torch.nn.Module) -> None:
        """Sets up `self.steps`: this rank's share of each optimizer step."""
        text_config = model.config.get_text_config()
        self.num_parameters = get_model_param_count(model)  # also where ZeRO-3 has sharded them
        crossover = self.num_parameters / (text_config.num_hidden_layers * text_config.hidden_size)
        self.steps = StepDataset(
            self.train_dataset,
            global_batch_size=self.pairs_per_device * self.args.world_size,
            num_micro_batches=self.num_micro_batches,
            max_tokens=self.args.max_tokens_per_micro_batch,
            max_length=self.args.max_length,
            alpha=self.args.alpha,
            cost=step_cost(crossover),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
            pack=True,
            pad_token_id=self._tokenizer.pad_token_id,
            seed=self.args.seed,
        )
        self.add_callback(SetEpoch(self.steps))
        self.has_rehearsed = False
        if self.accelerator.is_main_process:
            print(self.steps.describe(), flush=True)

    def _use_layout(self, layout: str) -> None:
        if self.trains_on_traces:
            self.steps.pack = layout == "packed"

    def get_train_dataloader(self) -> DataLoader:
        if not self.trains_on_traces:
            return super().get_train_dataloader()
        # Not prepared by accelerate: `self.steps` already holds only this rank's share.
        return DataLoader(self.steps, collate_fn=_only, num_workers=self.args.dataloader_num_workers)

    def num_examples(self, dataloader: DataLoader) -> int:
        is_steps = dataloader.dataset is self.__dict__.get("steps")
        return len(self.train_dataset) if is_steps else super().num_examples(dataloader)

    def floating_point_ops(self, inputs: Any) -> float:
        if isinstance(inputs, dict):
            return super().floating_point_ops(inputs)
        num_tokens = sum(micro_batch["model_inputs"]["input_ids"].numel() for micro_batch in inputs)
        return 6 * num_tokens * self.num_parameters

    # --- training --------------------------------------------------------------------------------------------------

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Runs forward and backward on this rank's share of an optimizer step. Gradients are reduced once, at the end.

        Returns:
            This rank's part of the loss times the number of ranks, because the Trainer logs the mean over ranks.
        """
        if not self.trains_on_traces:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if not self.has_rehearsed:
            self._rehearse(model)
            self.has_rehearsed = True
        micro_batches = send_to_device(inputs, self.args.device)  # Trainer's own way rounds to bfloat16 for DeepSpeed
        sums = torch.zeros(micro_batches[0]["num_problems"], 2, 3, device=self.args.device)
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(micro_batches, 1):
            # Gradients are averaged over ranks, but Eq. (5) is a sum over the traces of all ranks.
            loss, logps = self._forward_backward(model, batch, self.args.world_size, number == len(micro_batches))
            total += loss
            _add_to_sums(sums, batch, logps)
        self._record_problems(self.accelerator.reduce(sums, reduction="sum"), micro_batches[0]["rows"])
        return total

    def _forward_backward(
        self, model: torch.nn.Module, batch: dict[str, Any], factor: float, is_last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what `_trace_loss` does, with the loss times `factor`. Gradients are reduced if `is_last`."""
        # DeepSpeed reads the boundary from `sync_gradients`. DDP and FSDP are told not to reduce before it.
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        reduces = is_last or self.is_deepspeed_enabled
        quiet = contextlib.nullcontext() if reduces else self.accelerator.no_sync(model)
        with quiet, self.maybe_activation_offload_context:
            with self.compute_loss_context_manager():
                loss, logps = self._trace_loss(model, batch)  # scalar, (traces,)
                loss = loss * factor
            self.accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))
        return loss.detach(), logps

    def _rehearse(self, model: torch.nn.Module) -> None:
        """Runs the largest micro-batch of the epoch forward and backward, so a lack of memory shows at once.

        Its loss is multiplied by 0. It therefore adds exact zeros to the gradients of the first step, with every
        launcher, and leaves weights, optimizer and random state unchanged.
        """
        batch = send_to_device(self.steps.largest(), self.args.device)
        num_tokens = batch["model_inputs"]["input_ids"].numel()
        logger.info(f"rehearsing the largest micro-batch: {num_tokens:,} tokens")
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                self._forward_backward(model, batch, 0.0, is_last=False)
        except torch.OutOfMemoryError as error:
            room = self.args.max_tokens_per_micro_batch
            how = "set it in place of per_device_train_batch_size" if room is None else f"now {room}"
            raise RuntimeError(
                f"out of memory on the largest micro-batch, {num_tokens:,} tokens: lower max_tokens_per_micro_batch "
                f"({how}) down to the longest trace, then max_length (now {self.args.max_length}); "
                f"gradient_checkpointing is {self.args.gradient_checkpointing}"
            ) from error

    def _trace_loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """A micro-batch's contribution to Eq. (5), a scalar, and log p(y|x) of its traces, `(traces,)`, detached."""
        segments = batch["segments"]  # (S,)
        coefficients = batch["coefficients"][segments]
        loss, logps = model(
            **batch["model_inputs"],
            positions=batch["positions"],
            targets=batch["targets"],
            coefficients=coefficients.view(torch.int32),  # see `add_scoring`
        )
        logps = logps.view(torch.float32)
        loss = loss + ((coefficients * logps).sum() - loss).detach()  # FSDP2 has rounded it
        return loss, torch.zeros_like(batch["coefficients"]).index_add(0, segments, logps)

    @torch.no_grad()
    def _record_problems(self, sums: torch.Tensor, rows: list[int]) -> None:
        """Records the metrics of a global batch, one value per problem.

        `sums` `(N, 2, 3)` holds, per problem and side (rejected, chosen), the sums over traces of
        share * (per-token logp, length, 1); the shares of a side sum to 1 if it has traces. `rows` are the problems'.

        Raises:
            FloatingPointError: a log-probability is NaN or infinite. Raised on all ranks, before the optimizer step.
        """
        if not torch.isfinite(sums).all():
            names = [self.train_dataset[row].get(NAME, f"row {row}") for row in rows]
            raise FloatingPointError(
                f"NaN or infinite log-probability in step {self.state.global_step + 1}; batch: {', '.join(names)}"
            )
        sums = sums.cpu()
        present = sums[:, :, 2] > 0
        values = {}
        for side, name in ((1, "chosen"), (0, "rejected")):
            values[f"logps/{name}"] = sums[present[:, side], side, 0]
            values[f"completions/mean_length/{name}"] = sums[present[:, side], side, 1]
        both = present.all(dim=1)
        values["rewards/margins"] = sums[both, 1, 0] - sums[both, 0, 0]
        values["rewards/accuracies"] = (values["rewards/margins"] > 0).float()
        for name, problems in values.items():
            if len(problems):
                self._metrics["train"][name].extend(problems.tolist())

    # --- pairs, padded: evaluation, SimPO, padding_free=False ------------------------------------------------------

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
        logps = torch.zeros(len(mask), device=mask.device).index_add(0, segments, logps)  # (2B,)
        chosen_logps, rejected_logps = logps.chunk(2)
        chosen_lengths, rejected_lengths = lengths.chunk(2)
        self._record_pairs(chosen_logps / chosen_lengths, rejected_logps / rejected_lengths, lengths)
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


def _only(items: list[Any]) -> Any:
    return items[0]


def _add_to_sums(sums: torch.Tensor, batch: dict[str, Any], logps: torch.Tensor) -> None:
    """Adds share * (per-token logp, length, 1) of each trace to its problem and side of `sums` `(N, 2, 3)`."""
    columns = torch.stack([logps / batch["num_scored"], batch["num_scored"].float(), torch.ones_like(logps)], dim=1)
    index = (batch["problems"], batch["is_chosen"].long())
    sums.index_put_(index, columns * batch["shares"][:, None], accumulate=True)
