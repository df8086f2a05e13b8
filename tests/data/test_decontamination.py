"""Overlap of problems with benchmarks: planted overlaps, near misses, and the original's rule as the oracle."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from helpers.corpus import fails, read_rows, run

from redi.data.decontamination import OverlapIndex, Question, find_overlaps

QUESTION = Question("bench", 7, "Let a,  B and c be\nthe three sides of a right triangle.")  # 12 words
SHORT = Question("bench", "s", "Simplify $\\sqrt{242}$.")


@pytest.mark.parametrize("offset", range(5))
def test_eight_words_are_found_wherever_they_stand_and_seven_are_not(offset):
    """Each of the question's 5 n-grams, in other case and spacing, after 0 to 11 foreign words."""
    index = OverlapIndex([QUESTION])
    planted = QUESTION.text.split()[offset : offset + 8]
    for before in range(12):
        around = [f"x{i}" for i in range(before)]
        problem = " ".join(around) + "\t" + "  \n".join(word.upper() for word in planted) + " tail"
        assert list(index.find(problem).values()) == [" ".join(planted).lower()]
        for near_miss in (planted[1:], planted[:-1], [*planted[:4], "not", *planted[4:]], planted[::-1]):
            assert index.find(" ".join([*around, *near_miss, "tail"])) == {}


def test_punctuation_belongs_to_its_word():
    index = OverlapIndex([QUESTION])
    assert index.find("c be the three sides of a right") != {}
    assert index.find("c be the three sides, of a right") == {}


def test_short_questions_are_found_only_whole():
    index = OverlapIndex([QUESTION, SHORT])
    assert index.is_short(SHORT) and not index.is_short(QUESTION)
    assert index.find("  simplify\n$\\SQRT{242}$. ") == {SHORT: "simplify $\\sqrt{242}$."}
    assert index.find("Simplify $\\sqrt{242}$. Then add one to what you got there.") == {}
    assert index.find("Simplify") == {}


def test_every_question_is_named_once_with_its_first_words():
    twin = Question("other", 7, QUESTION.text)
    index = OverlapIndex([QUESTION, twin, SHORT])
    found = index.find(QUESTION.text)
    assert found == dict.fromkeys([QUESTION, twin], "let a, b and c be the three")


def test_missing_problems_overlap_with_nothing():
    index = OverlapIndex([QUESTION])
    assert find_overlaps([None, "", QUESTION.text], index)[:2] == [{}, {}]


def joined_ngrams(text: str, num_words: int) -> set[str]:
    words = " ".join(text.lower().strip().split()).split()
    return {" ".join(words[i : i + num_words]) for i in range(len(words) - num_words + 1)}


@pytest.mark.parametrize(("num_words", "vocabulary"), [(1, 40), (2, 12), (3, 8), (5, 4), (8, 3), (13, 2)])
def test_equals_the_original_rule(num_words, vocabulary):
    """Texts of so few words that overlaps are common; the original compares n-grams joined by spaces."""
    rng = random.Random(num_words)

    def text() -> str:
        return " ".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789!?+-"[:vocabulary], k=rng.randint(13, 30)))

    questions = [Question("bench", i, text()) for i in range(5)]
    problems = [text() for _ in range(300)]
    found = find_overlaps(problems, OverlapIndex(questions, num_words))
    expected = [
        {
            question
            for question in questions
            if joined_ngrams(problem, num_words) & joined_ngrams(question.text, num_words)
        }
        for problem in problems
    ]
    assert [set(overlaps) for overlaps in found] == expected
    assert any(expected) and not all(len(overlapping) == 5 for overlapping in expected)


def test_reported_benchmarks_find_themselves(shared):
    """Every question overlaps with itself, the 36 without an n-gram included; GSM8K's overlap with none."""
    names = ["math500", "aime24", "amc23", "minerva", "olympiadbench"]

    def read(name: str) -> list[dict]:
        return [json.loads(line) for line in (shared / "benchmarks" / f"{name}.jsonl").open(encoding="utf-8")]

    questions = [Question(name, row["id"], row["problem"]) for name in names for row in read(name)]
    index = OverlapIndex(questions)
    assert len(questions) == 500 + 30 + 83 + 272 + 675
    assert sum(map(index.is_short, questions)) == 36
    assert all(question in index.find(question.text) for question in questions)
    assert not any(find_overlaps([row["problem"] for row in read("gsm8k")], index))


