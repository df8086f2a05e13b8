"""Trainer callbacks: the collapse guard, the norm of updates, epochs of the engine, and how runs end."""

import math
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.logging import get_logger
from transformers import TrainerCallback, TrainerControl, TrainingArguments

from redi.config import REDIConfig
from redi.engine.batching import StepDataset

logger = get_logger(__name__)


# --- collapse guard --------------------------------------------------------------------------------------------------


@dataclass
class Collapse:
    """A collapse found by `find_collapse`. LogPS are in nats per token; norms are as logged, before clipping.

    Attributes:
        step, last_good_step: the last logged step, and the last whose chosen LogPS was above the threshold.
        logps, logps_at_start: chosen LogPS at `step`, and its mean over the reference window.
        grad_norm, grad_norm_at_start: the highest median over a few logged steps, and that of the reference window.
    """

    step: int
    last_good_step: int
    logps: float
    logps_at_start: float
    grad_norm: float
    grad_norm_at_start: float

    def __str__(self) -> str:
        return (
            f"collapse at step {self.step}: logps/chosen {self.logps:.2f} nats per token, at the start "
            f"{self.logps_at_start:.2f}; grad_norm up to {self.grad_norm:.3g}, at the start "
            f"{self.grad_norm_at_start:.3g}. Lower learning_rate or alpha and train again; checkpoints up to step "
            f"{self.last_good_step} predate the collapse"
        )


def find_collapse(
    history: list[dict[str, float]], *, drop: float, ratio: float, window: int, patience: int
) -> Collapse | None:
    """Checks whether the last logged steps are a collapse in the sense of https://huggingface.co/papers/2505.24850.

    In the paper's collapse, both LogPS plunge together while the norm surges. A slow decline of both is benign, even
    with a growing gradient norm. A run has collapsed if both hold:

    - in each of the last `patience` logged steps, chosen LogPS is more than `drop` below its mean over the first
      `window` steps;
    - at some point after the window, the median gradient norm over `patience` steps has reached `ratio` times its
      median over the window. It may have fallen since: a collapsed model can be calm again.

    The rule uses the gradient norm, not `update_norm`, because AdamW's update follows the learning rate schedule: in
    the quickstart's collapse the gradient norm rises six-fold, and the update falls by a quarter.

    Args:
        history: `log_history` of the trainer's state. Checkpoints contain it, so the window survives a resume.
        drop: nats per token.
        ratio: factor between gradient norms.
        window, patience: numbers of logged steps.
    """
    logs = [log for log in history if "logps/chosen" in log and log.get("grad_norm") is not None]
    start, later = logs[:window], logs[window:]
    if len(later) < patience:
        return None
    last = later[-patience:]
    logps_at_start = fmean(log["logps/chosen"] for log in start)
    grad_norm_at_start = median(log["grad_norm"] for log in start)
    threshold = logps_at_start - drop
    if max(log["logps/chosen"] for log in last) >= threshold:
        return None
    norms = [log["grad_norm"] for log in later]
    grad_norm = max(median(norms[i : i + patience]) for i in range(len(norms) - patience + 1))
    if grad_norm < ratio * grad_norm_at_start:
        return None
    return Collapse(
        step=last[-1]["step"],
        last_good_step=max(log["step"] for log in logs if log["logps/chosen"] >= threshold),
        logps=last[-1]["logps/chosen"],
        logps_at_start=logps_at_start,
        grad_norm=grad_norm,
        grad_norm_at_start=grad_norm_at_start,
    )


