"""Samples by content: what is there is kept, what is missing is sampled, and nothing of another run is used."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.evaluation import REPOSITORY, build_model, main, rows_of, write_benchmark

from redi.evaluation.generation.generate import num_engines
from redi.evaluation.generation.requests import Request, by_request, gpu_groups, make_slots, parse_shard
from redi.evaluation.generation.sample_store import Output
from redi.runs.errors import UsageError


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def command(model_folder, tmp_path):
    """The options of a small run, to which others are added."""
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    return [
        *("generate", "--model", str(model_folder), "--benchmark", str(benchmark), "--backend", "transformers"),
        *("--n", "3", "--max-tokens", "8", "--prompt", "bare", "--output", str(tmp_path / "out")),
    ]


def text_of(folder: Path) -> dict:
    rows = rows_of(folder / "generations.jsonl")
    texts = {(row["benchmark"], row["id"], row["sample_idx"]): row["response"] for row in rows}
    assert len(texts) == len(rows)
    return texts


def refusal(command: list[str], capsys) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(command)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("error: ") == 1
    return error


@pytest.mark.parametrize(
    ("num_gpus", "tensor_parallel_size", "engines"),
    [(8, 1, 8), (8, 2, 4), (8, 3, 2), (8, 8, 1), (1, 1, 1), (0, 1, 1), (1, 2, 1)],
)
def test_engines_use_every_visible_gpu(num_gpus, tensor_parallel_size, engines):
    assert num_engines(num_gpus, tensor_parallel_size) == engines


def test_a_folder_that_was_begun_on_one_gpu_goes_on_on_eight(tmp_path):
    folder = tmp_path / "out"
    options = {"n": 1, "seed": 0, "data_parallel_size": 1, "tensor_parallel_size": 1}
    with Output(folder, options, [], []) as output:
        output.begin()
    with Output(folder, options | {"data_parallel_size": 8}, [], []):
        pass
    with pytest.raises(UsageError, match="was begun with seed 0, now it is 1"):
        Output(folder, options | {"seed": 1}, [], [])


def test_a_stopped_run_goes_on_to_the_same_end(command, tmp_path, capsys):
    command += ["--batch-size", "4"]
    main(command)
    generations = tmp_path / "out" / "generations.jsonl"
    whole = generations.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (b"".join(lines[:9]) + lines[9][:40], b"".join(lines[:4]), b"", lines[0]):
        generations.write_bytes(cut)
        capsys.readouterr()
        main(command)
        assert generations.read_bytes() == whole
        assert ("half-written last line" in capsys.readouterr().err) == (bool(cut) and not cut.endswith(b"\n"))
    main(command)  # a finished run is left as it is
    assert generations.read_bytes() == whole
    assert "nothing left to do" in capsys.readouterr().out


def test_more_samples_are_added_to_those_that_are_there(command, tmp_path, capsys):
    main(command)
    first = (tmp_path / "out" / "generations.jsonl").read_bytes()
    main(["grade", "--input", str(tmp_path / "out")])
    capsys.readouterr()
    main([*command, "--n", "7"])
    assert "is out of date; grade again" in capsys.readouterr().err
    assert not (tmp_path / "out" / "graded.jsonl").exists()
    assert (tmp_path / "out" / "generations.jsonl").read_bytes().startswith(first)
    more = text_of(tmp_path / "out")
    assert len(more) == 5 * 7
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]["n"] == 7
    main([*command[:-1], str(tmp_path / "at_once"), "--n", "7"])
    assert text_of(tmp_path / "at_once") == more  # the same as had they been asked for at once
    assert "was begun with n 7, now it is 3; ask for at least as many" in refusal(command, capsys)


def test_more_problems_are_added_and_golds_may_be_mended(command, tmp_path, capsys):
    main(command)
    before = text_of(tmp_path / "out")
    rows = rows_of(tmp_path / "small.jsonl")
    rows[1]["answer"] = "100"
    rows.append({"id": "new", "problem": "What is 2?", "answer": "2"})
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = write_benchmark(tmp_path / "other.jsonl", 1)
    main([*command, "--benchmark", str(tmp_path / "small.jsonl"), str(other)])
    after = text_of(tmp_path / "out")
    assert after.keys() - before.keys() == {("small", "new", i) for i in range(3)} | {
        ("other", "p0", i) for i in range(3)
    }
    assert before.items() <= after.items()
    golds = {(row["benchmark"], row["id"]): row["answer"] for row in rows_of(tmp_path / "out" / "benchmark.jsonl")}
    assert golds["small", "p1"] == "100" and golds["other", "p0"] == "0"
    error = refusal(command, capsys)
    assert "a sample of other 'p0', which is not asked for; name all benchmarks of the folder" in error
    rows[0]["problem"] = "What is 1 + 3?"
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = refusal([*command, "--benchmark", str(tmp_path / "small.jsonl"), str(other)], capsys)
    assert "small 'p0' was sampled from another prompt" in error
    assert text_of(tmp_path / "out") == after


def test_the_seed_decides(command, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main([*command[:-1], str(tmp_path / name), "--seed", seed])
    a, b, c = (rows_of(tmp_path / name / "generations.jsonl") for name in "abc")
    assert a == b != c
    assert len({row["response"] for row in a if row["id"] == "p0"}) > 1


def test_samples_do_not_depend_on_the_batch_size(command, tmp_path):
    main(command)
    main([*command[:-1], str(tmp_path / "two"), "--batch-size", "2"])
    assert text_of(tmp_path / "out") == text_of(tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--temperature", "1"], "was begun with temperature 0.6, now it is 1.0"),
        (["--prompt", "paper"], 'was begun with prompt "bare", now it is "paper"'),
        (["--force-think"], 'was begun with force_think "none", now it is "as-trained"'),
        (["--seed", "1"], "was begun with seed 42, now it is 1"),
        (["--chat-template", "qwen2.5-math"], "was begun with chat_template_sha256"),
    ],
)
def test_other_options_in_the_same_folder_are_refused(command, capsys, change, message):
    main(command)
    assert message in refusal(command + change, capsys)


def test_another_model_or_template_in_the_same_folder_is_refused(command, tmp_path, capsys):
    model = build_model(tmp_path / "model")
    command[2] = str(model)
    main(command)
    other = build_model(tmp_path / "other", seed=1)
    assert "model_sha256" in refusal([*command[:2], str(other), *command[3:]], capsys)
    template = model / "chat_template.jinja"
    template.write_text("{% if true %}{% endif %}" + template.read_text())
    assert "model_sha256" in refusal(command, capsys)
    # and were the options not compared, the keys would still differ
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    template.write_text("Question: " + template.read_text())
    for key in ("model_sha256", "chat_template_sha256"):
        error = refusal(command, capsys)
        config[key] = json.loads(error.partition("now it is ")[2].partition(";")[0])
        (tmp_path / "out" / "generation_config.json").write_text(json.dumps(config))
    assert "was sampled from another prompt" in refusal(command, capsys)


def test_two_processes_do_not_write_into_one_folder(command, tmp_path, capsys):
    main(command)
    with (tmp_path / "out" / "generations.jsonl").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert "another process is sampling into it" in refusal([*command, "--n", "4"], capsys)
    main([*command, "--n", "4"])


def test_shards_are_disjoint_and_together_equal_one_run(command, tmp_path, capsys):
    main(command)
    whole = text_of(tmp_path / "out")
    command[-1] = str(tmp_path / "parts")
    parts = []
    for shard in ("1/3", "3/3"):
        main([*command, "--shard", shard])
        parts.append(text_of(tmp_path / "parts" / f"shard-{shard.replace('/', '-of-')}"))
    assert [len(part) for part in parts] == [6, 3]  # of 5 problems, two, two and one, 3 samples each
    assert not parts[0].keys() & parts[1].keys()
    assert "was begun with temperature" in refusal([*command, "--temperature", "1"], capsys)
    capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["shard-1-of-3", "shard-3-of-3"]
    main(command)  # gathers, and samples what the second shard has not
    assert "gathered 9 samples from 2 shards: shard-1-of-3, shard-3-of-3" in capsys.readouterr().out
    assert text_of(tmp_path / "parts") == whole
    manifest = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    assert manifest["counts"]["samples"] == 15
    main(["grade", "--input", str(tmp_path / "parts")])


def test_a_shard_that_still_runs_is_not_touched(command, tmp_path, capsys):
    main([*command, "--shard", "1/2"])
    generations = tmp_path / "out" / "shard-1-of-2" / "generations.jsonl"
    half = generations.read_bytes()[:-20]
    generations.write_bytes(half)
    main(command)
    assert generations.read_bytes() == half
    assert "left a half-written last line off" in capsys.readouterr().err
    assert len(text_of(tmp_path / "out")) == 15


def test_a_killed_run_keeps_all_but_the_batch_in_flight(command, tmp_path):
    command += ["--n", "40", "--max-tokens", "100", "--batch-size"]
    process = subprocess.Popen([sys.executable, str(REPOSITORY / "scripts" / "evaluate.py"), *command, "2"])
    generations = tmp_path / "out" / "generations.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline and not (generations.is_file() and generations.read_bytes().count(b"\n") >= 6):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = generations.read_bytes()
    assert 6 <= kept.count(b"\n") < 200 and not (tmp_path / "out" / "manifest.json").exists()
    main([*command, "200"])
    assert generations.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    assert len(text_of(tmp_path / "out")) == 200


def test_samples_are_laid_out_so_that_a_larger_n_only_appends():
    a, b = (Request("small", name, "", (), 8, name) for name in "ab")
    assert make_slots([a, b], 2) == [(a, 0), (b, 0), (a, 1), (b, 1)]
    assert make_slots([a, b], 3)[:4] == make_slots([a, b], 2)
    assert by_request([(a, 0), (b, 0), (b, 1)]) == [((a, 0),), ((b, 0), (b, 1))]


def test_shard_option():
    assert parse_shard("2/4") == (2, 4)
    for text in ("0/4", "5/4", "2", "2/", "-1/4", "a/b"):
        with pytest.raises(UsageError, match="must be i/n with i from 1 to n"):
            parse_shard(text)


def test_gpus_are_dealt_out_to_engines():
    assert gpu_groups(["0", "1", "2", "3"], 2, 2) == ["0,1", "2,3"]
    assert gpu_groups(["4", "6", "7"], 3, 1) == ["4", "6", "7"]
    assert gpu_groups([], 2, 1) == ["", ""]
    with pytest.raises(UsageError, match="--data-parallel-size 2 x --tensor-parallel-size 2 needs 4 GPUs, and 3 are"):
        gpu_groups(["0", "1", "2"], 2, 2)