BENCHMARK_ROWS = [
    {"id": "q0", "problem": "How many positive whole numbers n divide the number 5040?", "answer": "60"},
    {"id": "q1", "problem": "Find $2+2$.", "answer": "4"},
    {"id": "q2", "problem": "A train leaves at noon and stops every 7 minutes until midnight.", "answer": "103"},
]
FOREIGN = "Something else altogether, with enough words to make a few n-grams of it."
ROWS = [
    {"problem": "HOW  many positive\nwhole numbers n divide the cake?", "extra": [1]},  # 8 words of q0
    {"problem": "How many positive whole numbers n divide our cake?", "extra": None},  # 7 words of q0
    {"problem": FOREIGN, "extra": []},
    {"problem": None, "extra": [2, 3]},
    {"problem": "find $2+2$.", "extra": [4]},  # all of q1
    {"problem": f"{BENCHMARK_ROWS[2]['problem']} {BENCHMARK_ROWS[0]['problem']}", "extra": [5]},  # q0 and q2
]
KEPT = [1, 2, 3]


@pytest.fixture
def folder(tmp_path):
    """`bench.jsonl` with the questions, `more.jsonl` with one of them alone, and `corpus.parquet`."""
    write_jsonl(tmp_path / "bench.jsonl", BENCHMARK_ROWS)
    write_jsonl(tmp_path / "more.jsonl", [{"problem": BENCHMARK_ROWS[2]["problem"]}])
    schema = pa.schema([("problem", pa.string()), ("extra", pa.list_(pa.int64()))], {"kept": "too"})
    pq.write_table(pa.Table.from_pylist(ROWS, schema), tmp_path / "corpus.parquet")
    return tmp_path


