"""What can be sampled from, what is refused before any weights are loaded, and the order of requests."""

import re

import pytest
from helpers.evaluation import REPOSITORY, build_model

from redi.evaluation.generation.requests import Prompt, group_by_prompt, load_model, make_requests
from redi.runs.errors import UsageError
from redi.text.prompts import read_chat_template


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "is not a model: it has no config.json"),
        ("model.safetensors", "has no weights (*.safetensors) in it"),
        ("tokenizer.json", "has no tokenizer in it"),
    ],
)
def test_a_folder_that_is_not_a_model_is_refused(tmp_path, missing, message):
    model = build_model(tmp_path / "model")
    (model / missing).unlink()
    with pytest.raises(UsageError, match=re.escape(message)):
        load_model(str(model))


def test_weights_that_are_cut_off_or_an_adapter_are_refused(tmp_path):
    model = build_model(tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UsageError, match="model.safetensors is damaged or cut off"):
        load_model(str(model))
    (model / "config.json").rename(model / "adapter_config.json")
    with pytest.raises(UsageError, match="is a LoRA adapter; merge it"):
        load_model(str(model))


def test_a_chat_template_is_needed_and_can_be_given(tmp_path):
    model = build_model(tmp_path / "model")
    (model / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="has no chat template; pass --chat-template with a .jinja file or a name"):
        load_model(str(model))
    for template in ("chatml", str(REPOSITORY / "configs" / "chat_templates" / "chatml.jinja")):
        assert load_model(str(model), chat_template=template).tokenizer.chat_template == read_chat_template("chatml")
    assert not (model / "chat_template.jinja").exists()  # the model's folder is not changed


def test_a_model_of_the_hub_is_identified_by_its_commit(tmp_path, monkeypatch):
    """From the Hub's cache, as it is on disk after a download."""
    commit, cache = "c" * 40, tmp_path / "hub" / "models--owner--tiny"
    build_model(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = load_model("owner/tiny")
    assert model.identity == f"hub:owner/tiny@{commit}"
    assert load_model("owner/tiny", revision=commit).identity == model.identity
    with pytest.raises(UsageError, match="--revision main is for a Hub id"):
        load_model(model.path, revision="main")


def test_samples_are_laid_out_so_that_a_larger_n_only_appends():
    a, b = (Prompt("small", name, "", (), 8, name) for name in "ab")
    requests = make_requests([a, b], 2)
    assert requests == [(a, 0), (b, 0), (a, 1), (b, 1)]
    assert make_requests([a, b], 3)[:4] == make_requests([a, b], 2)
    assert group_by_prompt([requests[0], requests[1], requests[3]]) == [[(a, 0)], [(b, 0), (b, 1)]]
