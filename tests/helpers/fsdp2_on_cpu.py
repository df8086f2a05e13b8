"""torchrun ... tests/helpers/fsdp2_on_cpu.py SCRIPT [OPTIONS]: runs a script under fsdp2.yaml on CPU processes."""

import os
import runpy
import sys
from pathlib import Path

import yaml
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from no_gpu import accelerators
from transformers import PreTrainedModel

repository = Path(__file__).parents[2]
settings = yaml.safe_load((repository / "configs/accelerate/fsdp2.yaml").read_text())["fsdp_config"]
os.environ["ACCELERATE_USE_FSDP"] = "true"  # `accelerate launch` turns the file into these variables
os.environ.update({name.upper(): str(value) for name, value in settings.items()})

loaded = []
load = PreTrainedModel.from_pretrained.__func__
PreTrainedModel.from_pretrained = classmethod(lambda *args, **kwargs: loaded.append(1) or load(*args, **kwargs))
accelerators.pretend()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert AcceleratorState().distributed_type == DistributedType.FSDP
assert len(loaded) == 1, "a reference model was loaded"
