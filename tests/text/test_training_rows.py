"""Rows as they are tokenised: what is refused, dropped, cut and counted, alike for all kinds of rows."""

import pytest
from datasets import Dataset
from helpers.commands import CPU
from helpers.templates import R1_OLD, family
from helpers.tiny import make_pairs
from transformers import AutoTokenizer

from redi.runs.errors import UsageError
from redi.text.training_rows import prepare_rows, read_row
from redi.training import train

pytest_plugins = ["helpers.preflight"]


def rows_of(kind: str, answers: list[str], problem: str = "x") -> Dataset:
    """A row for each answer, which is the chosen one of a pair."""
    prompt, turns = [{"role": "user", "content": problem}], [[{"role": "assistant", "content": a}] for a in answers]
    if kind == "positives":
        return Dataset.from_list([{"messages": prompt + turn} for turn in turns])
    if kind == "pairs":
        rejected = [{"role": "assistant", "content": "no"}]
        return Dataset.from_list([{"prompt": prompt, "chosen": turn, "rejected": rejected} for turn in turns])
    return Dataset.from_list([{"prompt": problem, "completion": answer, "label": True} for answer in answers])


@pytest.mark.parametrize("kind, sides", [("positives", (2, 0)), ("pairs", (2, 2)), ("traces", (2, 0))])
def test_empty_answers_and_long_prompts_are_dropped_and_cuts_counted(tokenizer, capsys, caplog, kind, sides):
    rows = rows_of(kind, ["yes", "", " \n", "7" * 200])
    prepared, counts = prepare_rows(rows, (kind,), tokenizer, 150, name="d")
    assert counts | {"same_text": 0} == {
        "rows": 4,
        "dropped_empty": 2,
        "dropped_long_prompt": 0,
        "cut": 1,
        "positives": sides[0],
        "negatives": sides[1],
        "same_text": 0,
    }
    assert "d: 2 of 4 rows dropped for an empty completion: row 1, row 2" in caplog.text
    assert f"d: max_length=150 cuts 1 of {sum(sides)} traces at the end" in capsys.readouterr().out
    assert len(prepared) == (1 if kind == "traces" else 2)
    with pytest.raises(UsageError, match="d: no row is left to train on; of 4, 2 .* and 2 a prompt that fills"):
        prepare_rows(rows, (kind,), tokenizer, 20, name="d")


def test_positives_are_cut_and_scored_on_the_completion_alone(tokenizer):
    rows = rows_of("positives", ["7" * 200])
    whole, cut = (prepare_rows(rows, ("positives",), tokenizer, limit)[0][0] for limit in (None, 150))
    assert cut == {name: whole[name][:150] for name in ("input_ids", "labels")} | {"name": "row 0"}
    num_prompt = whole["labels"].count(-100)
    assert whole["labels"] == [-100] * num_prompt + whole["input_ids"][num_prompt:]


@pytest.mark.parametrize("label, side", [(True, True), (1, True), (False, False), (0, False), (1.0, True)])
def test_labels(label, side):
    assert read_row({"prompt": "x", "completion": "y", "label": label}, 0, "traces")[2] == [side]


@pytest.mark.parametrize("label", [-1, 2, 0.1, None, "true", "false", "incorrect", "1", "", float("nan"), [True]])
def test_other_labels_are_refused_with_their_row(label):
    with pytest.raises(UsageError, match=r"row 7 \(u\) of the dataset: label=.* is neither true \(or 1"):
        read_row({"prompt": "x", "completion": "y", "label": label, "uuid": "u"}, 7, "traces")


@pytest.mark.parametrize("weight", ["1.0", 0, -1.0, float("inf"), float("nan"), True, [1.0]])
def test_weights_that_are_not_positive_numbers_are_refused_with_their_row(weight):
    with pytest.raises(UsageError, match="row 7 of the dataset: weight=.* is not a positive finite number"):
        read_row({"prompt": "x", "completion": "y", "label": True, "weight": weight}, 7, "traces")


