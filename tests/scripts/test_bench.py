"""The benchmark scripts run and write the figures they promise; no time is judged."""

import argparse
import itertools
import json

import bench_balance
import bench_corpus
import bench_data
import bench_memory
import bench_trainer
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from helpers.tiny import make_pairs

from redi.text.training_rows import prepare_rows

SMALL = ["--steps", "1", "--warmup", "1", "--repeats", "1", "--pairs-per-device", "2", "--max-tokens", "48"]


@pytest.mark.slow  # six processes that import everything
def test_trainer_figures_of_every_side(tmp_path, capsys):
    bench_trainer.main([*SMALL, "--distributions", "r1", "--json", str(tmp_path / "trainer.json")])
    results = json.loads((tmp_path / "trainer.json").read_text())
    assert list(results) == ["r1", "sft"]
    assert list(results["r1"]) == ["dpo", "redi_padded", "redi"]
    assert 0 < results["r1"]["redi"].pop("metrics_share") < 1
    for figures in results["r1"].values():
        assert set(figures) == {"pairs_per_s", "tokens_per_s", "step_seconds", "pad_fraction", "peak_memory_mb"}
        assert figures["pairs_per_s"] > 0 and figures["peak_memory_mb"] > 0
    assert results["r1"]["redi"]["pad_fraction"] == 0  # every embedded token of the measured steps was a real one
    assert results["r1"]["dpo"]["pad_fraction"] == results["r1"]["redi_padded"]["pad_fraction"] > 0
    assert list(results["sft"]) == ["r1"] and list(results["sft"]["r1"]) == ["trl", "trl_packing", "engine"]
    assert 0 < results["sft"]["r1"]["engine"].pop("metrics_share") < 1
    for figures in results["sft"]["r1"].values():
        assert set(figures) == {"tokens_per_s", "step_seconds", "pad_fraction", "peak_memory_mb"}
        assert figures["tokens_per_s"] > 0 and figures["peak_memory_mb"] > 0
    assert results["sft"]["r1"]["engine"]["pad_fraction"] == 0 < results["sft"]["r1"]["trl"]["pad_fraction"]
    out = capsys.readouterr().out
    assert "x padded" in out and "x trl" in out


@pytest.mark.parametrize("side", [*bench_trainer.SIDES, "trl", "engine"])
def test_all_sides_go_through_the_same_batches(tmp_path, side):
    """Traces of 3 + 2, 4, 6, ... tokens: the trainer's first step holds the first two pairs, in any order."""
    rng = np.random.default_rng(0)
    lengths = np.array([[3, 2 + 4 * i, 4 + 4 * i] for i in range(4)])
    pairs = bench_trainer.make_pairs(lengths, 8192, rng)
    options = argparse.Namespace(
        pairs_per_device=2, steps=1, warmup=1, seed=0, preset="cpu", max_tokens_per_micro_batch=64
    )
    bench_trainer.save_model(str(tmp_path), "cpu", 0)
    model = bench_trainer.AutoModelForCausalLM.from_pretrained(tmp_path)
    trainer = bench_trainer.make_trainer(side, model, pairs, str(tmp_path), options)
    (first, *_) = trainer.get_train_dataloader()
    batches = [batch["model_inputs"] for batch in first] if side in bench_trainer.ENGINE else [first]
    tokens = {token for batch in batches for token in batch["input_ids"].flatten().tolist()}
    expected = {token for pair in pairs[:2] for ids in pair.values() for token in ids}
    assert tokens - {bench_trainer.PAD} == expected


def test_lengths_have_the_shape_they_claim():
    lengths = bench_balance.r1_lengths(20000, 19000, np.random.default_rng(0))
    prompts, chosen, rejected = lengths.T
    assert np.median(chosen) / 19000 == pytest.approx(0.17, rel=0.05)
    assert np.median(rejected) / 19000 == pytest.approx(0.22, rel=0.05)
    assert lengths.max() == 19000 and prompts.max() <= 950
    assert np.corrcoef(np.log(chosen), np.log(rejected))[0, 1] == pytest.approx(0.5, abs=0.05)


def test_model_flops_by_hand():
    """Qwen2.5-1.5B: 1.31e9 parameters in the body, 0.233e9 in the head; one pair of two traces of 1 + 2 tokens."""
    body, head = 28 * 1536 * (2 * 1536 + 2 * 256 + 3 * 8960), 151936 * 1536
    expected = 6 * (body * 6 + head * 4) + 6 * 28 * 1536 * (9 + 9)
    assert bench_trainer.model_flops(np.array([[1, 2, 2]]), "1.5b") == expected


def test_pairs_in_order_by_hand():
    """Three pairs on two ranks: the third is alone in the second micro-batch."""
    costs = bench_balance.in_order(np.array([[1, 2], [3, 4], [5, 6]]), 2, lambda pair: pair.sum())
    assert costs.tolist() == [[3, 11], [7, 0]]


