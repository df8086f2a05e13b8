"""Speed and memory of real training steps: REDI against TRL's DPO and padded pairs, and SFT against TRL's SFT.

python scripts/bench/bench_trainer.py [--json FILE]

Stage 2 has three sides: `dpo` (TRL's `DPOTrainer` as shipped: reference model, padding, its metrics), `redi_padded`
(`REDITrainer` with `padding_free=False`) and `redi` (the trace engine, the default). Stage 1 has three as well: `trl`
(TRL's `SFTTrainer` as shipped, padded), `trl_packing` (the same with `packing`, in rows as long as the longest trace;
as many of them a step as hold about the same tokens) and `engine` (`PackedSFTTrainer`, the default).

All train on the same batches of the same pairs in the same order, stage 1 on both traces of each pair, except that
`trl_packing` makes its own rows. Model, optimizer and precision are the same. Each side of each round runs in a
separate process. The sides take turns, so a noisy machine affects all of them alike. The figures:

- `pairs_per_s` (stage 2): pairs / sum over the measured steps of the median over rounds of a step's wall time. A step
  lasts from the end of the previous step to its own end, so data loading and planning count.
- `tokens_per_s`: the same with real tokens (prompts and completions, no pads).
- `step_seconds`: median time from the beginning of a step to its end.
- `pad_fraction`: 1 - real tokens / tokens that the policy model embedded.
- `peak_memory_mb`: peak minus the memory in use once the policy was loaded. It includes gradients, optimizer state,
  activations and a reference model. CUDA: allocated memory. CPU: resident memory with MALLOC_ARENA_MAX=2.
- `metrics_share` (`redi` and `engine`): share of the steps' time spent on logged metrics.
- `mfu` (CUDA, stage 2): model FLOPs / time / 989e12, the dense bfloat16 peak of an H100 or H200. The objective needs
  6 * (body parameters * tokens + vocabulary * hidden * scored tokens)
  + 6 * layers * hidden * sum of squared trace lengths (causal attention) FLOPs. The reference model, pads, and
  recomputation under gradient checkpointing do not count.
"""

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import torch
from bench_balance import positive, r1_lengths
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import redi.trace_trainer
from redi import REDIConfig, REDITrainer
from redi.config import PackedSFTConfig
from redi.runs.cli import StrictParser
from redi.runs.errors import entry_point
from redi.runs.files import write_text
from redi.sft import PackedSFTTrainer
from redi.text.training_rows import PAIR_COLUMNS

SIDES = ["dpo", "redi_padded", "redi"]
SFT_SIDES = ["trl", "trl_packing", "engine"]
ENGINE = ("redi", "engine")  # the sides that the trace engine trains
PEAK_FLOPS = 989e12
PAD, EOS = 0, 1
KEY_VALUE_HEADS = 2

# A small Qwen2 for CPU, and Qwen2.5-1.5B. `max_tokens` is the longest completion.
PRESETS = {
    "cpu": {"hidden": 256, "mlp": 704, "layers": 4, "heads": 4, "vocab": 8192, "max_tokens": 1024},
    "1.5b": {"hidden": 1536, "mlp": 8960, "layers": 28, "heads": 12, "vocab": 151936, "max_tokens": 19000},
}


