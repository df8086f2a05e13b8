"""Python imports this at its start if the folder is on PYTHONPATH."""

import os

if os.environ.get("ACCELERATE_USE_FSDP") == "true":  # in the processes that `accelerate launch` starts
    import accelerators

    accelerators.pretend()
