"""Golden trajectories: loss and gradient norm of 20 steps of each stage on the tiny Qwen2.

`python tests/helpers/golden.py "REASON"`, with tests/ in PYTHONPATH, records them anew, with the reason and the
versions. Nothing else does.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset

from helpers.commands import arguments, log_of
from helpers.paths import REPOSITORY
from helpers.tiny import make_model, make_pairs, make_tokenizer

FILE = REPOSITORY / "tests/method/golden.json"
STAGES = {"sft": "train_sft.py", "redi": "train_redi.py", "dpo": "train_dpo.py", "simpo": "train_redi.py"}
SPLITS = {"8x1": (1, 8, 1), "1x8": (1, 1, 8), "2 ranks x 4": (2, 4, 1)}  # processes, rows per device, accumulation
KEYS = ("loss", "grad_norm")


def inputs(folder: Path) -> tuple[str, str]:
    """The tiny model, and 16 rows that are both pairs and positives."""
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{**row, "messages": row["prompt"] + row["chosen"]} for row in make_pairs(16)]
    Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    return str(folder / "model"), str(folder / "rows.parquet")


def trajectory(stage: str, split: str, model_path: str, rows_file: str, folder: Path) -> dict[str, list[float]]:
    """Loss and gradient norm of each of the 20 steps on global batches of 8."""
    processes, per_device, accumulation = SPLITS[split]
    options = ["--max_steps", "20", "--per_device_train_batch_size", str(per_device)]
    options += ["--gradient_accumulation_steps", str(accumulation), *["--objective", "simpo"] * (stage == "simpo")]
    argv = arguments(model_path, rows_file, folder, *options)
    if processes == 1:
        from redi.training import train

        train(stage, argv)
    else:
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
        script = str(REPOSITORY / "scripts" / STAGES[stage])
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launcher, script, *argv], env=environment, check=True, capture_output=True)
    return {key: [entry[key] for entry in log_of(folder)] for key in KEYS}


def record(reason: str) -> None:
    with TemporaryDirectory() as folder:
        paths = inputs(Path(folder))
        trajectories = {stage: trajectory(stage, "8x1", *paths, Path(folder) / stage) for stage in STAGES}
    versions = {name: version(name) for name in ("torch", "transformers", "trl", "accelerate")}
    rounded = {
        stage: {key: [float(f"{value:.6g}") for value in values] for key, values in found.items()}
        for stage, found in trajectories.items()
    }
    text = json.dumps({"reason": reason, "versions": versions, "trajectories": rounded})
    FILE.write_text(text.replace('"sft":', '\n"sft":').replace('"loss":', '\n  "loss":') + "\n")


def main(argv: list[str]) -> None:
    if len(argv) != 1 or not argv[0].strip():
        sys.exit('error: give the reason for recording: python tests/helpers/golden.py "REASON"')
    record(argv[0])


if __name__ == "__main__":
    main(sys.argv[1:])