def equal_lengths(num_pairs: int, max_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Equal prompt lengths and equal completion lengths, so packing gains nothing. `(num_pairs, 3)`"""
    return np.tile([max(4, max_tokens // 50), max(2, max_tokens // 4), max(2, max_tokens // 4)], (num_pairs, 1))


DISTRIBUTIONS = {"r1": r1_lengths, "equal": equal_lengths}


def make_pairs(lengths: np.ndarray, vocab: int, rng: np.random.Generator) -> list[dict[str, list[int]]]:
    """Pairs of random tokens with the given lengths `(num_pairs, 3)`. Completions end with eos."""
    pairs = []
    for row in lengths:
        prompt, chosen, rejected = (rng.integers(EOS + 1, vocab, size).tolist() for size in row)
        pairs.append(dict(zip(PAIR_COLUMNS, (prompt, [*chosen[:-1], EOS], [*rejected[:-1], EOS]), strict=True)))
    return pairs


def as_text(pair: dict[str, list[int]]) -> dict[str, str]:
    """The pair as text for `DPOTrainer`, which tokenises it and appends eos."""
    prompt, chosen, rejected = (" ".join(map(str, ids)) for ids in (pair[name] for name in PAIR_COLUMNS))
    end = f" {EOS}"
    return {"prompt": prompt, "chosen": f" {chosen.removesuffix(end)}", "rejected": f" {rejected.removesuffix(end)}"}


def conversations(pairs: list[dict[str, list[int]]]) -> list[dict[str, list[int]]]:
    """Both traces of each pair, as `redi.text.training_rows` makes them: only the completion is scored."""
    return [
        {"input_ids": pair["prompt_ids"] + pair[name], "labels": [-100] * len(pair["prompt_ids"]) + pair[name]}
        for pair in pairs
        for name in ("chosen_ids", "rejected_ids")
    ]


def make_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: the text of token i is the number i, except for pad and eos."""
    words = {"<pad>": PAD, "<eos>": EOS} | {str(i): i for i in range(EOS + 1, vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def save_model(folder: str, preset: str, seed: int) -> None:
    """Saves random weights, because `DPOTrainer` loads its reference model from the policy's folder."""
    shape = PRESETS[preset]
    config = Qwen2Config(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)


def resident_mb(field: str) -> float:
    """`VmRSS` or `VmHWM` (the high-water mark) of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


class Clock(TrainerCallback):
    """Records when steps begin and end, and how many tokens the model has embedded by then."""

    def __init__(self, model: torch.nn.Module):
        self.begins, self.ends, self.tokens, self.extra, self.num_tokens = [], [], [], [], 0
        model.get_input_embeddings().register_forward_pre_hook(self._count)

    def _count(self, module, inputs):
        self.num_tokens += inputs[0].numel()

    def on_step_begin(self, args, state, control, **kwargs):
        self.begins.append(self.now())

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(self.now())
        self.tokens.append(self.num_tokens)

    def also_time(self, function: Callable) -> Callable:
        """Wraps the function to add its time to `self.extra`."""

        @functools.wraps(function)
        def timed(*args):
            begin = self.now()
            result = function(*args)
            self.extra.append(self.now() - begin)
            return result

        return timed

    @staticmethod
    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def make_trainer(side: str, model: Any, pairs: list[dict], folder: str, options: argparse.Namespace) -> Trainer:
    """Makes the trainer of a side, which takes the pairs in their order, and checks its tokens."""
    cuda = model.device.type == "cuda"
    arguments = {
        "output_dir": f"{folder}/out",
        "per_device_train_batch_size": options.pairs_per_device,
        "gradient_accumulation_steps": 1,
        "max_steps": options.warmup + options.steps,
        "learning_rate": 1e-6,
        "max_length": None,
        "gradient_checkpointing": cuda,
        "bf16": cuda,
        "use_cpu": not cuda,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": options.seed,
    }
    if side in ENGINE:  # it shuffles by itself; see below
        arguments["max_tokens_per_micro_batch"] = options.max_tokens_per_micro_batch
    else:
        arguments["train_sampling_strategy"] = "sequential"
    make, rows = (stage_1 if side in SFT_SIDES else stage_2)(side, arguments, pairs)
    trainer = make(
        model=model,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=make_tokenizer(PRESETS[options.preset]["vocab"]),
    )
    if side in SIDES:
        assert all(trainer.train_dataset[name] == [pair[name] for pair in pairs] for name in PAIR_COLUMNS), side
    if side in ENGINE:  # rows are permuted so that step k of the shuffled order holds the k-th batch
        steps = trainer.steps
        places = sorted(range(len(rows)), key=steps.order.__getitem__)
        steps.problems = steps.problems.select(places)
        steps.lengths = [steps.lengths[place] for place in places]
        steps.num_scored = steps.num_scored and [steps.num_scored[place] for place in places]
    return trainer


def stage_2(side: str, arguments: dict[str, Any], pairs: list[dict]) -> tuple[Callable[..., Trainer], list[dict]]:
    if side == "dpo":
        return functools.partial(DPOTrainer, args=DPOConfig(**arguments)), [as_text(pair) for pair in pairs]
    return functools.partial(REDITrainer, args=REDIConfig(**arguments, padding_free=side == "redi")), pairs


def stage_1(side: str, arguments: dict[str, Any], pairs: list[dict]) -> tuple[Callable[..., Trainer], list[dict]]:
    rows, count = conversations(pairs), 2 * arguments["per_device_train_batch_size"]
    arguments["per_device_train_batch_size"] = count
    if side == "trl_packing":
        lengths = [len(row["input_ids"]) for row in rows]
        arguments |= {"packing": True, "max_length": max(lengths)}
        arguments["per_device_train_batch_size"] = max(1, round(count * np.mean(lengths) / max(lengths)))
    if side == "engine":
        return functools.partial(PackedSFTTrainer, args=PackedSFTConfig(**arguments)), rows
    return functools.partial(SFTTrainer, args=SFTConfig(**arguments)), rows


def measure(side: str, pairs: list[dict], folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains on the pairs. Returns the times and tokens of the measured steps, and the peak memory of the training."""
    cuda = torch.cuda.is_available()
    torch.set_num_threads(options.threads)
    datasets.disable_progress_bars()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to("cuda" if cuda else "cpu")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        loaded = torch.cuda.memory_allocated() / 2**20
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the current resident memory
        loaded = resident_mb("VmRSS")
    trainer = make_trainer(side, model, pairs, folder, options)
    trainer.remove_callback(PrinterCallback)
    clock = Clock(model)
    trainer.add_callback(clock)
    if side in ENGINE:
        trainer._check_and_record = clock.also_time(trainer._check_and_record)
        redi.trace_trainer._add_to_sums = clock.also_time(redi.trace_trainer._add_to_sums)
    trainer.train()
    return {
        "wall": np.diff(clock.ends)[options.warmup - 1 :].tolist(),
        "busy": np.subtract(clock.ends, clock.begins)[options.warmup :].tolist(),
        "metrics_share": sum(clock.extra) / np.subtract(clock.ends, clock.begins).sum(),
        "computed_tokens": clock.tokens[-1] - clock.tokens[options.warmup - 1],
        "peak_memory_mb": (torch.cuda.max_memory_allocated() / 2**20 if cuda else resident_mb("VmHWM")) - loaded,
    }


def model_flops(lengths: np.ndarray, preset: str) -> float:
    """Model FLOPs of training on pairs with these prompt, chosen and rejected lengths, by the formula above."""
    shape = PRESETS[preset]
    hidden, key_values = shape["hidden"], 2 * KEY_VALUE_HEADS * shape["hidden"] // shape["heads"]
    body = shape["layers"] * hidden * (2 * hidden + key_values + 3 * shape["mlp"])
    traces = (lengths[:, :1] + lengths[:, 1:]).astype(float)  # (num_pairs, 2)
    products = body * traces.sum() + shape["vocab"] * hidden * lengths[:, 1:].sum()
    return float(6 * products + 6 * shape["layers"] * hidden * (traces**2).sum())


def summarize(side: str, rounds: list[dict[str, Any]], lengths: np.ndarray, preset: str) -> dict[str, float]:
    """The figures of one side from its rounds. `lengths`: `(pairs of the measured steps, 3)`."""
    seconds = float(np.median([result["wall"] for result in rounds], axis=0).sum())
    num_tokens = int((lengths[:, :1] + lengths[:, 1:]).sum())
    if side == "trl_packing":  # its steps hold other traces, and no pads
        num_tokens = rounds[0]["computed_tokens"]
    figures = {"pairs_per_s": len(lengths) / seconds} if side in SIDES else {}
    figures |= {
        "tokens_per_s": num_tokens / seconds,
        "step_seconds": median(second for result in rounds for second in result["busy"]),
        "pad_fraction": 1 - num_tokens / rounds[0]["computed_tokens"],
        "peak_memory_mb": median(result["peak_memory_mb"] for result in rounds),
    }
    if side in ENGINE:
        figures["metrics_share"] = median(result["metrics_share"] for result in rounds)
    if torch.cuda.is_available() and side in SIDES:
        figures["mfu"] = model_flops(lengths, preset) / seconds / PEAK_FLOPS
    return figures


def compare(name: str, sides: list[str], folder: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Runs the sides on the pairs of one length distribution."""
    rng = np.random.default_rng(options.seed)
    num_pairs = options.pairs_per_device * (options.warmup + options.steps)
    lengths = DISTRIBUTIONS[name](num_pairs, options.max_tokens, rng)
    pairs = make_pairs(lengths, PRESETS[options.preset]["vocab"], rng)
    longest = int((lengths[:, :1] + lengths[:, 1:]).max())
    room = options.max_tokens_per_micro_batch or 2 * longest
    options = argparse.Namespace(**vars(options) | {"max_tokens_per_micro_batch": room})
    rounds = {side: [] for side in sides}
    for number in range(options.repeats):
        for side in sides[number % 3 :] + sides[: number % 3]:
            print(f"{name}, round {number + 1} of {options.repeats}: {side}", file=sys.stderr, flush=True)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                rounds[side].append(pool.submit(measure, side, pairs, folder, options).result())
    print(
        f"\n{name}: {options.steps} steps of {options.pairs_per_device} pairs, {options.repeats} rounds; completions "
        f"of {np.median(lengths[:, 1:]):.0f} tokens (median), longest trace {longest}, micro-batches of {room}"
    )
    measured = lengths[options.pairs_per_device * options.warmup :]
    return {side: summarize(side, results, measured, options.preset) for side, results in rounds.items()}


def table(sides: dict[str, dict[str, float]]) -> str:
    """One line per side. `x dpo` and `x padded` are ratios of pairs/s; `/ dpo` is a ratio of memory."""
    dpo, padded = sides["dpo"], sides["redi_padded"]
    head = "              pairs/s  x dpo  x padded  tokens/s   step s  pads  peak MiB  / dpo"
    lines = [head + "    MFU" * ("mfu" in dpo)]
    for side, x in sides.items():
        speed, memory = x["pairs_per_s"], x["peak_memory_mb"]
        lines.append(
            f"{side:12}{speed:9.2f}{speed / dpo['pairs_per_s']:7.2f}{speed / padded['pairs_per_s']:10.2f}"
            f"{x['tokens_per_s']:10.0f}{x['step_seconds']:9.3f}{x['pad_fraction']:6.0%}{memory:10.0f}"
            f"{memory / dpo['peak_memory_mb']:7.2f}" + (f"{x['mfu']:7.1%}" if "mfu" in x else "")
        )
    lines.append(f"metrics: {sides['redi']['metrics_share']:.2%} of a step of redi")
    return "\n".join(lines)


def sft_table(sides: dict[str, dict[str, float]]) -> str:
    """One line per side of stage 1. `x trl` is a ratio of tokens/s; `/ trl` is a ratio of memory."""
    trl, lines = sides["trl"], ["              tokens/s  x trl   step s  pads  peak MiB  / trl"]
    for side, x in sides.items():
        speed, memory = x["tokens_per_s"], x["peak_memory_mb"]
        lines.append(
            f"{side:12}{speed:10.0f}{speed / trl['tokens_per_s']:7.2f}{x['step_seconds']:9.3f}"
            f"{x['pad_fraction']:6.0%}{memory:10.0f}{memory / trl['peak_memory_mb']:7.2f}"
        )
    lines.append(f"metrics: {sides['engine']['metrics_share']:.2%} of a step of engine")
    return "\n".join(lines)


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="cpu", help="shape of the model and the data")
    add(
        "--distributions",
        nargs="+",
        choices=DISTRIBUTIONS,
        default=list(DISTRIBUTIONS),
        help="distributions of trace lengths",
    )
    add("--stages", nargs="+", choices=("redi", "sft"), default=["redi", "sft"], help="what is compared")
    add("--pairs-per-device", type=positive, default=4, help="pairs per step; stage 1 has twice as many traces")
    add("--max-tokens", type=positive, help="longest completion; defaults to the preset's")
    add(
        "--max-tokens-per-micro-batch",
        type=positive,
        help="capacity of a micro-batch of the engine; defaults to twice the longest trace",
    )
    add("--steps", type=positive, default=8, help="measured steps")
    add("--warmup", type=positive, default=2, help="steps before the measured ones")
    add("--repeats", type=positive, default=3, help="rounds over all sides")
    add("--threads", type=positive, default=2, help="CPU threads")
    add("--seed", type=int, default=0, help="seed of the data and the weights")
    add("--json", type=Path, help="file for {distribution: {side: figures}, 'sft': {distribution: {side: figures}}}")
    options = parser.parse_args(argv)
    options.max_tokens = options.max_tokens or PRESETS[options.preset]["max_tokens"]
    # The measuring processes read these when they start.
    os.environ.update(MALLOC_ARENA_MAX="2", OMP_NUM_THREADS=str(options.threads))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, options.preset, options.seed)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {options.threads} threads"
        print(f"{options.preset} model on {device}")
        for name in options.distributions:
            if "redi" in options.stages:
                results[name] = compare(name, SIDES, folder, options)
                print(table(results[name]), flush=True)
            if "sft" in options.stages:
                sft = results.setdefault("sft", {})
                sft[name] = compare(name, SFT_SIDES, folder, options)
                print(sft_table(sft[name]), flush=True)
    if options.json:
        write_text(options.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
