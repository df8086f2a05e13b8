"""The selection rules against plain Python, on a corpus with a row for each of them."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers.corpus import (
    DROPPED,
    NUM_PAIRS,
    NUM_POSITIVES,
    ROWS,
    SCHEMA,
    expected_pairs,
    expected_positives,
    read_rows,
    row,
    run,
    write_corpus,
)

import redi.data.reading.parquet
import redi.data.shuffle
from redi.data.selection import first_true

POSITIVES = ["messages", "chosen_gen_idx", "source", "uuid", "original_index"]
PAIRS = ["prompt", "chosen", "rejected", "source", "uuid", "original_index", "chosen_gen_idx", "rejected_gen_idx"]


def counts_of(folder):
    return json.loads((folder / "manifest.json").read_text())["counts"]


def build(name, corpus, *arguments):
    """Runs a command on a corpus and returns its output folder."""
    output = corpus.parent / "-".join(map(str, ["out", name, *arguments]))
    run(name, "--input", corpus, "--output", output, *arguments)
    return output


def test_first_true():
    # The rows are 0 0 1, one without generations, 1, 0, and 1 0 1.
    flags = np.array([0, 0, 1, 1, 0, 1, 0, 1], dtype=bool)
    assert first_true(flags, np.array([3, 0, 1, 1, 3])).tolist() == [2, -1, 0, -1, 0]


def test_positives(corpus):
    output = build("build_positives", corpus)
    assert pq.read_schema(output / "train-00000-of-00001.parquet").names == POSITIVES
    assert read_rows(output) == expected_positives(ROWS)
    counts = counts_of(output)
    assert counts["rows"] == NUM_POSITIVES == len(read_rows(output))
    assert counts["dropped"] == DROPPED
    assert counts["input_rows"] == len(ROWS) == NUM_POSITIVES + sum(DROPPED.values())


def test_positives_by_either_verifier(corpus):
    output = build("build_positives", corpus, "--rule", "either")
    assert pq.read_schema(output / "train-00000-of-00001.parquet").names == [*POSITIVES, "sft_rule"]
    assert read_rows(output) == expected_positives(ROWS, rule="either")
    picked = {made["original_index"]: (made["chosen_gen_idx"], made["sft_rule"]) for made in read_rows(output)}
    assert picked[0] == (1, "LandMV_preferred")  # generation 0 has one vote, but 1 has both
    assert picked[18] == (1, "LorMV_only")
    assert picked[19] == (0, "LorMV_only")
    assert counts_of(output)["dropped"] == DROPPED | {"no positive generation": 1}


def test_pairs(corpus):
    output = build("build_pairs", corpus)
    assert pq.read_schema(output / "train-00000-of-00001.parquet").names == PAIRS
    made = read_rows(output)
    assert made == expected_pairs(ROWS)
    counts = counts_of(output)
    assert counts["rows"] == NUM_PAIRS == len(made)
    assert counts["dropped"] == DROPPED | {"no negative generation": 1}
    assert counts["input_rows"] == NUM_PAIRS + sum(counts["dropped"].values())

    kept = {pair["original_index"]: pair for pair in made}
    # Rows 0 and 23 are the same; 6, 7 and 10 are a source that is nearly cn_k12, a null source, a blank problem.
    assert sorted(kept) == [0, 1, 2, 6, 7, 10, 17, 22, 23, 26]
    assert (kept[17]["chosen_gen_idx"], kept[17]["rejected_gen_idx"]) == (2, 0)
    assert kept[22]["chosen"] == kept[22]["rejected"]
    assert kept[26]["chosen"][1] == {"role": "assistant", "content": "3 < \u03c0"}


def test_negatives_that_neither_verifier_accepts(corpus):
    output = build("build_pairs", corpus, "--negatives", "neither")
    made = read_rows(output)
    assert made == expected_pairs(ROWS, most_votes=0)
    # Of the 11 problems with a positive, 0, 1, 17, 21 and 23 have a vote for each of their generations.
    assert sorted(pair["original_index"] for pair in made) == [2, 6, 7, 10, 22, 26]
    assert {pair["original_index"]: pair["rejected_gen_idx"] for pair in made}[26] == 1  # 0 has one vote
    assert counts_of(output)["dropped"] == DROPPED | {"no negative generation": 5}


def test_order_is_that_of_datasets_shuffle(corpus):
    index = datasets.Dataset.from_dict({"index": range(len(ROWS))}).shuffle(seed=42)["index"]
    made = [pair["original_index"] for pair in read_rows(build("build_pairs", corpus))]
    assert made == [i for i in index if i in made]
    assert made != sorted(made)


def test_seed_changes_the_order_and_nothing_else(corpus):
    default, other = (read_rows(build("build_pairs", corpus, "--seed", seed)) for seed in (42, 43))
    assert other == expected_pairs(ROWS, seed=43)
    assert default != other
    by_index = [sorted(rows, key=lambda pair: pair["original_index"]) for rows in (default, other)]
    assert by_index[0] == by_index[1]


def test_uuid_joins_positives_and_pairs(corpus):
    positives = {made["original_index"]: made for made in read_rows(build("build_positives", corpus))}
    for pair in read_rows(build("build_pairs", corpus)):
        positive = positives[pair["original_index"]]
        assert positive["uuid"] == pair["uuid"]
        assert positive["messages"] == pair["chosen"]
    # Only rows 0 and 23 are the same problem with the same generations.
    assert positives[0]["uuid"] == positives[23]["uuid"]
    assert len({made["uuid"] for made in positives.values()}) == len(positives) - 1


def test_uuid_tells_apart_texts_whose_joins_are_the_same(corpus):
    rows = [
        row("ab", [True], [True], generations=["c"]),
        row("a", [True], [True], generations=["bc"]),
        row("ab", [True, True], [True, True], generations=["c", ""]),
    ]
    made = read_rows(build("build_positives", write_corpus(corpus.parent / "joins.parquet", rows)))
    assert len({positive["uuid"] for positive in made}) == 3


def test_excluded_sources(corpus):
    several = build("build_pairs", corpus, "--exclude-source", "olympiads", "--exclude-source", "cn_k12 ")
    assert read_rows(several) == expected_pairs(ROWS, excluded=("olympiads", "cn_k12 "))
    assert {made["source"] for made in read_rows(several)} == {None, "cn_k12"}
    none = build("build_pairs", corpus, "--keep-all-sources")
    assert read_rows(none) == expected_pairs(ROWS, excluded=())
    assert counts_of(none)["dropped"]["source excluded"] == 0


def test_batches_buckets_and_shards_leave_no_trace(corpus, monkeypatch):
    monkeypatch.setattr(redi.data.reading.parquet, "BATCH_ROWS", 4)
    sizes = {"BUCKET_ROWS": 5, "SCATTER_BYTES": 300, "TAKE_BYTES": 400, "ROW_GROUP_ROWS": 2, "SHARD_BYTES": 500}
    for name, value in sizes.items():
        monkeypatch.setattr(redi.data.shuffle, name, value)
    output = build("build_pairs", corpus)
    assert read_rows(output) == expected_pairs(ROWS)
    files = sorted(file.name for file in output.glob("train-*"))
    assert len(files) > 2
    assert files == [f"train-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]
    assert sorted(file.name for file in output.iterdir()) == ["README.md", "lengths.png", "manifest.json", *files]
    assert sum(counts_of(output)["files"].values()) == NUM_PAIRS


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "raw").mkdir()
    write_corpus(tmp_path / "raw" / "train-00001.parquet", ROWS[10:])
    write_corpus(tmp_path / "raw" / "train-00000.parquet", ROWS[:10])
    assert read_rows(build("build_pairs", tmp_path / "raw")) == expected_pairs(ROWS)


def test_other_encodings_of_the_columns(tmp_path):
    text, flags = pa.large_string(), pa.large_list(pa.bool_())
    correctness = pa.struct([(field.name, flags) for field in SCHEMA.field("correctness").type])
    types = [text, text, pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.string())]
    schema = pa.schema(zip(SCHEMA.names, [*types, pa.large_list(text), correctness], strict=True))
    assert read_rows(build("build_pairs", write_corpus(tmp_path / "raw.parquet", schema=schema))) == expected_pairs(
        ROWS
    )


def test_real_corpus(gsm8k, gsm8k_positives, gsm8k_pairs):
    rows = pq.read_table(gsm8k).to_pylist()
    for folder, expected, count in ((gsm8k_positives, expected_positives, 887), (gsm8k_pairs, expected_pairs, 731)):
        made = read_rows(folder)
        assert len(made) == count
        assert made == expected(rows)
