"""Benchmarks from datasets that lie here as the Hub's do there: the Hub itself is not reached."""

import json

import pytest
from helpers.evaluation import main, rows_of

from redi.evaluation.benchmarks import BENCHMARKS, KnownBenchmark, convert, load_benchmark


def put(folder, split: str, rows: list[dict]) -> str:
    folder.mkdir()
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_a_dataset_becomes_a_benchmark(tmp_path, monkeypatch, capsys):
    rows = [{"problem": f"What is {i}?", "answer": float(i), "id": i, "url": "u"} for i in range(3)]
    source = KnownBenchmark(3, put(tmp_path / "amc", "train", rows), "train", id="id")
    monkeypatch.setitem(BENCHMARKS, "amc26", source)  # the one place that a new benchmark touches
    command = ["download", "--benchmark", "amc26", "--benchmark-folder", str(tmp_path / "benchmarks")]
    main(command)
    path = tmp_path / "benchmarks" / "amc26.jsonl"
    assert rows_of(path)[2] == {"id": "amc26/2", "problem": "What is 2?", "answer": "2"}
    assert "3 problems" in capsys.readouterr().out
    assert [problem.answer for problem in load_benchmark("amc26", path.parent).problems] == ["0", "1", "2"]
    path.write_text("kept")
    main(command)
    assert path.read_text() == "kept"


def test_ids_and_answers():
    rows = [{"question": "q", "final_answer": ["$1$", "2"]}, {"question": "r", "final_answer": [" 3 "]}]
    source = KnownBenchmark(2, "x", problem="question", answer="final_answer")
    assert convert("o", source, rows) == [
        {"id": "o/0", "problem": "q", "answer": "$1$, 2"},
        {"id": "o/1", "problem": "r", "answer": "3"},
    ]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("amc2", [], "cannot be downloaded (known names: math500, aime24, amc23, minerva_hub, olympiadbench_hub)"),
        ("amc23", [{"problem": "p", "answer": "1", "id": 1}], "has 1 rows, not 2"),
        ("amc23", [{"question": "p", "answer": "1", "id": 1}] * 2, "has no column 'problem'; it has question, answer"),
        ("amc23", None, "cannot be loaded from the Hub"),
    ],
)
def test_what_is_not_as_known_is_one_line(tmp_path, monkeypatch, capsys, name, rows, message):
    folder = str(tmp_path / "nothing") if rows is None else put(tmp_path / "amc", "train", rows or [{"a": 1}])
    monkeypatch.setitem(BENCHMARKS, "amc23", KnownBenchmark(2, folder, "train", id="id"))
    with pytest.raises(SystemExit) as stop:
        main(["download", "--benchmark", name, "--benchmark-folder", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
