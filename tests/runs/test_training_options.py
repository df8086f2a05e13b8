"""What the training scripts add to TRL's trainers: SFT without padding, LoRA, tokenising ahead."""

import json
from pathlib import Path

import datasets
import pytest
import torch
import train_dpo
import train_redi
import train_sft
from datasets import Dataset
from helpers.commands import CPU, STEPS, log_of, weights_of
from helpers.tiny import make_pairs
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from redi.runs.errors import UsageError
from redi.runs.model_card import set_scores
from redi.sft import tokenize_positives


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory) -> str:
    """16 rows that are positives and pairs alike."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    rows = [{**row, "messages": row["prompt"] + row["chosen"]} for row in make_pairs(16)]
    Dataset.from_list(rows).to_parquet(path)
    return str(path)


def arguments(model_path, rows_file, folder, *extra: str) -> list[str]:
    paths = ["--model_name_or_path", model_path, "--dataset_name", rows_file, "--output_dir", str(folder)]
    return [*paths, *CPU, *STEPS, *extra]


def oracle_loss(model_path: str, rows: Dataset, limit: int | None = None) -> float:
    """The mean of -log p over the completion tokens of all rows, one row at a time."""
    model, total, count = AutoModelForCausalLM.from_pretrained(model_path), 0.0, 0
    for row in rows:
        ids, labels = row["input_ids"][:limit], row["labels"][:limit]
        logps = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        for t, label in enumerate(labels[1:]):
            if label != -100:
                total, count = total - logps[t, label].item(), count + 1
    return total / count


@pytest.mark.parametrize("options", [["--padding_free", "true"], ["--packing", "true"]])
def test_sft_without_padding_keeps_conversations_apart(model_path, rows_file, tokenizer, tmp_path, options):
    """One batch of all 16 rows, as one row without padding or packed: the loss is that of the rows by themselves."""
    train_sft.main(arguments(model_path, rows_file, tmp_path / "o", "--per_device_train_batch_size", "16", *options))
    args = SFTConfig(output_dir=str(tmp_path / "args"), use_cpu=True, bf16=False)
    expected = oracle_loss(model_path, tokenize_positives(Dataset.from_parquet(rows_file), tokenizer, args, "rows"))
    assert log_of(tmp_path / "o")[0]["loss"] == pytest.approx(expected, abs=2e-5)


def test_sft_without_padding_cuts_at_max_length_and_says_so(model_path, rows_file, tokenizer, tmp_path, capsys):
    args = SFTConfig(output_dir=str(tmp_path / "args"), use_cpu=True, bf16=False)
    rows = tokenize_positives(Dataset.from_parquet(rows_file), tokenizer, args, "rows")
    lengths = sorted(len(ids) for ids in rows["input_ids"])
    limit, num_long = lengths[8], sum(length > lengths[8] for length in lengths)
    options = ["--per_device_train_batch_size", "16", "--padding_free", "true", "--max_length", str(limit)]
    train_sft.main(arguments(model_path, rows_file, tmp_path / "o", *options))
    assert num_long > 0 and f"max_length={limit} cuts {num_long} of 16 conversations" in capsys.readouterr().out
    expected = oracle_loss(model_path, rows, limit)
    assert log_of(tmp_path / "o")[0]["loss"] == pytest.approx(expected, abs=2e-5)


def test_lora_writes_the_merged_model_and_the_adapters(model_path, rows_file, tmp_path):
    pytest.importorskip("peft")
    options = ["--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj"]
    train_redi.main(arguments(model_path, rows_file, tmp_path / "o", *options))
    before, after = weights_of(model_path), weights_of(tmp_path / "o")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("q_proj.weight", "v_proj.weight"))}
    adapter = json.loads((tmp_path / "o" / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (4, 8)
    assert (tmp_path / "o" / "manifest.json").is_file() and (tmp_path / "o" / "tokenizer.json").is_file()


def cached_maps() -> dict[Path, int]:
    """The results of `map` in the datasets cache, with the times they were written."""
    files = Path(datasets.config.HF_DATASETS_CACHE).rglob("cache-*.arrow")
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("script", [train_sft, train_redi, train_dpo])
def test_tokenising_ahead_leaves_nothing_to_tokenise(model_path, rows_file, tmp_path, script, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    argv = arguments(model_path, rows_file, tmp_path / "o", "--max_length", "200")
    script.main([*argv, "--tokenize_only", "true"])
    assert not (tmp_path / "o").exists()
    made = cached_maps()
    assert made
    script.main(argv)
    after = cached_maps()
    assert made.items() <= after.items()
    # SFTTrainer has two maps of its own on top.
    assert len(after) - len(made) == (2 if script is train_sft else 0)


def test_the_model_card_says_what_was_done_and_takes_scores(model_path, rows_file, tmp_path):
    train_redi.main(arguments(model_path, rows_file, tmp_path / "o", "--alpha", "0.5"))
    card = ModelCard.load(tmp_path / "o" / "README.md")
    assert card.data.tags == ["redi"] and "| `alpha` | `0.5` |" in card.text
    assert f"Trained from `{model_path}` on `{rows_file}`: rows 16, rows trained on 16, steps 2" in card.text
    loss = log_of(tmp_path / "o")[-1]["loss"]
    assert f"| 2 | {loss:.4g} |" in card.text
    for scores in ("first", "| benchmark | pass@1 |"):
        set_scores(tmp_path / "o", scores)
    text = (tmp_path / "o" / "README.md").read_text()
    assert "## Scores\n\n| benchmark | pass@1 |\n\n## Versions\n" in text and "first" not in text
    with pytest.raises(UsageError, match="has no model card"):
        set_scores(tmp_path, "x")


@pytest.mark.parametrize(
    "script, options, message",
    [
        (train_redi, ["--lora_alpha", "8"], "lora_alpha=8 is read only with lora_r"),
        (train_redi, ["--lora_r", "0"], "lora_r=0 must be at least 1"),
        (train_dpo, ["--padding_free", "true"], "option 'padding_free' is not read here: TRL's DPOTrainer pads"),
    ],
)
def test_options_without_effect_are_refused(model_path, rows_file, tmp_path, capsys, script, options, message):
    with pytest.raises(SystemExit, match="2"):
        script.main(arguments(model_path, rows_file, tmp_path / "o", *options))
    assert message in capsys.readouterr().err
