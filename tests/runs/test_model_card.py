"""The model card of a finished run."""

import pytest
from helpers.commands import arguments, log_of
from huggingface_hub import ModelCard

from redi.runs.errors import UsageError
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