def test_balance_figures(tmp_path):
    path = tmp_path / "balance.json"
    bench_balance.main(["--batches", "2", "--lengths", "8", "16", "--repeats", "1", "--json", str(path)])
    results = json.loads(path.read_text())
    assert list(results) == ["balance", "sft", "cost_model"]
    assert list(results["sft"]) == ["8 ranks, 128 positives", "16 ranks, 128 positives", "64 ranks, 128 positives"]
    assert set(results["balance"]) == {
        "1 ranks, 32 pairs",
        "8 ranks, 32 pairs",
        "64 ranks, 32 pairs",
        "64 ranks, 256 pairs",
    }
    for figures in [*results["balance"].values(), *results["sft"].values()]:
        for plan in ("packed", "redi", "redi_room"):
            assert 0 < figures[plan]["micro_batch"] <= figures[plan]["step"] <= figures["bound"] + 1e-9
        assert figures["redi"]["step"] >= figures["packed"]["step"] - 1e-9 > 0
    assert {"measured", "predicted", "largest_error"} <= set(results["cost_model"])


def test_wrong_options_are_one_line(capsys):
    for main in (bench_trainer.main, bench_balance.main, bench_data.main):
        with pytest.raises(SystemExit, match="2"):
            main(["--repeats", "0"])
        assert "'0' is not a whole number above 0" in capsys.readouterr().err


@pytest.mark.slow  # six processes that import everything
def test_data_figures_of_every_stage(tmp_path, capsys):
    path = tmp_path / "data.json"
    small = ["--rows", "500", "--trace-characters", "300", "--loop-pairs", "50", "--repeats", "1"]
    bench_data.main([*small, "--json", str(path)])
    results = json.loads(path.read_text())
    assert list(results) == ["select", "length", "decontaminate"]
    for sides in results.values():
        assert list(sides) == ["loop", "ours"]
        for figures in sides.values():
            assert set(figures) == {"rows_per_s", "rows_per_cpu_s", "mb_per_s", "peak_memory_mb"}
            assert min(figures.values()) > 0
    assert "500 rows" in capsys.readouterr().out


def test_both_sides_of_the_data_bench_do_the_same(tmp_path):
    options = argparse.Namespace(trace_characters=300, benchmark_folder=None, tokenizer=None, seed=0)
    inputs, sizes = bench_data.make_inputs(tmp_path, 300, options)
    num_pairs = bench_data.make_pairs(inputs, 300)
    assert num_pairs["loop"] == num_pairs["ours"]

    def made(side, stage, pattern):
        scratch = tmp_path / side / stage
        scratch.mkdir(parents=True)
        bench_data.SIDES[side](stage, inputs, scratch)()
        return [row for file in sorted(scratch.glob(pattern)) for row in pq.read_table(file).to_pylist()]

    loop, ours = made("loop", "select", "*.parquet"), made("ours", "select", "output/*.parquet")
    assert len(ours) == num_pairs["ours"][0] > 50
    assert [row | {"uuid": None} for row in loop] == [row | {"uuid": None} for row in ours]
    loop, ours = made("loop", "length", "*.parquet"), made("ours", "length", "*.parquet")
    assert loop == ours
    loop = {(row["row"], row["benchmark"]) for row in made("loop", "decontaminate", "*.parquet")}
    made("ours", "decontaminate", "output/*.parquet")
    report = json.loads((tmp_path / "ours" / "decontaminate" / "output" / "report.json").read_text())
    ours = {(overlap["row"], overlap["benchmark"]) for overlap in report["overlaps"]}
    assert loop == ours and len(ours) > 0


def test_the_data_bench_keeps_to_its_sizes(tmp_path):
    sizes = bench_corpus.make_corpus(tmp_path / "raw.parquet", 1200, 500, ["one two three four"], seed=0)
    table = pq.read_table(tmp_path / "raw.parquet")
    traces = [trace for row in table["generations"].to_pylist() for trace in row]
    assert (sizes["rows"], sizes["traces"]) == (len(table), len(traces)) == (1200, len(traces))
    assert len(traces) / 1200 == pytest.approx(14 / 6, rel=0.05)
    assert np.median([len(trace) for trace in traces]) == pytest.approx(500, rel=0.1)


@pytest.mark.slow  # three processes that import everything
def test_memory_of_the_data_commands(tmp_path, capsys):
    bench_data.main(["--memory", "100", "--trace-characters", "100", "--json", str(tmp_path / "memory.json")])
    results = json.loads((tmp_path / "memory.json").read_text())
    assert list(results) == ["100"] and list(results["100"]) == ["select", "select and length", "decontaminate"]
    assert "peak MiB" in capsys.readouterr().out


@pytest.mark.slow  # four processes that import everything and train; the script measures more cases
def test_predicted_memory_is_near_the_measured(tmp_path):
    path = tmp_path / "memory.json"
    options = ["--sizes", "5M", "--sides", "redi", "sft", "--lengths", "1024", "--threads", "1"]
    bench_memory.main([*options, "--json", str(path)])
    results = json.loads(path.read_text())
    cases = [(result["side"], result["checkpointing"]) for result in results]
    assert cases == list(itertools.product(["redi", "sft"], [False, True]))
    assert all(abs(result["error"]) < 0.15 for result in results), results


def test_conversations_of_the_memory_bench_are_as_training_makes_them(tokenizer):
    """Every trace is one, and its loss is on the completion alone."""
    rows = make_pairs(2)
    pairs = prepare_rows(Dataset.from_list(rows), ("pairs",), tokenizer, None)[0]
    both = [{"messages": row["prompt"] + row[side]} for row in rows for side in ("chosen", "rejected")]
    positives = prepare_rows(Dataset.from_list(both), ("positives",), tokenizer, None)[0]
    assert bench_memory.conversations(list(pairs)) == positives.remove_columns("name").to_list()
