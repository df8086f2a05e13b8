"""REDI: Reinforcement Distillation (https://huggingface.co/papers/2505.24850) on TRL.

`REDIConfig` and `REDITrainer` are imported on first use, so importing `redi.data` or `redi.evaluation` does not load
TRL.
"""

import os
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redi.config import REDIConfig
    from redi.trainer import REDITrainer

if os.path.expanduser("~") == "~":  # no HOME and no passwd entry, in containers: caches would go to a folder named `~`
    os.environ["HOME"] = os.path.join(tempfile.gettempdir(), f"redi-{os.getuid()}")
    os.environ.setdefault("USER", str(os.getuid()))  # torch asks for a name as well

__all__ = ["REDIConfig", "REDITrainer"]


def __getattr__(name: str) -> Any:
    if name == "REDIConfig":
        from redi.config import REDIConfig

        return REDIConfig
    if name == "REDITrainer":
        from redi.trainer import REDITrainer

        return REDITrainer
    raise AttributeError(f"module 'redi' has no attribute {name!r}")
