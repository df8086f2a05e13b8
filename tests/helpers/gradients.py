"""[launcher] tests/helpers/gradients.py STAGE FILE [OPTIONS]: trains one step of SGD; FILE gets its gradients.

The gradients are those that the optimizer applied: the change of the float32 master weights, over the learning rate.
"""

import sys
from dataclasses import replace
from functools import partial

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from redi.job import read_job
from redi.training import run_training

OPTIONS = ["--optim", "sgd", "--learning_rate", "1", "--lr_scheduler_type", "constant", "--max_grad_norm", "1e9"]
OPTIONS += ["--max_steps", "1", "--gradient_checkpointing", "true"]


class AppliedGradients(TrainerCallback):
    def __init__(self, file: str):
        self.file = file

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = master_weights(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        after = master_weights(model)
        if args.process_index == 0:
            torch.save({name: self.before[name] - after[name] for name in after}, self.file)


def master_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    weights = {}
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id"):
            from deepspeed.utils import safe_get_full_fp32_param

            full = safe_get_full_fp32_param(parameter)
        else:
            full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        assert full.dtype == torch.float32, (name, full.dtype)
        weights[name.replace("_checkpoint_wrapped_module.", "")] = full.detach().clone()
    return weights


if __name__ == "__main__":
    stage, file, *argv = sys.argv[1:]
    job = read_job(stage, argv + OPTIONS)
    trainer = partial(job.stage.trainer, callbacks=[AppliedGradients(file)])
    run_training(replace(job, stage=replace(job.stage, trainer=trainer)))