def write_jsonl(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def arguments(folder, corpus="corpus.parquet"):
    return ["--input", folder / corpus, "--output", folder / "out", "--benchmark", folder / "bench.jsonl"]


def test_report(folder, capsys):
    run("decontaminate", *arguments(folder), "--jsonl", folder / "more.jsonl", "--show", 1)
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["rows"] == 6
    assert report["rows_without_problem"] == 1
    assert report["overlapping_rows"] == 3
    assert report["benchmarks"] == {
        "bench": {"questions": 3, "short_questions": 1, "questions_hit": 3, "overlapping_rows": 3},
        "more": {"questions": 1, "short_questions": 0, "questions_hit": 1, "overlapping_rows": 1},
    }
    found = [(overlap["row"], overlap["benchmark"], overlap["id"]) for overlap in report["overlaps"]]
    assert found == [
        (0, "bench", "q0"),
        (4, "bench", "q1"),
        (5, "bench", "q2"),
        (5, "more", "row 1"),
        (5, "bench", "q0"),
    ]
    assert not list((folder / "out").glob("*.parquet"))
    lines = capsys.readouterr().out.splitlines()
    table = {cells[1]: cells[2:-1] for line in lines if (cells := [cell.strip() for cell in line.split("|")])[1:]}
    assert table["bench"] == ["3", "1", "3", "3", "50.00"]
    assert table["any"] == ["4", "1", "4", "3", "50.00"]
    assert "row 0 shares with q0 of bench: how many positive whole numbers n divide the" in lines
    assert "row 5 shares with row 1 of more: a train leaves at noon and stops every" in lines
    assert not any(line.startswith("row 4") for line in lines)  # --show 1 shows one a benchmark


def test_drop_keeps_the_other_rows_as_they_were(folder, capsys):
    run("decontaminate", *arguments(folder), "--drop")
    assert read_rows(folder / "out") == [ROWS[i] for i in KEPT]
    schema = pq.read_schema(folder / "out" / "train-00000-of-00001.parquet")
    assert schema.equals(pq.read_schema(folder / "corpus.parquet"), check_metadata=True)
    counts = json.loads((folder / "out" / "manifest.json").read_text())["counts"]
    assert (counts["input_rows"], counts["dropped"], counts["rows"]) == (6, {"overlaps a benchmark": 3}, 3)
    assert "dropped: overlaps a benchmark |" in (folder / "out" / "README.md").read_text()
    dataset = load_dataset(str(folder / "out"), split="train", cache_dir=str(folder / "cache"))
    assert dataset.to_list() == [ROWS[i] for i in KEPT]

    capsys.readouterr()
    run("decontaminate", *arguments(folder), "--drop")
    output = capsys.readouterr().out
    assert "already done" in output
    assert "| any " in output
    assert "pass --overwrite" in fails(capsys, "decontaminate", *arguments(folder))  # not the same options


def test_jsonl_and_folders_give_the_same(folder):
    write_jsonl(folder / "corpus.jsonl", [{key: value for key, value in row.items() if value != []} for row in ROWS])
    run("decontaminate", *arguments(folder, "corpus.jsonl"), "--drop")
    assert read_rows(folder / "out") == [ROWS[1], ROWS[2] | {"extra": None}, ROWS[3]]

    (folder / "raw").mkdir()
    for i in (0, 1):
        part = pq.read_table(folder / "corpus.parquet").slice(3 * i, 3)
        pq.write_table(part, folder / "raw" / f"{i}.parquet")
    run("decontaminate", *arguments(folder, "raw"), "--drop", "--overwrite")
    assert read_rows(folder / "out") == [ROWS[i] for i in KEPT]


@pytest.mark.parametrize("as_messages", [False, True])
@pytest.mark.parametrize("name", ["messages", "prompt"])
def test_positives_and_pairs(folder, name, as_messages):
    """In positives the problem is a user turn, in pairs the prompt; what the assistant says is not looked at."""

    def cell(problem):
        turns = [{"role": "system", "content": BENCHMARK_ROWS[0]["problem"]}, {"role": "user", "content": problem}]
        turns.append({"role": "assistant", "content": BENCHMARK_ROWS[0]["problem"]})
        return turns if as_messages or name == "messages" else problem

    rows = [{name: cell(row["problem"] or FOREIGN), "uuid": str(i)} for i, row in enumerate(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "built.parquet")
    run("decontaminate", *arguments(folder, "built.parquet"), "--drop")
    assert read_rows(folder / "out") == [rows[i] for i in KEPT]


def test_all_five_are_needed_unless_some_are_named(folder, capsys):
    options = ["--input", folder / "corpus.parquet", "--output", folder / "out", "--benchmark-folder", folder]
    error = fails(capsys, "decontaminate", *options)
    assert "--benchmark math500" in error and "math500.jsonl is missing" in error
    assert not (folder / "out").exists()


def test_bad_input(folder, capsys):
    def error_of(*more, corpus="corpus.parquet", questions="bench.jsonl"):
        options = ["--input", folder / corpus, "--output", folder / "out", "--benchmark", folder / questions]
        error = fails(capsys, "decontaminate", *options, *more)
        assert not (folder / "out").exists()
        return error

    assert "does not exist" in error_of(corpus="nothing.parquet")
    assert "--ngram-words 0" in error_of("--ngram-words", 0)
    assert "another benchmark named 'bench'" in error_of("--jsonl", folder / "bench.jsonl")
    write_jsonl(folder / "blank.jsonl", [{"problem": FOREIGN}, {"problem": " "}])
    assert "blank.jsonl, row 2: 'problem' is no text, or empty" in error_of("--jsonl", folder / "blank.jsonl")
    (folder / "empty.jsonl").write_text("")
    assert "empty.jsonl has no rows" in error_of("--jsonl", folder / "empty.jsonl")

    pq.write_table(pa.table({"question": ["a"]}), folder / "other.parquet")
    assert "has no column 'problem', 'messages' or 'prompt'; its columns are question" in error_of(
        corpus="other.parquet"
    )
    pq.write_table(pa.table({"problem": [1]}), folder / "number.parquet")
    assert "column 'problem' is int64" in error_of(corpus="number.parquet")
    write_jsonl(folder / "mixed.jsonl", [{"problem": "a"}, {"problem": 1}])
    assert "mixed.jsonl: a key has values of two types" in error_of(corpus="mixed.jsonl")
    write_jsonl(folder / "objects.jsonl", [{"problem": "a", "notes": {}}, {"problem": "b", "notes": {}}])
    assert "key 'notes' holds only empty objects, {}" in error_of(corpus="objects.jsonl")
    pq.write_table(pa.Table.from_pylist([ROWS[0]]), folder / "hit.parquet")
    assert "no rows are left of 1" in error_of("--drop", corpus="hit.parquet")
    (folder / "raw").mkdir()
    for name in ("corpus", "hit"):
        (folder / "raw" / f"{name}.parquet").write_bytes((folder / f"{name}.parquet").read_bytes())
    pq.write_table(pa.table({"problem": ["a"]}), folder / "raw" / "less.parquet")
    assert "less.parquet has other columns than corpus.parquet" in error_of(corpus="raw")
    fails(
        capsys, "decontaminate", "--input", folder / "raw", "--output", folder, "--benchmark", folder / "bench.jsonl"
    )