def test_the_sides_of_traces_are_said_and_a_missing_one(tokenizer, capsys):
    rows = [{"prompt": "x", "completion": c, "label": y} for c, y in (("a", True), ("a", False), ("b", False))]
    _, counts = prepare_rows(Dataset.from_list(rows), ("traces",), tokenizer, None, name="d")
    said = capsys.readouterr().out
    assert "d: 1 positive and 2 negative traces" in said and "is `label` right?" not in said
    assert "d: chosen and rejected are the same text in 1 row(s)" in said and counts["same_text"] == 1
    for label, side in ((True, "negative"), (False, "positive")):
        rows = [{"prompt": "x", "completion": "a", "label": label}]
        prepare_rows(Dataset.from_list(rows), ("traces",), tokenizer, None, name="d")
        assert f"d: no trace is a {side}: is `label` right?" in capsys.readouterr().out


def test_pairs_of_the_same_text_are_counted(tokenizer, capsys):
    rows = make_pairs(3)
    rows[1]["rejected"] = rows[1]["chosen"]
    assert prepare_rows(Dataset.from_list(rows), ("pairs",), tokenizer, None)[1]["same_text"] == 1
    assert "chosen and rejected are the same text in 1 row(s)" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["positives", "pairs", "traces"])
def test_a_template_that_drops_a_trace_is_refused_with_the_row(kind):
    rows = rows_of(kind, ["<think>\na\n</think>\n\nb", "<think>\nnever ends"])
    with pytest.raises(UsageError, match=r"row [01] of the dataset: the chat template does not leave .* unchanged"):
        prepare_rows(rows, (kind,), family("qwen3", "<|im_end|>"), None)


def test_a_rejected_trace_is_checked_as_well(capsys):
    rows = rows_of("pairs", ["<think>\na\n</think>\n\nb"])  # the rejected one, "no", has no thought
    with pytest.raises(UsageError, match="row 0 of the dataset: .* it writes '<think>.*, not 'no'"):
        prepare_rows(rows, ("pairs",), family("qwen3", "<|im_end|>"), None)


def test_the_date_of_the_template_is_said(capsys):
    prepare_rows(rows_of("positives", ["y"]), ("positives",), family("llama3_2", "<|eot_id|>"), None, name="d")
    assert "writes today's date: it is 2024-07-26, in training and in evaluation" in capsys.readouterr().out


def test_columns_of_no_kind_are_refused(tokenizer):
    with pytest.raises(UsageError, match=r"d has the columns text, but .* positives \(messages\); build_positives.py"):
        prepare_rows(Dataset.from_list([{"text": "x"}]), ("positives",), tokenizer, None, name="d")


def test_field_rows_are_refused_in_one_line_or_trained(tokenizer, shared):
    folder = shared / "field" / "data" / "dpo"
    refused = {
        "assistantfirst": "positives",
        "nullcontent": "positives",
        "turns13": "positives",
        "emptyrej": "pairs",
        "strings": "pairs",
        "traces_pm1": "traces",
        "traces_str": "traces",
    }
    for name, kind in refused.items():
        with pytest.raises(UsageError, match=r"^row [01]( \(u[01]\))? of the dataset: [^\n]+$"):
            prepare_rows(Dataset.from_parquet(str(folder / f"{name}.parquet")), (kind,), tokenizer, None)
    for name, kind, num_rows in (("nulllen", "pairs", 2), ("traces_bool", "traces", 4)):
        counts = prepare_rows(Dataset.from_parquet(str(folder / f"{name}.parquet")), (kind,), tokenizer, None)[1]
        assert (counts["rows"], counts["positives"], counts["negatives"]) == (num_rows, 2, 2)


def test_every_stage_and_preflight_refuse_a_template_that_drops_thoughts(job):
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    tokenizer.chat_template = R1_OLD
    tokenizer.save_pretrained(job.model)
    expected = (
        "row 0 of the dataset: the chat template does not leave the assistant's text unchanged: after '' it writes"
    )
    argv = ["--model_name_or_path", str(job.model), "--dataset_name", str(job.data), *CPU]
    for stage in ("sft", "redi", "dpo"):
        with pytest.raises(UsageError, match=expected):
            train(stage, [*argv, "--output_dir", str(job.folder / "out")])
        assert expected in job.check(stage=stage, code=2)
    assert not (job.folder / "out").exists()
