"""`TraceTrainer`: optimizer steps on packed traces, for both stages. Private hooks of the Trainer are overridden."""

import contextlib
import copy
import math
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model, send_to_device
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_pt_utils import get_model_param_count
from transformers.trainer_utils import EvalLoopOutput

from redi.callbacks import SetEpoch
from redi.checks import CheckedTrainer
from redi.engine.batching import StepDataset, step_cost
from redi.engine.logprobs import TokenTerm, add_scoring, token_terms
from redi.text.training_rows import NAME

logger = get_logger(__name__)


class TraceTrainer(CheckedTrainer):
    """Mixin for trainers whose loss is a signed sum over the log-probabilities of traces (`redi.engine.batching`).

    An optimizer step is a list of micro-batches of complete traces, packed without padding and balanced over ranks.
    Before its first step, the trainer runs the largest micro-batch. Without `args.trains_on_traces`, training is as in
    the other base class. Held-out rows are computed in the same way, a micro-batch at a time and without gradients:
    loss and metrics are those of all rows together, whatever the batches and the number of ranks.

    A subclass calls `_own_steps` before and, if traces are scored here, `_plan_steps` after the other base class is
    initialised. It has `_record(sums, rows)`, which records the metrics of a global batch, or of all held-out rows:
    `sums` `(N, 2, 4)` holds, per problem and side (rejected, chosen), the sums over traces of share * (per-token logp,
    share of tokens that are the likeliest, scored tokens, 1), on the CPU. The shares of a side sum to 1 if it has
    traces. `rows` are the problems' rows.
    """

    trains_on_traces = scores_traces = False
    packs = False  # until the loaded model has been found to keep packed traces apart

    def __init__(self, *args: Any, **kwargs: Any):
        for name in ("train_dataset", "eval_dataset"):
            if isinstance(rows := kwargs.get(name), list):
                kwargs[name] = as_dataset(rows)
        super().__init__(*args, **kwargs)

    def _own_steps(self, args: TrainingArguments) -> TrainingArguments:
        """A copy of the arguments for which a step of the Trainer is a full optimizer step."""
        self.trains_on_traces = getattr(args, "trains_on_traces", False)
        self.num_micro_batches = args.gradient_accumulation_steps
        args = copy.copy(args)
        if self.trains_on_traces:  # `training_step` accumulates by itself
            args.per_device_train_batch_size *= self.num_micro_batches
            args.gradient_accumulation_steps = 1
            args.padding_free = False  # TRL's own, for which it warns or refuses options
            self.layouts = ("packed", "padded")
        return args

    def _plan_steps(self, weights: tuple[float, float] | None, negative_term: TokenTerm | None = None) -> None:
        """Lets the model score traces, and sets up `self.steps` for the weights of `redi.losses.Objective`."""
        self.negative_term = negative_term
        model = self.model.get_base_model() if is_peft_model(self.model) else self.model
        add_scoring(model, negative_term)
        # `sums` hold no `negative_term`s, which only a loss that is no sum over traces would need.
        self.scores_traces = weights is not None or negative_term is None
        self.weights = weights or (1.0, 0.0)
        if not self.trains_on_traces:
            return
        text_config = model.config.get_text_config()
        self.num_parameters = get_model_param_count(model)  # also where ZeRO-3 has sharded them
        crossover = self.num_parameters / (text_config.num_hidden_layers * text_config.hidden_size)
        self.steps = StepDataset(
            self.train_dataset,
            global_batch_size=self.args.per_device_train_batch_size * self.args.world_size,
            num_micro_batches=self.num_micro_batches,
            max_tokens=self.args.max_tokens_per_micro_batch,
            max_length=self.args.max_length,
            chosen_weight=weights[0],
            alpha=weights[1],
            cost=step_cost(crossover),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
            pack=True,
            pad_token_id=self._tokenizer.pad_token_id,
            seed=self.args.seed,
        )
        if isinstance(self.eval_dataset, Dataset):
            self.get_eval_dataloader()  # refuses a trace that does not fit now, not at the first evaluation
        self.add_callback(SetEpoch(self.steps))
        self.has_rehearsed = False
        if self.accelerator.is_main_process:
            print(self.steps.describe(), flush=True)

    def _use_layout(self, layout: str) -> None:
        if self.trains_on_traces:
            self.steps.pack = self.packs = layout == "packed"

    def get_train_dataloader(self) -> DataLoader:
        if not self.trains_on_traces:
            return super().get_train_dataloader()
        # Not prepared by accelerate: `self.steps` already holds only this rank's share.
        return DataLoader(self.steps, collate_fn=itemgetter(0), num_workers=self.args.dataloader_num_workers)

    def num_examples(self, dataloader: DataLoader) -> int:
        is_steps = dataloader.dataset is self.__dict__.get("steps")
        return len(self.train_dataset) if is_steps else super().num_examples(dataloader)

    def floating_point_ops(self, inputs: Any) -> float:
        if isinstance(inputs, dict):
            return super().floating_point_ops(inputs)
        num_tokens = sum(micro_batch["model_inputs"]["input_ids"].numel() for micro_batch in inputs)
        return 6 * num_tokens * self.num_parameters

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

        def step(batch: dict[str, Any], is_last: bool) -> tuple[torch.Tensor, torch.Tensor]:
            # Gradients are averaged over ranks, but the loss is a sum over the traces of all ranks.
            return self._forward_backward(model, batch, self.args.world_size, is_last)

        total, sums = self._add_up(inputs, step)
        self._check_and_record(sums, inputs[0]["rows"])
        return total

    def _add_up(
        self, micro_batches: list[dict[str, Any]], run: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs a step's micro-batches: this rank's loss, and the sums of all ranks, see `TraceTrainer`."""
        micro_batches = send_to_device(micro_batches, self.args.device)  # Trainer's way rounds for DeepSpeed
        sums = torch.zeros(micro_batches[0]["num_problems"], 2, 4, device=self.args.device)
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(micro_batches, 1):
            loss, scores = run(batch, number == len(micro_batches))
            total += loss
            _add_to_sums(sums, batch, scores)
        return total, self.accelerator.reduce(sums, reduction="sum").cpu()

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
                loss, scores = self._trace_loss(model, batch)  # scalar, (traces, 2)
                loss = loss * factor
            self.accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))
        return loss.detach(), scores

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
        """The loss of a micro-batch; of its traces log p(y|x) and how many tokens are the likeliest, `(traces, 2)`."""
        segments = batch["segments"]  # (S,)
        coefficients = batch["coefficients"][segments]
        loss, logps, is_top1 = model(
            **batch["model_inputs"],
            positions=batch["positions"],
            targets=batch["targets"],
            coefficients=coefficients.view(torch.int32),  # see `add_scoring`
        )
        logps = logps.view(torch.float32)
        terms = token_terms(logps, coefficients, self.negative_term)
        loss = loss + ((coefficients * terms).sum() - loss).detach()  # FSDP2 has rounded it
        scores = torch.zeros(len(batch["coefficients"]), 2, device=logps.device)
        return loss, scores.index_add(0, segments, torch.stack([logps, is_top1.float()], dim=1))

    @torch.no_grad()
    def _check_and_record(self, sums: torch.Tensor, rows: list[int]) -> None:
        """Records the metrics of a global batch; see `TraceTrainer`.

        Raises:
            FloatingPointError: a log-probability is NaN or infinite. Raised on all ranks, before the optimizer step.
        """
        wrong = (~torch.isfinite(sums)).flatten(1).any(dim=1).nonzero()[:, 0].tolist()
        if wrong:
            names = [self.train_dataset[rows[i]].get(NAME, f"row {rows[i]}") for i in wrong[:8]]
            names += [f"{len(wrong) - 8} more"] * (len(wrong) > 8)
            raise FloatingPointError(
                f"NaN or infinite log-probability in step {self.state.global_step + 1}; batch: {', '.join(names)}"
            )
        self._record(sums, rows)
        self._count_tokens(sum(sum(self.steps.lengths[row]) for row in rows))

    # --- held-out rows ---------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self.eval_dataset[rows] if isinstance(rows, str) else rows
        if rows is None or not self.scores_traces:
            return super().get_eval_dataloader(eval_dataset)
        steps = StepDataset(
            rows,
            global_batch_size=self.args.per_device_eval_batch_size * self.args.world_size,
            num_micro_batches=1,
            max_tokens=self.args.max_tokens_per_micro_batch,
            max_length=self.args.max_length,
            chosen_weight=self.weights[0],
            alpha=self.weights[1],
            keeps_negatives=True,
            cost=step_cost(math.inf),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
            pack=self.packs,
            pad_token_id=self._tokenizer.pad_token_id,
            seed=self.args.seed,
        )
        # With a generator, the loader does not draw from the random numbers of training.
        return DataLoader(
            steps, collate_fn=itemgetter(0), num_workers=self.args.dataloader_num_workers, generator=torch.Generator()
        )

    def prediction_step(
        self, model: torch.nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        if not self.scores_traces:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if not prediction_loss_only:
            raise ValueError("`compute_metrics` is not supported: no logits are computed")
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, sums = self._add_up(inputs, lambda batch, _: self._trace_loss(model, batch))
        self.held_out.append((self.accelerator.reduce(loss, reduction="sum").cpu(), sums, inputs[0]["rows"]))
        return loss, None, None

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        self.held_out: list[tuple[torch.Tensor, torch.Tensor, list[int]]] = []
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        if not self.held_out:
            return output
        losses, sums, rows = zip(*self.held_out, strict=True)
        self._record(torch.cat(sums), sum(rows, []))
        # A batch's loss is a mean: over its scored tokens in SFT, otherwise over its problems.
        is_sft = dataloader.dataset.num_scored is not None
        weights = torch.stack([batch[:, 1, 2].sum() if is_sft else torch.tensor(1.0 * len(batch)) for batch in sums])
        loss = (torch.stack([*map(self._held_out_loss, losses, sums)]) * weights).sum() / weights.sum()
        output.metrics[f"{metric_key_prefix}_loss"] = loss.item()
        return output._replace(num_samples=len(dataloader.dataset.problems))

    def _held_out_loss(self, loss: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """The loss of a global batch from that of its traces and their sums."""
        return loss


def _add_to_sums(sums: torch.Tensor, batch: dict[str, Any], scores: torch.Tensor) -> None:
    """Adds a micro-batch's traces to the sums of `TraceTrainer`, `(N, 2, 4)`; scores as `_trace_loss` returns them."""
    lengths = batch["num_scored"].float()[:, None]
    columns = torch.cat([scores / lengths.clamp(min=1), lengths, torch.ones_like(lengths)], dim=1)
    index = (batch["problems"], batch["is_chosen"].long())
    sums.index_put_(index, columns * batch["shares"][:, None], accumulate=True)


def as_dataset(rows: list[dict[str, Any]]) -> Dataset:
    """Rows as a `Dataset`. `Dataset.from_list` would leave out the keys that the first row does not have."""
    return Dataset.from_dict(
        {key: [row.get(key) for row in rows] for key in dict.fromkeys(k for row in rows for k in row)}
    )
