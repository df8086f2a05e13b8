"""Compares the memory that `redi.preflight.memory` predicts for a training step with the memory measured on the CPU.

python scripts/bench/bench_memory.py [--json FILE]

Models of about 5, 20 and 80 million parameters are trained on two traces a step, in one micro-batch, at several trace
lengths, with and without gradient checkpointing, on the CPU in float32. What trains is called a side:

- `redi`: a pair of equal lengths, packed, by the trace engine.
- `sft`: two conversations of equal lengths, packed, by the trace engine.
- `sft_padded`: two conversations, one half as long as the other, padded, by TRL's `SFTTrainer`.
- `dpo`: a pair, the chosen trace half as long as the rejected one, padded, with its reference model.

Each case runs in a separate process. MALLOC_ARENA_MAX=2 and MALLOC_MMAP_THRESHOLD_ return every larger block to the
system when it is freed, so resident memory is memory in use.

- `measured_mb`: the high-water mark of resident memory over two optimizer steps, minus the resident memory before the
  model is loaded (a step of a tiny model has loaded all libraries by then). It includes weights, gradients, AdamW's
  moments and activations.
- `predicted_mb`: `peak_memory` for the same step, from the model's configuration and the lengths alone.
- `error`: predicted / measured - 1.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from bench_trainer import EOS, PAD, conversations, make_pairs, make_tokenizer, resident_mb
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging
from trl import DPOConfig

from redi import REDIConfig, REDITrainer
from redi.config import PackedSFTConfig
from redi.dpo import PreparedDPOTrainer
from redi.preflight.counting import Precision, count_activations
from redi.preflight.memory import Load, Strategy, peak_memory, shape_of
from redi.runs.cli import StrictParser, positive_int
from redi.runs.errors import entry_point
from redi.runs.files import write_text
from redi.sft import PackedSFTTrainer

VOCAB, PROMPT = 8192, 16
SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2},
    "5M": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4},
    "20M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8},
    "80M": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 11, "num_attention_heads": 12},
}
# What trains, its configuration, and whether traces are packed.
SIDES = {
    "redi": (REDITrainer, REDIConfig, True),
    "sft": (PackedSFTTrainer, PackedSFTConfig, True),
    "sft_padded": (PackedSFTTrainer, PackedSFTConfig, False),
    "dpo": (PreparedDPOTrainer, DPOConfig, False),
}
PRECISION = Precision(torch.float32, autocast=False)


def model_config(size: str) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=VOCAB,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        **SIZES[size],
    )


def train(size: str, side: str, length: int, checkpointing: bool, folder: str) -> None:
    """Two steps of two traces: one of `length` tokens, the other as long or, on a padded side, half as long."""
    torch.manual_seed(0)
    path = f"{folder}/{size}"
    AutoModelForCausalLM.from_config(model_config(size)).save_pretrained(path)
    make_trainer, config, is_packed = SIDES[side]
    other = length if is_packed else length // 2
    pairs = make_pairs(np.tile([PROMPT, other - PROMPT, length - PROMPT], (2, 1)), VOCAB, np.random.default_rng(0))
    is_sft = config is PackedSFTConfig
    arguments = {
        "output_dir": f"{folder}/out",
        "per_device_train_batch_size": 2 if is_sft else 1,
        "max_steps": 2,
        "max_length": None,
        "gradient_checkpointing": checkpointing,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if is_sft:
        arguments["padding_free"] = is_packed
    trainer = make_trainer(
        model=path,
        args=config(**arguments),
        train_dataset=datasets.Dataset.from_list(conversations(pairs) if is_sft else pairs),
        processing_class=make_tokenizer(VOCAB),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def measure(size: str, side: str, length: int, checkpointing: bool, threads: int) -> float:
    """Peak memory of the training, in MiB; for use in a separate process."""
    torch.set_num_threads(threads)
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # trainers describe runs
        train("tiny", side, 4 * PROMPT, checkpointing, folder)
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now
        before = resident_mb("VmRSS")
        train(size, side, length, checkpointing, folder)
        return resident_mb("VmHWM") - before


def predict(size: str, side: str, length: int, checkpointing: bool) -> dict[str, float]:
    """The same, predicted from the configuration, in MiB by purpose."""
    config = model_config(size)
    load = Load(
        tokens=2 * length,
        scored=2 * (length - PROMPT),
        several=False,
        signed_sum=side in ("redi", "sft"),
        masked=0 if SIDES[side][2] else 2 * length**2,
    )
    counts = count_activations(config, PRECISION, checkpointing, on_cpu=True)
    strategy = Strategy("none", 1, on_cpu=True)
    parts = peak_memory(shape_of(config), counts, PRECISION, strategy, load, reference=side == "dpo")
    return {name: size / 2**20 for name, size in parts.items()}


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures and predicts every case; prints a row for each."""
    print(f"{'size':6}{'side':12}{'checkpointing':15}{'trace':>6}{'measured MiB':>14}{'predicted':>11}{'error':>8}")
    results = []
    cases = [
        (size, side, length, checkpointing)
        for size in options.sizes
        for side in options.sides
        for checkpointing in (False, True)
        for length in options.lengths
    ]
    for size, side, length, checkpointing in cases:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            measured = pool.submit(measure, size, side, length, checkpointing, options.threads).result()
        parts = predict(size, side, length, checkpointing)
        predicted = sum(parts.values())
        error = predicted / measured - 1
        name = "on" if checkpointing else "off"
        print(f"{size:6}{side:12}{name:15}{length:6}{measured:14.0f}{predicted:11.0f}{error:8.1%}", flush=True)
        results.append(
            {"size": size, "side": side, "length": length, "checkpointing": checkpointing}
            | {"measured_mb": measured, "predicted_mb": predicted, "error": error, "parts_mb": parts}
        )
    worst = max(results, key=lambda result: abs(result["error"]))
    print(f"largest error {worst['error']:.1%}, of {len(results)} cases")
    return results


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--sizes", nargs="+", choices=list(SIZES)[1:], default=list(SIZES)[1:], help="of the models, in parameters")
    add("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="what trains")
    add("--lengths", type=positive_int, nargs="+", default=[512, 2048], help="tokens of a trace; a step has two")
    add("--threads", type=positive_int, default=2, help="of the CPU")
    add("--json", type=Path, help="file for the figures")
    options = parser.parse_args(argv)
    # The measuring processes read these when they start.
    os.environ.update(MALLOC_ARENA_MAX="2", MALLOC_MMAP_THRESHOLD_=str(2**17), OMP_NUM_THREADS=str(options.threads))
    os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
    results = compare(options)
    if options.json:
        write_text(options.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
