"""REDI: Reinforcement Distillation (https://huggingface.co/papers/2505.24850) on TRL.

`REDIConfig` and `REDITrainer` are imported on first use, so importing `redi.data` or `redi.evaluation` does not load
TRL.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redi.config import REDIConfig
    from redi.trainer import REDITrainer

__all__ = ["REDIConfig", "REDITrainer"]


def __getattr__(name: str) -> Any:
    if name == "REDIConfig":
        from redi.config import REDIConfig

        return REDIConfig
    if name == "REDITrainer":
        from redi.trainer import REDITrainer

        return REDITrainer
    raise AttributeError(f"module 'redi' has no attribute {name!r}")
