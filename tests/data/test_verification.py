"""Verifier columns from the project's grader: which are filled, which are kept, and the agreement with labels."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from helpers.corpus import fails, read_rows, run

from redi.data import verification
from redi.evaluation.grading.verdict import grade_many

T, F = True, False
LISTS = pa.list_(pa.bool_())
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("generations", pa.list_(pa.string())),
        ("correctness", pa.struct({"llama_verification": LISTS, "math_verify": LISTS, "note": pa.string()})),
        ("level", pa.int64()),
    ],
    {"kept": "not"},
)


def trace(answer: str) -> str:
    return f"<think>\nno {answer}?\n</think>\n\nIt is $\\boxed{{{answer}}}$."


def row(answer, generations, llama, math_verify=None):
    correctness = {"llama_verification": llama, "math_verify": math_verify, "note": "kept"}
    return {"problem": "?", "answer": answer, "generations": generations, "correctness": correctness, "level": 3}


ROWS = [
    # The third is cut off in its thought, after the answer; the fourth has no boxed answer.
    row("4", [trace("4"), trace("5"), "<think>\n\\boxed{4}", "<think>\n</think>\n4"], [T, None, T, F], [F, T, F, F]),
    row("\\frac{x}{2}", [trace("0.5 x"), trace("x")], None, [T, F]),  # equal only by mathematics
    row("4", [trace("4")], [F, F]),  # a label too many
    row(None, [trace("4")], None),
    row(" ", [trace("4")], [T]),
    row("4", None, None),
    row("4", [], [], []),
    row("4", [None], None) | {"correctness": None},
]
# The grader's verdicts; None without an answer or without generations.
GRADED = [[T, F, F, F], [T, F], [T], None, None, None, None, [F]]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "raw.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS, SCHEMA), path)
    return path


def verify(corpus, *more):
    """Runs the command; the rows and the report that it wrote."""
    run("verify", "--input", corpus, "--output", corpus.parent / "out", "--overwrite", *more)
    return read_rows(corpus.parent / "out"), json.loads((corpus.parent / "out" / "report.json").read_text())


def test_fills_where_a_row_has_no_list(corpus):
    rows, report = verify(corpus)
    keys = ("llama_verification", "math_verify_reparsed_answer")
    filled = {key: [made["correctness"][key] for made in rows] for key in keys}
    labels = [(r["correctness"] or {}).get("llama_verification") for r in ROWS]
    expected = [ours if label is None else label for label, ours in zip(labels, GRADED, strict=True)]
    assert filled == {"llama_verification": expected, "math_verify_reparsed_answer": GRADED}
    assert report["filled_rows"] == {"llama_verification": 2, "math_verify_reparsed_answer": 4}
    for made, original in zip(rows, ROWS, strict=True):
        kept = original["correctness"] or {"math_verify": None, "note": None}
        assert {key: made["correctness"][key] for key in ("math_verify", "note")} == {
            key: kept[key] for key in ("math_verify", "note")
        }
        assert {**made, "correctness": None} == {**original, "correctness": None}
    dataset = load_dataset(str(corpus.parent / "out"), split="train", cache_dir=str(corpus.parent / "cache"))
    assert dataset.to_list() == rows


def test_counts_and_agreement(corpus, capsys):
    _, report = verify(corpus, "--show", 1)
    assert (report["rows"], report["rows_without_answer"], report["rows_without_generations"]) == (8, 2, 2)
    assert (report["generations"], report["accepted"]) == (8, 3)
    # Of 8 generations: the cut-off trace, the null one, and the one without a box.
    assert report["statuses"] == {"ok": 5, "no_answer": 1, "no_think_end": 2, "timeout": 0, "error": 0}
    # llama has flags for three of row 0's generations: T, T, F, where the grader says T, F, F.
    assert report["agreement"]["llama_verification"] == {
        "both accept": 1,
        "only ours": 0,
        "only theirs": 1,
        "neither": 1,
        "no label": 5,
    }
    # math_verify: F, T, F, F and T, F, where the grader says T, F, F, F and T, F.
    assert report["agreement"]["math_verify"] == {
        "both accept": 1,
        "only ours": 1,
        "only theirs": 1,
        "neither": 3,
        "no label": 2,
    }
    output = capsys.readouterr().out
    assert "8 rows, 8 generations graded, 3 accepted (37.5%)" in output
    assert "2 rows without answer, not graded" in output
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines()]
    assert ["llama_verification", "1", "0", "1", "1", "5", "66.67"] in lines
    assert ["math_verify", "1", "1", "1", "3", "2", "66.67"] in lines
    assert "math_verify, only ours: row 0, generation 0: answer '4', found '4' (ok)" in output
    assert "llama_verification, only theirs: row 0, generation 2: answer '4', found None (no_think_end)" in output


def test_overwriting_labels_is_asked_for(corpus):
    rows, report = verify(corpus, "--overwrite-labels", "--columns", "llama_verification")
    kept = [
        GRADED[i] if GRADED[i] is not None else (ROWS[i]["correctness"] or {})["llama_verification"] for i in range(8)
    ]
    assert [made["correctness"]["llama_verification"] for made in rows] == kept
    assert kept[4] == [T]  # without an answer there is nothing to say against a label
    assert "math_verify_reparsed_answer" not in rows[0]["correctness"]
    assert report["filled_rows"] == {"llama_verification": 4}


def test_whole_traces(corpus):
    _, report = verify(corpus, "--whole-traces")
    # The cut-off trace has a box, the null one has none.
    assert report["statuses"] == {"ok": 6, "no_answer": 2, "no_think_end": 0, "timeout": 0, "error": 0}
    assert report["accepted"] == 4


def test_report_only(corpus, capsys):
    rows, report = verify(corpus)
    out = corpus.parent / "out"
    run("verify", "--input", corpus, "--output", out, "--overwrite", "--report-only")
    alone = json.loads((out / "report.json").read_text())
    assert alone == report | {"filled_rows": {}}
    table = pq.read_table(corpus)
    pq.write_table(table.select(table.schema.names[::-1]), corpus)  # the order of columns means nothing
    run("verify", "--input", corpus, "--output", out, "--overwrite", "--report-only")
    assert json.loads((out / "report.json").read_text()) == alone
    pq.write_table(table, corpus)
    run("verify", "--input", corpus, "--output", out, "--overwrite", "--report-only")
    assert not list(out.glob("*.parquet"))
    capsys.readouterr()
    run("verify", "--input", corpus, "--output", out, "--report-only")
    assert "already done" in capsys.readouterr().out
    assert "pass --overwrite" in fails(capsys, "verify", "--input", corpus, "--output", out)


def test_timeouts_and_errors_are_counted_and_not_accepted(corpus, monkeypatch):
    def grades(responses, golds, *rest, **options):
        made = grade_many(responses, golds, *rest, **options)
        statuses = {0: "timeout", 1: "error", 4: "timeout"}
        return [replace(g, correct=False, status=statuses[i]) if i in statuses else g for i, g in enumerate(made)]

    monkeypatch.setattr(verification, "grade_many", grades)
    rows, report = verify(corpus)
    assert (report["statuses"]["timeout"], report["statuses"]["error"]) == (2, 1)
    assert rows[0]["correctness"]["math_verify_reparsed_answer"] == [F, F, F, F]
    assert report["accepted"] == 1  # row 2's; row 0's and row 1's first were accepted before


def test_bring_your_own_traces(tmp_path):
    """JSONL of problem, answer, generations becomes a corpus that builds pairs."""
    rows = [
        {"problem": f"{i} + 1?", "answer": str(i + 1), "generations": [trace("9"), trace(str(i + 1))]} for i in (1, 2)
    ]
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    made, report = verify(path)
    assert [r["correctness"] for r in made] == [
        {"llama_verification": [F, T], "math_verify_reparsed_answer": [F, T]} for _ in rows
    ]
    assert report["agreement"] == {}
    run("build_pairs", "--input", tmp_path / "out", "--output", tmp_path / "pairs", "--expect-rows", 2)


def test_agrees_with_the_labels_of_gsm8k_traces(gsm8k, tmp_path):
    """1,319 problems of 4 generations; the grader's labels give as many positives and pairs as the corpus's own."""
    table = pq.read_table(gsm8k).drop_columns(["correctness"])
    pq.write_table(table, tmp_path / "unlabelled.parquet")
    rows, report = verify(tmp_path / "unlabelled.parquet")
    assert (report["rows"], report["generations"]) == (1319, 4 * 1319)
    labels = pq.read_table(gsm8k, columns=["correctness"])["correctness"].to_pylist()
    for name in ("llama_verification", "math_verify_reparsed_answer"):
        assert [made["correctness"][name] for made in rows] == [label[name] for label in labels]
    for name, expected in (("build_positives", 887), ("build_pairs", 731)):
        run(name, "--input", tmp_path / "out", "--output", tmp_path / name, "--expect-rows", expected)


def test_bad_input(tmp_path, capsys):
    def error_of(table, *more):
        path = tmp_path / "bad.parquet"
        pq.write_table(table, path)
        error = fails(capsys, "verify", "--input", path, "--output", tmp_path / "out", *more)
        assert list(tmp_path.iterdir()) == [path]
        return error

    table = pa.Table.from_pylist(ROWS, SCHEMA)
    assert "has no column 'answer'" in error_of(table.drop_columns("answer"))
    assert "column 'generations' is string" in error_of(
        table.set_column(2, "generations", pa.array(["a"] * len(table)))
    )
    assert "column 'correctness' is string" in error_of(
        table.set_column(3, "correctness", pa.array(["a"] * len(table)))
    )
    text = pa.array([{"llama_verification": ["yes"]}] * len(table))
    assert "'correctness.llama_verification' is list" in error_of(table.set_column(3, "correctness", text))
    assert "has no rows" in error_of(table.slice(0, 0))
    assert "--overwrite-labels has nothing to overwrite" in error_of(table, "--overwrite-labels", "--report-only")
    assert "--workers 0" in error_of(table, "--workers", 0)
    assert "invalid choice: 'math_verify'" in error_of(table, "--columns", "math_verify")
