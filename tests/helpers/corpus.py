"""A corpus with one row for every rule and edge case of the selection, and the same rules in plain Python."""

import json
import runpy
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.paths import REPOSITORY

FLAGS = pa.list_(pa.bool_())
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("problem_is_valid", pa.string()),
        ("source", pa.string()),
        ("generations", pa.list_(pa.string())),
        (
            "correctness",
            pa.struct(
                [("llama_verification", FLAGS), ("math_verify", FLAGS), ("math_verify_reparsed_answer", FLAGS)],
            ),
        ),
    ]
)


def row(problem, llama, reparsed, /, *, valid="Yes", source="olympiads", **replaced):
    """A corpus row, with generations named after its problem unless they are replaced."""
    generations = [f"{problem} trace {i}" for i in range(len(reparsed or []))]
    correctness = {
        "llama_verification": llama,
        "math_verify": [True],  # not read, so its length must not matter
        "math_verify_reparsed_answer": reparsed,
    }
    plain = {"problem": problem, "answer": "1", "problem_is_valid": valid, "source": source}
    return plain | {"generations": generations, "correctness": correctness} | replaced


T, F = True, False
ROWS = [
    row("one verifier first", [F, T, T], [T, T, T]),  # chosen 1 and rejected 0, although one verifier accepts 0
    row("capitals", [T, F], [T, T], valid="YES "),
    row("spaces", [T, F], [T, F], valid=" yes\n"),
    row("invalid", [T, F], [T, F], valid="No"),
    row("unknown", [T, F], [T, F], valid=None),
    row("k12", [T, F], [T, F], source="cn_k12"),
    row("nearly k12", [T, F], [T, F], source="cn_k12 "),
    row("no source", [T, F], [T, F], source=None),
    row("null problem", [T, F], [T, F], problem=None),
    row("empty problem", [T, F], [T, F], problem=""),
    row("blank problem", [T, F], [T, F], problem=" \n"),
    row("null generations", [T, F], [T, F], generations=None),
    row("empty generations", [], [], generations=[]),
    row("null correctness", [T, F], [T, F], correctness=None),
    row("null list", None, [T, F]),
    row("long list", [T, F], [T, F], generations=["only one"]),
    row("short list", [T], [T, F]),
    row("null flags", [None, T, T], [T, None, T]),  # chosen 2, rejected 0
    row("llama alone", [F, T], [F, F]),  # a positive by "either" only: 1
    row("math-verify alone", [F, None], [T, F]),  # a positive by "either" only: 0
    row("all wrong", [F, F], [F, F]),
    row("all right", [T, T], [T, T]),
    row("same text", [F, T], [F, T], generations=["twin", "twin"]),
    row("one verifier first", [F, T, T], [T, T, T]),  # row 0 again
    row("invalid k12", [T, F], [T, F], valid="no", source="cn_k12", problem=""),  # fails three checks
    row("empty k12", [T, F], [T, F], source="cn_k12", problem=""),  # fails two checks
    row("pi is \u03c0", [F, F, T], [T, F, T], generations=["\u03c0 < 3", "", "3 < \u03c0"]),
    row("other short list", [T, F], [T], generations=["two", "traces"]),
]
DROPPED = {
    "problem not valid": 3,  # invalid, unknown, invalid k12
    "source excluded": 2,  # k12, empty k12
    "problem empty": 2,
    "no generations": 2,
    "verifier lists mismatch": 5,  # null correctness, null list, long list, two short lists
    "no positive generation": 3,  # llama alone, math-verify alone, all wrong
}
NUM_POSITIVES = 11  # of the 28 rows, 17 are dropped above
NUM_PAIRS = 10  # "all right" has no negative


def write_corpus(path: Path, rows=ROWS, schema: pa.Schema = SCHEMA) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA).cast(schema), path)
    return path


def write_jsonl(path: Path, rows=ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command(name: str):
    """The `main` of a command of data_preprocess/."""
    return runpy.run_path(str(REPOSITORY / "data_preprocess" / f"{name}.py"))["main"]


def run(name: str, *arguments) -> None:
    command(name)([str(argument) for argument in arguments])


def fails(capsys, name, *arguments) -> str:
    """Runs a command that must exit with 2, and returns its one line on stderr."""
    with pytest.raises(SystemExit) as raised:
        run(name, *arguments)
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def read_rows(folder: Path) -> list[dict]:
    return pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("train-*.parquet"))).to_pylist()


def uuid_of(problem: str, generations: list[str]) -> str:
    texts = [text.encode() for text in [problem, *generations]]
    return sha256(f"{[len(text) for text in texts]}\n".encode() + b"".join(texts)).hexdigest()[:32]


def turns(problem: str, response: str) -> list[dict]:
    return [{"role": "user", "content": problem}, {"role": "assistant", "content": response}]


def eligible(rows: list[dict], seed: int = 42, excluded=("cn_k12",)):
    """Yields `(index, row, verdicts)` in shuffled order; a verdict is the number of verifiers that accept."""
    for index in np.random.default_rng(seed).permutation(len(rows)):
        r, flags = rows[index], rows[index]["correctness"] or {}
        lists = [flags.get("llama_verification"), flags.get("math_verify_reparsed_answer")]
        valid = (r["problem_is_valid"] or "").strip().lower() == "yes" and r["source"] not in excluded
        filled = r["problem"] and r["generations"]
        if valid and filled and all(x and len(x) == len(r["generations"]) for x in lists):
            yield int(index), r, [bool(a) + bool(b) for a, b in zip(*lists, strict=True)]


def provenance(index: int, r: dict) -> dict:
    return {"source": r["source"], "uuid": uuid_of(r["problem"], r["generations"]), "original_index": index}


def expected_positives(rows: list[dict], rule: str = "both", **options) -> list[dict]:
    out = []
    for index, r, verdicts in eligible(rows, **options):
        wanted = 2 if 2 in verdicts or rule == "both" else 1
        if wanted in verdicts:
            i = verdicts.index(wanted)
            made = {"messages": turns(r["problem"], r["generations"][i]), "chosen_gen_idx": i, **provenance(index, r)}
            name = {2: "LandMV_preferred", 1: "LorMV_only"}[wanted]
            out.append(made | ({"sft_rule": name} if rule == "either" else {}))
    return out


def expected_pairs(rows: list[dict], most_votes: int = 1, **options) -> list[dict]:
    """The pairs of `--negatives not-both`, or with `most_votes=0` of `--negatives neither`."""
    out = []
    for index, r, verdicts in eligible(rows, **options):
        positives = [i for i, verdict in enumerate(verdicts) if verdict == 2]
        negatives = [i for i, verdict in enumerate(verdicts) if verdict <= most_votes]
        if positives and negatives:
            texts = {
                name: turns(r["problem"], r["generations"][found[0]])
                for name, found in (("chosen", positives), ("rejected", negatives))
            }
            indices = {"chosen_gen_idx": positives[0], "rejected_gen_idx": negatives[0]}
            out.append({"prompt": r["problem"], **texts, **provenance(index, r), **indices})
    return out
