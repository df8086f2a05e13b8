"""push_to_hub: the finished model with its card, by the real client to a stand-in for the Hub on this machine."""

import threading

import pytest
import transformers
from helpers.commands import arguments
from helpers.hub_server import HubServer
from huggingface_hub import constants, hf_api
from safetensors.torch import load

from redi import training
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint
from redi.training import train

PUSH = ["--push_to_hub", "true", "--hub_model_id", "me/student"]


@pytest.fixture()
def hub(monkeypatch):
    server = HubServer({}, {})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for client in (hf_api.api, transformers.utils.hub.hf_api()):
        monkeypatch.setattr(client, "endpoint", address)
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    yield server
    server.shutdown()


def test_a_finished_model_is_pushed_once_with_its_card(hub, model_path, rows_file, tmp_path, capsys):
    out = tmp_path / "out"
    options = [*PUSH, "--lora_r", "2", "--lora_target_modules", "q_proj"]
    options += ["--save_strategy", "steps", "--save_steps", "1"]
    train("redi", arguments(model_path, rows_file, out, *options))
    files = hub.pushed["me/student"]
    assert "pushed to me/student" in capsys.readouterr().out
    assert (out / "checkpoint-2").is_dir() and not [name for name in files if name.startswith("checkpoint-")]
    for name in ("model.safetensors", "manifest.json", "README.md", "tokenizer.json", "adapter/adapter_config.json"):
        assert files[name] == (out / name).read_bytes(), name
    assert b"`lora_r`" in files["README.md"]
    assert not [name for name in load(files["model.safetensors"]) if "lora" in name]  # merged


def test_a_hub_that_refuses_is_a_user_error(hub, model_path, rows_file, tmp_path):
    hub.pushed = None  # every request fails
    with pytest.raises(UsageError, match="(?s)push_to_hub=True: .* set hub_model_id and log in with `hf auth login`"):
        train("redi", arguments(model_path, rows_file, tmp_path / "out", *PUSH))


def test_a_push_that_failed_is_repeated_by_the_same_command(hub, model_path, rows_file, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    argv = arguments(model_path, rows_file, out, *PUSH)

    with monkeypatch.context() as patch:
        patch.setattr(training, "upload_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("redi", argv)
    assert (out / "manifest.json").is_file() and not hub.pushed["me/student"]
    before = fingerprint(out)
    train("redi", [*argv, "--check_only", "true"])
    assert not hub.pushed["me/student"]
    train("redi", [*argv, "--tokenize_only", "true"])  # as train.sh begins
    assert hub.pushed["me/student"]["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert "pushed to me/student" in capsys.readouterr().out
    assert not [name for name in hub.pushed["me/student"] if name.startswith(".")]
    assert fingerprint(out) == before  # a run that started from it meanwhile can still resume
    hub.pushed["me/student"].clear()
    train("redi", argv)
    assert not hub.pushed["me/student"]


def interrupted(**_):
    raise KeyboardInterrupt
