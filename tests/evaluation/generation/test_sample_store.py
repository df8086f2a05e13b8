"""The sample store: what exists is kept, what is missing is sampled, and nothing of another run is used."""

import fcntl
import json

import pytest
from helpers.evaluation import build_model, main, refusal, rows_of, text_of, write_benchmark

from redi.evaluation.generation.sample_store import SampleStore
from redi.runs.errors import UsageError


def test_a_folder_that_was_begun_on_one_gpu_is_continued_on_eight(tmp_path):
    folder = tmp_path / "out"
    options = {"n": 1, "seed": 0, "benchmarks": {}, "data_parallel_size": 1, "tensor_parallel_size": 1}
    with SampleStore(folder, options, [], []) as store:
        store.begin()
    with SampleStore(folder, options | {"data_parallel_size": 8}, [], []):
        pass
    with pytest.raises(UsageError, match="was begun with seed 0, now it is 1"):
        SampleStore(folder, options | {"seed": 1}, [], [])


def test_a_stopped_run_resumes_to_the_same_end(command, tmp_path, capsys):
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
    main(command)  # a finished run is not changed
    assert generations.read_bytes() == whole
    assert "nothing left to do" in capsys.readouterr().out


def test_more_samples_are_added_to_earlier_ones(command, tmp_path, capsys):
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
    main(command)  # fewer of them exist already
    assert "nothing left to do" in capsys.readouterr().out and text_of(tmp_path / "out") == more


def test_an_unfinished_folder_is_not_finished_with_fewer_samples(command, tmp_path, capsys):
    main(command)
    generations = tmp_path / "out" / "generations.jsonl"
    generations.write_text("".join(generations.read_text().splitlines(keepends=True)[:2]))
    error = refusal([*command, "--n", "2"], capsys)
    assert "was begun with n 3 for small, now it is 2; ask for at least as many" in error
    main(command)
    assert len(text_of(tmp_path / "out")) == 15


def test_a_folder_gains_benchmarks_and_keeps_those_that_are_not_asked_for(command, tmp_path, capsys):
    other = str(write_benchmark(tmp_path / "other.jsonl", 2))
    main([*command, "--benchmark", other, "--n", "1"])
    quick = text_of(tmp_path / "out")
    main(command)
    both = text_of(tmp_path / "out")
    assert quick.items() <= both.items() and len(both) == 2 + 15
    assert [row["benchmark"] for row in rows_of(tmp_path / "out" / "benchmark.jsonl")] == ["other"] * 2 + ["small"] * 5
    config = json.loads((tmp_path / "out" / "sampling.json").read_text())
    assert config["n"] is None and config["samples_per_problem"] == {"other": 1, "small": 3}
    assert config["benchmarks"].keys() == {"other", "small"}
    main(["grade", "--input", str(tmp_path / "out")])
    main([*command, "--benchmark", other, "--n", "1"])  # which exist, so the grades stay
    assert (tmp_path / "out" / "graded.jsonl").exists()
    main([*command, "--benchmark", other])
    assert json.loads((tmp_path / "out" / "sampling.json").read_text())["n"] == 3
    assert len(text_of(tmp_path / "out")) == 3 * 7


def test_a_folder_with_the_options_under_their_old_name_is_continued(command, tmp_path, capsys):
    main(command)
    before = text_of(tmp_path / "out")
    old = tmp_path / "out" / "generation_config.json"
    config = json.loads((tmp_path / "out" / "sampling.json").read_text())
    del config["samples_per_problem"]
    old.write_text(json.dumps(config))
    (tmp_path / "out" / "sampling.json").unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    assert "was begun with n 3 for small" in refusal([*command, "--n", "2"], capsys)
    main([*command, "--n", "4"])
    assert before.items() <= text_of(tmp_path / "out").items()
    assert (tmp_path / "out" / "sampling.json").is_file() and not old.exists()