def why_guard_never_stops(args: TrainingArguments, steps: int, epochs: float) -> str | None:
    """Why `collapse_guard: stop` can never stop a run of so many steps and epochs; None if it can, or is not set."""
    if getattr(args, "collapse_guard", None) != "stop":
        return None
    every = args.logging_steps if args.logging_steps >= 1 else math.ceil(args.logging_steps * steps)
    logs = {"no": 0, "epoch": math.ceil(epochs)}.get(args.logging_strategy.value, steps // max(1, int(every)))
    logs += args.logging_first_step and args.logging_strategy.value != "no" and every > 1
    needed = args.collapse_window + args.collapse_patience
    if logs >= needed:
        return None
    return (
        f"collapse_guard=stop can never stop this run: it needs {needed} logged steps (collapse_window="
        f"{args.collapse_window} + collapse_patience={args.collapse_patience}), but {steps} steps log {logs} times; "
        "lower logging_steps"
    )


class CollapseGuard(TrainerCallback):
    """Warns once that the run has collapsed. With `collapse_guard="stop"`, also ends it without another checkpoint.

    Attributes:
        collapse: the collapse, or None. Set at most once.
    """

    def __init__(self, args: REDIConfig):
        self.stops = args.collapse_guard == "stop"
        self.rule = dict(drop=args.collapse_logps_drop, ratio=args.collapse_grad_norm_ratio)
        self.rule |= dict(window=args.collapse_window, patience=args.collapse_patience)
        self.collapse: Collapse | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if reason := why_guard_never_stops(args, state.max_steps, state.num_train_epochs):
            logger.warning(reason)

    def on_log(self, args, state, control, logs=None, **kwargs):
        # Every rank logs the same reduced numbers, so all ranks decide alike.
        if self.collapse is None and "logps/chosen" in (logs or {}):
            self.collapse = find_collapse(state.log_history, **self.rule)
            if self.collapse is not None:
                logger.warning(str(self.collapse))
        self._stop(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        self._stop(control)  # the Trainer requests a checkpoint here even if it was told to stop

    def _stop(self, control: TrainerControl) -> None:
        if self.stops and self.collapse is not None:
            control.should_training_stop = True
            control.should_save = control.should_evaluate = False


# --- update norm -----------------------------------------------------------------------------------------------------


class UpdateNorm(TrainerCallback):
    """Logs `update_norm`: the L2 norm of the change that an optimizer step makes to the trainable parameters.

    This is the paper's gradient step size, computed on the optimizer's own parameters: the float32 master weights
    if they exist, and this rank's shard under ZeRO and FSDP2. It costs one copy of them, and one pass per step.

    Raises:
        ValueError: the parameters are sharded by FSDP version 1, which is not supported here.
    """

    def __init__(self, accelerator: Accelerator, metrics: dict[str, list[float]]):
        kind = accelerator.distributed_type
        if kind == DistributedType.FSDP and accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise ValueError("log_update_norm=True does not read fsdp_version: 1; use configs/accelerate/fsdp2.yaml")
        self.has_flat_shards = kind == DistributedType.DEEPSPEED
        self.accelerator = accelerator
        self.metrics = metrics
        self.before: list[torch.Tensor] = []

    # DeepSpeed updates inside the backward pass, before `on_pre_optimizer_step`, so the full step is compared.
    @torch.no_grad()
    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        parameters = _parameters(optimizer)
        if not self.before:
            self.before = [torch.empty_like(parameter) for parameter in parameters]
        for before, parameter in zip(self.before, parameters, strict=True):
            before.copy_(parameter)

    @torch.no_grad()
    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        total = torch.zeros((), device=self.accelerator.device)
        for before, parameter in zip(self.before, _parameters(optimizer), strict=True):
            change = before.sub_(parameter)
            square = (change * change).sum(dtype=torch.float32)
            if isinstance(square, torch.distributed.tensor.DTensor):
                square = square.full_tensor()
            total += square.to(total.device)
        if self.has_flat_shards:
            total = self.accelerator.reduce(total, reduction="sum")
        self.metrics["update_norm"].append(math.sqrt(total.item()))


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The parameters that the optimizer updates: all trainable ones, or under ZeRO this rank's flat float32 shards."""
    # ZeRO-3 hands its shards to the optimizer one at a time, and only during the step.
    shards = getattr(getattr(optimizer, "optimizer", None), "fp32_partitioned_groups_flat", None)
    return shards or [parameter for group in optimizer.param_groups for parameter in group["params"]]


class SetEpoch(TrainerCallback):
    """Tells the `StepDataset` which epoch begins, also in a resumed run."""

    def __init__(self, steps: StepDataset):
        self.steps = steps

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.steps.set_epoch(int((state.epoch or 0.0) + 1e-6))


# --- ends of a run ---------------------------------------------------------------------------------------------------


class StopOnSignal(TrainerCallback):
    """Context manager: SIGTERM (a pre-empted job) or Ctrl-C saves a checkpoint after the current step and ends there.

    A second Ctrl-C kills the process, unless it was started with SIGINT ignored: `recipes/watch.sh`, which does so,
    repeats the first. `enable_jit_checkpoint` of transformers 5.19 serves a single process only, and may save in the
    middle of a step. Launchers kill their workers 30 s after a signal: if a step plus a checkpoint take longer, the
    run resumes from the previous checkpoint.

    Attributes:
        stopped: the number of the signal that stopped the training, or 0; the same on all ranks.
    """

    def __init__(self):
        self._received = self.stopped = 0  # by this rank, and by any

    def __enter__(self) -> "StopOnSignal":
        self._pid = os.getpid()
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # a worker of the data loader, which has inherited the handler
            return
        is_ignored = self._previous[signal.SIGINT] == signal.SIG_IGN
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
        is_first, self._received = not self._received, self._received or number
        if is_first and os.environ.get("LOCAL_RANK", "0") == "0":
            line = f"\n{name_of(number)}: finishing this step, then saving"
            line += "; a second Ctrl-C ends the run at once\n" if number == signal.SIGINT else "\n"
            with suppress(OSError):
                os.write(2, line.encode())  # print is not safe in a signal handler

    def on_step_end(self, args: TrainingArguments, state, control, **kwargs):
        self.stopped = self._received
        if args.world_size > 1:
            # The scheduler may signal a single process, or the others a step later. A checkpoint needs all of them.
            received = torch.tensor(float(self.stopped), device=args.device)
            torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
            self.stopped = int(received.item())
        if self.stopped:
            control.should_save = control.should_training_stop = True
            control.should_evaluate &= state.global_step >= state.max_steps

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopped and state.global_step < state.max_steps:  # the Trainer ends an epoch that is stopped, too
            control.should_save = control.should_evaluate = False


def name_of(number: int) -> str:
    """What a person calls a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def why_rate_jumps(args: TrainingArguments, planned: int | None, steps: int, done: int) -> str | None:
    """What another number of steps than planned does to the learning rate; None if nothing."""
    if planned in (None, steps) or args.lr_scheduler_type in ("constant", "constant_with_warmup"):
        return None
    return (
        f"the learning rate jumps after step {done}: the run had {planned} steps and now has {steps}, and "
        f"lr_scheduler_type={args.lr_scheduler_type.value} follows the new number from there"
    )


class AlreadyTrained(Exception):
    """Training was resumed from the checkpoint of its last step, so nothing is left to train."""


class SkipTrained(TrainerCallback):
    """Raises `AlreadyTrained` if no step is left: a run killed after its last checkpoint, before its manifest.

    The Trainer would make one more step if `max_steps` ends within an epoch. Also says that a resumed run has another
    length than `planned`, its steps when the checkpoint was written (None without one): its learning rate jumps.
    """

    def __init__(self, planned: int | None = None):
        self.planned = planned

    def on_train_begin(self, args, state, control, **kwargs):
        if reason := why_rate_jumps(args, self.planned, state.max_steps, state.global_step):
            logger.warning(reason)
        if 0 < state.max_steps <= state.global_step:
            raise AlreadyTrained
