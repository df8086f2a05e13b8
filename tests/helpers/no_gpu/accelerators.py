"""Tells accelerate that CPU processes have accelerators, because it uses FSDP only with accelerators."""

from accelerate.state import PartialState
from accelerate.utils import DistributedType


def pretend() -> None:
    original = PartialState.__init__

    def with_accelerators(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = with_accelerators
