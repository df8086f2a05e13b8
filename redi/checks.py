"""What every trainer checks: the model before the first step, losses and gradients at each step, weights at a save."""

import math
import os
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from torch.distributed.tensor import DTensor

from redi.engine.agreement import check_head, choose_layout, short_traces

logger = get_logger(__name__)


class CheckedTrainer:
    """Mixin for trainers of transformers 5.19, named before the trainer in the list of bases.

    - `_prepare_for_training`: the loaded model is compared with itself on single traces (`redi.engine.agreement`).
    - `training_step`, `_get_grad_norm`: a loss or gradient norm that is NaN or infinite ends the training before the
      optimizer's step. DeepSpeed steps inside `backward`, so there it ends right after the step.
    - `save_model`: weights that are NaN or infinite are not saved.
    - `_save`: training_args.bin holds no `hub_token`.

    All ranks end alike, with a `FloatingPointError`. In float16 with a gradient scaler, infinite gradients are normal:
    the scaler skips the step.
    """

    layouts: tuple[str, ...] = ("padded",)  # in which the trainer can give traces to the model, the best first
    has_own_head = False  # whether `redi.engine.logprobs.add_scoring` computes its log-probabilities

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> tuple[torch.nn.Module, Any]:
        note = getattr(self.args, "cpu_note", "")
        if note and self.accelerator.is_main_process and "REDI_LAUNCH_FILE" not in os.environ:  # train.sh has said it
            print(note, flush=True)
        prepared = super()._prepare_for_training(*args, **kwargs)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        model = model.get_base_model() if is_peft_model(model) else model
        traces = short_traces(self.processing_class)
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision, model.dtype)
        layout, reason = choose_layout(prepared[0], model, traces, precision, self.layouts)
        if self.has_own_head:
            check_head(prepared[0], model, traces, precision)
        if reason:
            logger.warning(f"traces are padded, not packed: {reason}")
        self._use_layout(layout)
        return prepared

    def _use_layout(self, layout: str) -> None:
        """Called before the first batch is made."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self._loss_of_step = self.__dict__.get("_loss_of_step", 0.0) + loss.detach()
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        scaled = self.accelerator.mixed_precision == "fp16"
        number = 0.0 if norm is None or scaled else float(norm)
        loss = float(self.__dict__.pop("_loss_of_step", 0.0))
        # DeepSpeed reports -1 for a norm that is not finite.
        self._require_finite(math.isfinite(number) and number >= 0 and math.isfinite(loss), "loss or gradient norm")
        return norm

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        norms = []
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                shard = getattr(parameter, "ds_tensor", parameter).detach()
                shard = shard.to_local() if isinstance(shard, DTensor) else shard
                norms.append(torch.linalg.vector_norm(shard, dtype=torch.float32))
        self._require_finite(not norms or torch.stack(norms).isfinite().all().item(), "weights")
        super().save_model(*args, **kwargs)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(*args, **kwargs)
        finally:
            self.args.hub_token = token

    def _require_finite(self, is_finite: bool, what: str) -> None:
        if self.args.world_size > 1:
            wrong = torch.tensor(float(not is_finite), device=self.args.device)
            torch.distributed.all_reduce(wrong, op=torch.distributed.ReduceOp.MAX)
            is_finite = not wrong.item()
        if not is_finite:
            raise FloatingPointError(
                f"NaN or infinite {what} after {self.state.global_step} steps; nothing was saved from then on: lower "
                f"learning_rate={self.args.learning_rate:g}, or look for damaged rows or weights"
            )
