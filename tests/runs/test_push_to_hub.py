"""push_to_hub: the finished model with its card, by the real client to a stand-in for the Hub on this machine."""

import os
import subprocess
import sys
import threading

import pytest
from datasets import Dataset
from helpers.hub_server import HubServer
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs
from safetensors.torch import load

COMMAND = [sys.executable, str(REPOSITORY / "scripts" / "train_redi.py"), "--use_cpu", "true", "--bf16", "false"]
STEPS = ["--max_steps", "2", "--save_steps", "1", "--gradient_checkpointing", "false", "--disable_tqdm", "true"]


@pytest.fixture()
def hub():
    server = HubServer({}, {})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def train(hub, model_path, tmp_path, *options: str) -> subprocess.CompletedProcess:
    Dataset.from_list(make_pairs(8)).to_parquet(tmp_path / "pairs.parquet")
    paths = ["--model_name_or_path", model_path, "--dataset_name", str(tmp_path / "pairs.parquet")]
    paths += ["--output_dir", str(tmp_path / "out"), "--push_to_hub", "true", "--hub_model_id", "me/student"]
    address = f"http://127.0.0.1:{hub.server_port}"
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_TOKEN": "hf_of_this_test", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*COMMAND, *STEPS, *paths, *options], env=environment, capture_output=True, text=True, timeout=240
    )


def test_what_is_finished_is_pushed_once_with_its_card(hub, model_path, tmp_path):
    options = ["--lora_r", "2", "--lora_target_modules", "q_proj"]
    result = train(hub, model_path, tmp_path, *options)
    assert result.returncode == 0, result.stderr[-3000:]
    files, out = hub.pushed["me/student"], tmp_path / "out"
    assert "pushed to me/student" in result.stdout and not [name for name in files if name.startswith("checkpoint-")]
    for name in ("model.safetensors", "manifest.json", "README.md", "tokenizer.json", "adapter/adapter_config.json"):
        assert files[name] == (out / name).read_bytes(), name
    assert b"| `lora_r` | `2` |" in files["README.md"]
    assert not [name for name in load(files["model.safetensors"]) if "lora" in name]  # merged


def test_a_hub_that_refuses_is_one_line_and_exit_code_2(hub, model_path, tmp_path):
    hub.pushed = None  # every request fails
    result = train(hub, model_path, tmp_path)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: push_to_hub=True: ") and "hf auth login" in line
    result = train(hub, model_path, tmp_path, "--hub_strategy", "every_save")
    assert "error: hub_strategy is not read: push_to_hub pushes the final model" in result.stderr
