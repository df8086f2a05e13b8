"""Names of models and datasets on the Hugging Face Hub."""

import re
from pathlib import Path

OUTPUT_FOLDERS = ("data", "models", "runs")


def is_hub_id(name: str) -> bool:
    """Whether a name may be a Hub id: `owner/name`, or `owner/name@REVISION`.

    A path that exists is not, nor is a data file, nor a folder that the recipes are yet to make, such as `data/pairs`:
    a stranger may own that name on the Hub.
    """
    match = re.fullmatch(r"([\w.-]+)/[\w.-]+(@.+)?", name)
    if match is None or name.endswith((".parquet", ".jsonl")) or Path(name).exists():
        return False
    return match[1] not in OUTPUT_FOLDERS and not Path(match[1]).exists()
