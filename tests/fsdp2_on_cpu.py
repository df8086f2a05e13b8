"""torchrun ... tests/fsdp2_on_cpu.py SCRIPT [OPTIONS]: runs a script under configs/accelerate/fsdp2.yaml, on CPU.

accelerate turns to FSDP only where it sees accelerators, so it is told that the processes have some.
"""

import os
import runpy
import sys

import yaml
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from conftest import REPOSITORY
from transformers import PreTrainedModel

settings = yaml.safe_load((REPOSITORY / "configs/accelerate/fsdp2.yaml").read_text())["fsdp_config"]
os.environ["ACCELERATE_USE_FSDP"] = "true"  # what `accelerate launch` makes of the file
os.environ.update({name.upper(): str(value) for name, value in settings.items()})

original = PartialState.__init__


def with_accelerators(self, *args, **kwargs):
    original(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


loaded = []
load = PreTrainedModel.from_pretrained.__func__
PreTrainedModel.from_pretrained = classmethod(lambda *args, **kwargs: loaded.append(1) or load(*args, **kwargs))
PartialState.__init__ = with_accelerators
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert AcceleratorState().distributed_type == DistributedType.FSDP
assert len(loaded) == 1, "a reference model was loaded"
