"""The model card of a finished run."""

import json

import pytest
from helpers.commands import arguments, log_of
from huggingface_hub import ModelCard

from redi.runs.errors import UsageError
from redi.runs.manifest import read_manifest
from redi.runs.model_card import set_scores
from redi.training import train


def test_the_model_card_says_what_was_done_and_takes_scores(model_path, rows_file, tmp_path):
    train("redi", arguments(model_path, rows_file, tmp_path / "o", "--alpha", "0.5"))
    card = ModelCard.load(tmp_path / "o" / "README.md")
    assert card.data.tags == ["redi"] and "| `alpha` | `0.5` |" in " ".join(card.text.split())
    assert f"Trained from `{model_path}` on `{rows_file}`: rows 16, rows trained on 16, steps 2" in card.text
    loss = log_of(tmp_path / "o")[-1]["loss"]
    assert f"| 2 | {loss:.4g} |" in " ".join(card.text.split())
    for scores in ("first", "| benchmark | pass@1 |"):
        set_scores(tmp_path / "o", scores)
    text = (tmp_path / "o" / "README.md").read_text()
    assert "## Scores\n\n| benchmark | pass@1 |\n\n## Versions\n" in text and "first" not in text
    with pytest.raises(UsageError, match="has no model card"):
        set_scores(tmp_path, "x")


def test_manifest_and_card_tell_what_happened_over_resumes(model_path, rows_file, tmp_path):
    """16 rows in steps of 4, cut at 120 tokens: 2 steps see 8 rows; the run is then made longer."""
    options = ["--per_device_train_batch_size", "4", "--max_length", "120", "--save_strategy", "steps"]
    argv = arguments(model_path, rows_file, tmp_path / "o", *options, "--save_steps", "2")
    train("redi", argv)
    manifest = read_manifest(tmp_path / "o")
    counts = manifest["counts"]
    assert (counts["rows"], counts["rows_trained_on"], counts["steps"]) == (16, 8, 2)
    assert counts["positives"] == counts["negatives"] == 16 and 0 < counts["cut"] < 32
    assert [start["after_step"] for start in manifest["starts"]] == [0]
    assert (
        f"steps 2, world size 1, dropped empty 0, dropped long prompt 0, cut {counts['cut']}, positives 16"
        in (tmp_path / "o" / "README.md").read_text()
    )

    record = {"config": manifest["config"], "inputs": manifest["inputs"], "starts": manifest["starts"]}
    (tmp_path / "o" / "started.json").write_text(json.dumps(record))  # as if killed after the second step
    (tmp_path / "o" / "manifest.json").unlink()
    train("redi", [*argv, "--max_steps", "6", "--bf16", "true"])
    manifest = read_manifest(tmp_path / "o")
    assert (manifest["counts"]["rows_trained_on"], manifest["counts"]["steps"]) == (16, 6)
    starts = [(start["after_step"], start["max_steps"], start["bf16"]) for start in manifest["starts"]]
    assert starts == [(0, 2, False), (2, 6, True)]
    card = (tmp_path / "o" / "README.md").read_text()
    assert "Resumed after step 2 with `bf16` False -> True, `max_steps` 2 -> 6." in card


def test_simpo_has_no_alpha(model_path, rows_file, tmp_path):
    argv = arguments(model_path, rows_file, tmp_path / "o", "--objective", "simpo")
    with pytest.raises(UsageError, match="alpha=0.8 is not read with objective='simpo'"):
        train("simpo", [*argv, "--alpha", "0.8"])
    train("simpo", argv)
    assert "`alpha`" not in (tmp_path / "o" / "README.md").read_text()
    assert "alpha" not in read_manifest(tmp_path / "o")["config"]
