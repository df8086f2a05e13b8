"""sample_teacher.py: traces of a tiny teacher, and from them through the real commands to a trained student."""

import json
import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from helpers.evaluation import REPOSITORY, build_model, rows_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from redi.text.prompts import make_prompt

THOUGHTS = ("<think>\n2 and 2.\n</think>\n\n\\boxed{4}", "<think>\nI guess.\n</think>\n\n\\boxed{5}")
PROBLEMS = [f"What is {i} + {4 - i}?" for i in range(5)]
COMMANDS = {
    path.stem: path for folder in ("data_preprocess", "scripts") for path in (REPOSITORY / folder).glob("*.py")
}


def run(command: str, *arguments: object) -> None:
    runpy.run_path(str(COMMANDS[command]))["main"]([str(argument) for argument in arguments])


def refusal(capsys, *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run("sample_teacher", *arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A tiny model that has learned to answer any problem with one of two thoughts, equally likely correct."""
    folder = build_model(tmp_path_factory.mktemp("teacher"), max_positions=512)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = []
    for problem in PROBLEMS:
        prompt = make_prompt(tokenizer, problem, "bare")[1]
        answers = [tokenizer(f"{thought}<|im_end|>", add_special_tokens=False).input_ids for thought in THOUGHTS]
        rows += [(prompt + answer, [-100] * len(prompt) + answer) for answer in answers]
    width = max(len(tokens) for tokens, _ in rows)
    tokens = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def command(teacher, tmp_path) -> list:
    rows = [{"problem": problem, "answer": "4", "level": i} for i, problem in enumerate(PROBLEMS)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["--model", teacher, "--input", tmp_path / "problems.jsonl", "--output", tmp_path / "traces"]
    return [*command, "--backend", "transformers", "--n", "8", "--max-tokens", "60", "--temperature", "1"]


def corpus(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_from_a_teacher_to_a_student(command, teacher, tmp_path):
    run("sample_teacher", *command, "--force-think")
    rows = corpus(tmp_path / "traces")
    assert [row["problem"] for row in rows] == PROBLEMS and [row["level"] for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        assert (row["answer"], row["problem_is_valid"], row["source"]) == ("4", "Yes", "unknown")
        assert "correctness" not in row and len(row["generations"]) == len(row["finish_reasons"]) == 8
        assert all(
            trace.startswith("<think>\n") for trace in row["generations"]
        )  # though the prompt opened the thought
    traces = [trace for row in rows for trace in row["generations"]]
    right, wrong = map(traces.count, THOUGHTS)
    assert right + wrong > 36 and 8 <= right <= 32  # of 40, a tiny model misspells a few

    run("verify", "--input", tmp_path / "traces", "--output", tmp_path / "verified")
    verified = corpus(tmp_path / "verified")
    for before, after in zip(rows, verified, strict=True):
        for name, labels in after["correctness"].items():
            for trace, label in zip(before["generations"], labels, strict=True):
                assert label == trace.endswith("\\boxed{4}"), name
    run("build_pairs", "--input", tmp_path / "verified", "--output", tmp_path / "pairs")
    pairs = corpus(tmp_path / "pairs")
    assert len(pairs) >= 4 and all(pair["chosen"][1]["content"].endswith("\\boxed{4}") for pair in pairs)

    training = [
        "--model_name_or_path",
        teacher,
        "--dataset_name",
        tmp_path / "pairs",
        "--output_dir",
        tmp_path / "redi",
    ]
    training += [
        "--alpha",
        "0.8",
        "--max_steps",
        "2",
        "--learning_rate",
        "1e-4",
        "--use_cpu",
        "true",
        "--bf16",
        "false",
    ]
    training += ["--per_device_train_batch_size", "2", "--gradient_checkpointing", "false", "--save_strategy", "no"]
    run("train_redi", *training, "--report_to", "none", "--logging_steps", "1", "--disable_tqdm", "true")
    log = json.loads((tmp_path / "redi" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]


def test_more_traces_and_more_problems_are_added(command, tmp_path):
    from datasets import load_dataset

    run("sample_teacher", *command, "--n", "2")
    before = corpus(tmp_path / "traces")
    with (tmp_path / "problems.jsonl").open("a") as stream:
        stream.write(json.dumps({"problem": PROBLEMS[1], "answer": "4", "level": 9}) + "\n")  # is there already
        stream.write(json.dumps({"problem": "What is 9 + 9?", "answer": "18", "level": 5}) + "\n")
        stream.write(json.dumps({"problem": " ", "answer": "1", "level": 6}) + "\n")
    run("sample_teacher", *command, "--n", "3")
    after = corpus(tmp_path / "traces")
    assert [len(row["generations"]) for row in after] == [3, 3, 3, 3, 3, 3, 3, 0]
    assert all(new["generations"][:2] == old["generations"] for new, old in zip(after, before, strict=False))
    assert after[5]["generations"] == after[1]["generations"]
    assert len(rows_of(tmp_path / "traces.samples" / "generations.jsonl")) == 6 * 3
    manifest = json.loads((tmp_path / "traces" / "manifest.json").read_text())
    counts = {"rows": 8, "rows_without_problem": 1, "traces_added": 21, "labels_removed": 0}
    assert counts.items() <= manifest["counts"].items()
    reasons = [reason for row in after for reason in row["finish_reasons"]]
    assert manifest["counts"]["truncated"] == {"traces": reasons.count("length")}
    assert load_dataset(str(tmp_path / "traces"), split="train").num_rows == 8


def test_a_second_teacher_adds_to_the_first_and_labels_are_removed(command, tmp_path):
    run("sample_teacher", *command, "--n", "1")
    run("verify", "--input", tmp_path / "traces", "--output", tmp_path / "verified")
    second = [*command, "--input", tmp_path / "verified", "--output", tmp_path / "both", "--seed", "7"]
    run("sample_teacher", *second, "--n", "2")
    first, both = corpus(tmp_path / "verified"), corpus(tmp_path / "both")
    for one, row in zip(first, both, strict=True):
        assert row["generations"][:1] == one["generations"] and len(row["generations"]) == 3
        assert one["correctness"] is not None and row["correctness"] is None
        assert row["finish_reasons"] == one["finish_reasons"] + row["finish_reasons"][1:]
    counts = json.loads((tmp_path / "both" / "manifest.json").read_text())["counts"]
    assert (counts["labels_removed"], counts["traces_added"]) == (5, 10)


def test_shards_write_no_corpus_until_they_are_gathered(command, tmp_path, capsys):
    command += ["--n", "1"]
    for shard in ("1/2", "2/2"):
        run("sample_teacher", *command, "--shard", shard)
        assert not (tmp_path / "traces").exists()
    run("sample_teacher", *command)
    assert "gathered 5 samples from 2 shards" in capsys.readouterr().out
    assert [len(row["generations"]) for row in corpus(tmp_path / "traces")] == [1] * 5


def test_bad_input_is_one_line(command, tmp_path, capsys):
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "precious").write_text("x")
    assert "exists; choose another folder, or pass --overwrite" in refusal(capsys, *command)
    inside = [*command, "--overwrite", "--samples", tmp_path / "traces" / "samples"]
    assert "holds the input" in refusal(capsys, *inside)
    assert "holds the input" in refusal(capsys, *command, "--overwrite", "--model", tmp_path / "traces")
    command[5] = tmp_path / "other"
    (tmp_path / "problems.jsonl").write_text('{"problem": "p"}\n')
    assert "has no column 'answer'" in refusal(capsys, *command)
    (tmp_path / "problems.jsonl").write_text('{"problem": "", "answer": "4"}\n')
    assert "holds no problems" in refusal(capsys, *command)
    assert "does not exist" in refusal(capsys, *command, "--input", tmp_path / "nowhere")
    assert "unknown option '--protocol'" in refusal(capsys, *command, "--protocol", "quick")
    assert not (tmp_path / "other").exists() and not (tmp_path / "other.samples").exists()
