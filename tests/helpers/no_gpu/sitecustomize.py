"""Python reads this at its start where the folder is on PYTHONPATH."""

import os

if os.environ.get("ACCELERATE_USE_FSDP") == "true":  # in the processes that `accelerate launch` starts
    import accelerators

    accelerators.pretend()