def test_more_problems_are_added_and_reference_answers_may_be_fixed(command, tmp_path, capsys):
    main(command)
    before = text_of(tmp_path / "out")
    rows = rows_of(tmp_path / "small.jsonl")
    rows[1]["answer"] = "100"
    rows.append({"id": "new", "problem": "What is 2?", "answer": "2"})

    def write(rows: list[dict]) -> None:
        (tmp_path / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(rows)
    main(command)
    after = text_of(tmp_path / "out")
    assert after.keys() - before.keys() == {("small", "new", i) for i in range(3)}
    assert before.items() <= after.items()
    golds = {row["id"]: row["answer"] for row in rows_of(tmp_path / "out" / "benchmark.jsonl")}
    assert golds["p1"] == "100" and golds["new"] == "2"
    write(rows[:-1])
    assert "a sample of small 'new', which is no longer in the benchmark" in refusal(command, capsys)
    rows[0]["problem"] = "What is 1 + 3?"
    write(rows)
    assert "small 'p0' was sampled from another prompt" in refusal(command, capsys)
    assert text_of(tmp_path / "out") == after


def test_a_look_at_the_first_problems_is_extended(command, tmp_path, capsys):
    out = tmp_path / "out"
    main([*command, "--limit", "2"])
    first = text_of(out)
    assert {name for _, name, _ in first} == {"p0", "p1"} and len(first) == 6
    assert [row["id"] for row in rows_of(out / "benchmark.jsonl")] == ["p0", "p1"]
    assert json.loads((out / "manifest.json").read_text())["config"]["limit"] == 2
    main(["grade", "--input", str(out)])
    main(["report", "--input", str(out), "--output", str(tmp_path / "table")])
    assert "limit 2" in (tmp_path / "table" / "table.md").read_text()
    main([*command, "--limit", "3"])
    main(command)
    assert first.items() <= text_of(out).items() and len(text_of(out)) == 15
    assert json.loads((out / "sampling.json").read_text())["limit"] is None
    main([*command[:-1], str(tmp_path / "at_once")])
    assert text_of(tmp_path / "at_once") == text_of(out)
    capsys.readouterr()
    main([*command, "--limit", "2"])  # which have been sampled
    assert "nothing left to do" in capsys.readouterr().out and len(rows_of(out / "benchmark.jsonl")) == 5
    lines = (out / "generations.jsonl").read_text().splitlines(keepends=True)
    (out / "generations.jsonl").write_text("".join(lines[:4]))
    error = refusal([*command, "--limit", "2"], capsys)
    assert "was begun with limit 5 for small, now it is 2; ask for at least as many, or choose another folder" in error


def test_a_limit_is_kept_for_the_benchmarks_that_have_it(command, tmp_path):
    other = str(write_benchmark(tmp_path / "other.jsonl", 3))
    main([*command, "--benchmark", other, "--limit", "1"])
    main([*command, "--limit", "5"])  # all of them
    config = json.loads((tmp_path / "out" / "sampling.json").read_text())
    assert config["limit"] == 1 and config["limits"] == {"other": 1}


def test_a_sample_that_occurs_twice_is_refused(command, tmp_path, capsys):
    main(command)
    generations = tmp_path / "out" / "generations.jsonl"
    lines = generations.read_text().splitlines(keepends=True)
    generations.write_text("".join([*lines, lines[1]]))
    assert "generations.jsonl, line 16: sample 0 of small" in refusal([*command, "--n", "4"], capsys)


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
    config = json.loads((tmp_path / "out" / "sampling.json").read_text())
    template.write_text("Question: " + template.read_text())
    for key in ("model_sha256", "chat_template_sha256"):
        error = refusal(command, capsys)
        config[key] = json.loads(error.partition("now it is ")[2].partition(";")[0])
        (tmp_path / "out" / "sampling.json").write_text(json.dumps(config))
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
    main(command)  # gathers, and samples what no shard has
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
    assert "skipped a half-written last line" in capsys.readouterr().err
    assert len(text_of(tmp_path / "out")) == 15
