"""The plan of a job: lengths, micro-batches, FLOPs, memory and disk, by hand and against the trainer's own."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.dataset
import pytest
import torch
from datasets import Dataset
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs
from transformers import AutoModelForCausalLM, Gemma2Config, Qwen2Config

from redi.engine.attention import enable_packing
from redi.engine.batching import StepDataset, step_cost
from redi.preflight import check, disk, lengths, plan
from redi.preflight.counting import Precision, count_activations
from redi.preflight.memory import Load, Strategy, peak_memory, shape_of
from redi.preflight.recipe import Model, Rows, read_recipe, read_strategy, why_padded
from redi.text.training_rows import tokenize_problems

pytest_plugins = ["helpers.preflight"]

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}

# --- lengths and plan --------------------------------------------------------------------------------------------


def rows_of(folder: Path) -> Rows:
    table = pyarrow.dataset.dataset(str(folder / "train-00000-of-00001.parquet"))
    return Rows(table, table.count_rows(), "")


def exact(rows: list[dict], tokenizer) -> np.ndarray:
    problems, _ = tokenize_problems(Dataset.from_list(rows), tokenizer, None)
    prompt, *sides = (np.array([len(ids) for ids in problems[name]]) for name in problems.column_names[:3])
    return np.stack([prompt + side for side in sides], axis=1)


def test_lengths_of_all_rows_are_those_of_training(job, tokenizer):
    found = lengths.trace_lengths(rows_of(job.data), "pairs", tokenizer)
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in map(job.on_disk, make_pairs(16))]
    assert (found.traces == exact(rows, tokenizer)).all()
    assert found.how == "every row tokenised"


def test_lengths_of_many_rows_come_from_characters(job, tokenizer, monkeypatch):
    rows = [job.on_disk(row) for row in make_pairs(64)]
    rows[37]["rejected"][1] = {"role": "assistant", "content": "<think>\n" + "so " * 900}
    job.write_rows(rows)
    monkeypatch.setattr(lengths, "ALL_CHARACTERS", 0)
    monkeypatch.setattr(lengths, "SAMPLE", 16)
    found = lengths.trace_lengths(rows_of(job.data), "pairs", tokenizer)
    real = exact([{name: row[name] for name in ("chosen", "rejected")} for row in rows], tokenizer)
    assert found.traces.max() == real.max()  # the longest is always tokenised
    assert found.traces.sum() == pytest.approx(real.sum(), rel=0.05)
    assert "characters; 17 rows" in found.how


@pytest.mark.parametrize("factor, used", [(1, True), (2, False)])
def test_length_columns_are_used_where_they_fit_the_tokenizer(job, tokenizer, factor, used):
    rows = [job.on_disk(row) for row in make_pairs(16)]
    real = exact([{name: row[name] for name in ("chosen", "rejected")} for row in rows], tokenizer)
    for row, (chosen, rejected) in zip(rows, real.tolist(), strict=True):  # counted with 30 tokens more
        row |= {"prompt_len": 10, "chosen_len": factor * chosen + 20, "rejected_len": factor * rejected + 20}
    job.write_rows(rows)
    found = lengths.trace_lengths(rows_of(job.data), "pairs", tokenizer)
    assert (found.traces == real).all()
    assert ("+30 tokens off" in found.how) == used


def test_traces_of_one_prompt_are_one_problem(job, tokenizer):
    prompts = ["a", "b", "a", "a"]
    job.write_rows([{"prompt": p, "completion": "<think>\nx", "label": True} for p in prompts])
    found = lengths.trace_lengths(rows_of(job.data), "traces", tokenizer)
    assert found.problems.tolist() == [0, 1, 0, 0] and found.traces.shape == (4, 1)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("gpus, room", [(1, None), (4, None), (2, 400)])
def test_the_largest_micro_batch_is_that_of_training(job, tokenizer, gpus, room, packs):
    job.options |= {"max_tokens_per_micro_batch": room, "per_device_train_batch_size": None if room else 1}
    recipe = read_recipe(job.config(), [], gpus)
    found = lengths.trace_lengths(rows_of(job.data), "pairs", tokenizer)
    shape = shape_of(Qwen2Config(vocab_size=300, **TINY))
    planned = plan.make_plan(recipe, found, shape, packs)
    problems, _ = tokenize_problems(Dataset.from_parquet(str(job.data / "*.parquet")), tokenizer, 512)
    args = recipe.args
    largest = 0
    for rank in range(gpus):
        steps = StepDataset(
            problems,
            global_batch_size=8,
            num_micro_batches=args.gradient_accumulation_steps,
            max_tokens=room,
            max_length=512,
            alpha=0.8,
            cost=step_cost(shape.params / (shape.layers * shape.hidden)),
            rank=rank,
            num_ranks=gpus,
            pack=packs,
            pad_token_id=0,
            seed=args.seed,
        )
        largest = max(largest, steps.largest()["model_inputs"]["input_ids"].numel())
    assert planned.load.tokens == largest
    assert planned.steps == len(steps) == 2
    assert planned.tokens == found.traces.sum()


@pytest.mark.parametrize("stage, tokens", [("simpo", 2 * 2 * 100), ("dpo", 2 * 2 * 100), ("sft", 2 * 100)])
def test_padded_micro_batches_count_their_pads(job, stage, tokens):
    """2 rows a device, the longest of 100 tokens: 2 traces to a pair."""
    job.options |= {"per_device_train_batch_size": 2, "objective": "simpo" if stage == "simpo" else None}
    recipe = read_recipe(job.config(stage), [], 4)
    traces = np.array([[40, 60]] * 15 + [[30, 100]])
    traces = traces[:, 1:] if stage == "sft" else traces
    made = plan.make_plan(recipe, lengths.TraceLengths(traces, 10.0, np.arange(16), ""), plan.QWEN_1_5B)
    assert made.load.tokens == tokens and made.load.masked == tokens * 100


GEMMA_2 = Gemma2Config(vocab_size=300, head_dim=16, pad_token_id=0, **TINY)


@pytest.mark.parametrize(
    "config, kernel, padded",
    [
        (GEMMA_2, None, True),
        (GEMMA_2, "eager", True),
        (GEMMA_2, "flash_attention_2", False),
        (Qwen2Config(vocab_size=300, **TINY), None, False),
    ],
)
def test_models_whose_attention_cannot_be_packed_are_padded(job, config, kernel, padded):
    job.options["attn_implementation"] = kernel
    reason = why_padded(read_recipe(job.config(), [], 4), Model(config, None, kernel))
    assert ("attn_logit_softcapping" in reason) if padded else reason is None
    job.options["objective"] = "simpo"  # pads in any case
    assert why_padded(read_recipe(job.config(), [], 4), Model(config, None, kernel)) is None


def test_padded_traces_by_hand(job):
    """Two GPUs with one micro-batch each, of a step of 4 pairs: longest first, each to the one with less to do.

    100 | 90, then 20 | 20; a 10 to the second, which has 110 to 120; of two with equally many tokens the second has
    less to do, since the square of 100 is more: 10 to it, 10 to the first, 10 to it. That makes (100, 20, 10) and
    (90, 20, 10, 10, 10): padded, 3 rows of 100 and 5 rows of 90, of which 140 tokens are real.
    """
    job.options |= {"global_batch_size": 4, "per_device_train_batch_size": 2}
    recipe = read_recipe(job.config(), [], 2)
    traces = np.array([[100, 10], [10, 90], [20, 20], [10, 10]])
    found = lengths.TraceLengths(traces, 0.0, np.arange(4), "")
    shape = shape_of(GEMMA_2)
    planned = plan.make_plan(recipe, found, shape, packs=False)
    assert planned.padded
    assert planned.load == Load(tokens=450, scored=140, several=False, signed_sum=True, masked=5 * 90**2)
    packed = plan.make_plan(recipe, found, shape)
    assert not packed.padded
    assert packed.load == Load(tokens=140, scored=140, several=False, signed_sum=True)
    assert planned.tokens == packed.tokens == 270


def test_flops_and_utilisation_by_hand():
    """One trace of 1,000 tokens, 100 of them the prompt; and the REDI row of Table 5."""
    shape = plan.QWEN_1_5B
    body, head = 28 * 46_797_824, 151_936 * 1536
    by_hand = 6 * (body * 1000 + head * 900) + 6 * 28 * 1536 * 1000**2
    assert plan.training_flops(shape, 1000, 1000**2, 100) == by_hand
    tokens = 53_175 * (4520 + 5670)  # prompt 420, chosen 4,100, rejected 5,250
    flops = 6 * (body * tokens + head * (tokens - 53_175 * 840))
    flops += 6 * 28 * 1536 * 1.45 * 53_175 * (4520**2 + 5670**2)
    assert plan.implied_utilisation("REDI")[0] == pytest.approx(flops)
    assert plan.implied_utilisation("REDI")[1] == pytest.approx(flops / (8 * 312e12 * 15_000))
    assert len(plan.table_5()) == 2 + 5


@pytest.mark.parametrize(
    "options, saves",
    [
        ({"save_steps": 200}, 9),  # 1,662 steps: 8 times 200, and the last
        ({"save_steps": 0.25}, 4),
        ({"save_strategy": "epoch", "save_steps": None}, 1),
        ({"save_strategy": "'no'", "save_steps": None}, 0),
    ],
)
def test_saves_of_a_run(job, options, saves):
    job.options |= options
    recipe = read_recipe(job.config(), [], 4)
    assert plan._num_saves(recipe, 1662, 1662) == saves


# --- memory and disk ---------------------------------------------------------------------------------------------

BF16 = Precision(torch.bfloat16, autocast=True)


def test_sizes_of_the_papers_model():
    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_attention_heads=12,
        num_key_value_heads=2,
        num_hidden_layers=28,
        tie_word_embeddings=True,
    )
    assert shape_of(config) == plan.QWEN_1_5B
    assert count_activations(config, BF16, checkpointing=True).kept == 1536 * 2  # the layer's input


@pytest.mark.parametrize(
    "kind, weights, gradients, optimizer",
    [("none", 2, 2, 4), ("ddp", 2, 2, 4), ("zero2", 2, 2 / 8, 12 / 8), ("zero3", 2 / 8, 2 / 8, 12 / 8)],
)
def test_states_by_strategy(kind, weights, gradients, optimizer):
    """Bytes a parameter on 8 GPUs; a micro-batch of many before it, so that gradients are there at the peak."""
    shape = plan.QWEN_1_5B
    counts = SimpleNamespace(checkpointing=True, kept=3072.0, forward=12804.0, peak=149048.0)
    load = Load(tokens=40_000, scored=39_000, several=True, signed_sum=True)
    parts = peak_memory(shape, counts, BF16, Strategy(kind, 8), load)
    found = [parts[name] / shape.params for name in ("weights", "gradients", "optimizer")]
    assert found == pytest.approx([weights, gradients, optimizer])
    assert parts["activations"] == 40_000 * (27 * 3072 + 149048)  # 27 inputs, and one layer at work
    offloaded = peak_memory(shape, counts, BF16, Strategy(kind, 8, offload_optimizer=True), load)
    assert offloaded["optimizer"] == 0


def test_what_a_layer_keeps_is_what_autograd_saves():
    """The oracle: tensors saved for the backward pass by a real model on real data, with one layer and with two."""
    tokens, kept = 256, []
    for layers in (1, 2):
        config = Qwen2Config(vocab_size=64, **TINY | {"num_hidden_layers": layers})
        model = AutoModelForCausalLM.from_config(config)
        enable_packing(model)
        own = {parameter.data_ptr() for parameter in model.parameters()}
        saved = {}

        def pack(tensor, saved=saved, own=own):
            if tensor.data_ptr() not in own:
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.model(
                inputs_embeds=torch.randn(1, tokens, 32, requires_grad=True),
                position_ids=torch.arange(tokens)[None],
                cu_seq_lens_q=torch.tensor([0, tokens], dtype=torch.int32),
                use_cache=False,
            )
        kept.append(sum(storage.nbytes() for storage in saved.values()))
    counted = count_activations(config, Precision(torch.float32, autocast=False), checkpointing=False, on_cpu=True)
    assert counted.kept == pytest.approx((kept[1] - kept[0]) / tokens, rel=0.03)


@pytest.mark.parametrize("config", sorted((REPOSITORY / "configs/accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_accelerate_configuration_is_understood(config):
    gpus = 1 if config.stem in ("cpu", "single_gpu") else 8
    strategy = read_strategy(config, gpus, on_cpu=False)
    assert strategy.offload_optimizer == ("offload" in config.stem)
    expected = {"cpu": "none", "single_gpu": "none", "zero3_offload": "zero3"}.get(config.stem, config.stem)
    assert strategy.kind == expected


def test_a_model_that_does_not_fit_is_refused_with_the_option_to_change(job):
    message = job.check("--gpu-memory", "1", code=2)
    assert "GiB are needed per GPU, --gpu-memory is 1" in message and "zero3.yaml" in message


def remedy(fits: int, longest: int = 10_000, tokens: int = 40_000, stage: str = "redi", padded=None, **options) -> str:
    given = {"gradient_checkpointing": True, "padding_free": True, "per_device_train_batch_size": 1}
    given["max_tokens_per_micro_batch"] = None
    args = SimpleNamespace(**given | options)
    recipe = SimpleNamespace(
        trains_on_traces=stage == "redi" and args.padding_free, args=args, strategy=Strategy("zero2", 8)
    )
    load = SimpleNamespace(tokens=tokens)
    padded = not args.padding_free if padded is None else padded
    return check._remedy(recipe, SimpleNamespace(longest=longest, load=load, padded=padded), fits)


def test_the_option_to_change_depends_on_what_is_too_large():
    assert "zero3.yaml" in remedy(fits=0)
    assert remedy(fits=9_000, gradient_checkpointing=False) == "set gradient_checkpointing: true"
    assert remedy(fits=15_070) == "set max_tokens_per_micro_batch: 15000"
    assert remedy(fits=8_000).startswith("set max_length: 8000, which cuts longer traces, or use zero3")
    assert remedy(fits=15_070, padded=True).endswith("max_tokens_per_micro_batch lower than now, at least to 10000")
    assert remedy(fits=15_070, padded=True, max_tokens_per_micro_batch=10_000).startswith("set max_length: ")
    sft = {"stage": "sft", "padding_free": False}
    assert remedy(fits=20_000, per_device_train_batch_size=4, **sft) == "set per_device_train_batch_size: 2"
    assert remedy(fits=20_000, tokens=20_001, longest=20_001, **sft).startswith("set max_length: 20000")


def test_most_tokens_that_fit():
    assert check._most_tokens(lambda tokens: tokens <= 123, 1000) == 123
    assert check._most_tokens(lambda tokens: False, 1000) == 0


def test_a_full_disk_is_refused(job, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 10**7)
    message = job.check(code=2)
    assert "0.0 GB are free; choose another disk" in message


def test_room_for_checkpoints_by_hand(job):
    """ZeRO-2: bytes a parameter are 2 of weights, 2 of DeepSpeed's copy and 12 of optimizer state; 3 lie there."""
    shape = plan.QWEN_1_5B
    few = read_recipe(job.config(), ["--save_total_limit", "2"], 4)
    checkpoint = 16 * shape.params + disk.STATE_FILES + disk.TOKENIZER
    final = 2 * shape.params + disk.TOKENIZER
    assert disk.needed_bytes(few, shape, BF16, saves=9) == (3 * checkpoint + final, 3)
    every = read_recipe(job.config(), [], 4)
    assert disk.needed_bytes(every, shape, BF16, saves=9) == (9 * checkpoint + final, 9)
    assert disk.free_bytes(Path("/no/such/folder")) > 0


def test_adapters_are_small_and_not_sharded(job):
    job.options["lora_r"] = 4
    said = job.check("--accelerate_config", "ddp")
    assert "nothing found" in said
    assert "lora_r=4 needs unsharded weights" in job.check(
        "--accelerate_config", str(REPOSITORY / "configs/accelerate/zero3.yaml"), code=2
    )
    recipe = read_recipe(job.config(), ["--accelerate_config", "ddp"], 4)
    shape = shape_of(Qwen2Config(vocab_size=300, **TINY), recipe.lora)
    # r * (in + out) of q 32-32, k and v 32-16, o 32-32, gate and up 32-64, down 64-32
    assert shape.trained == 4 * (64 + 48 + 48 + 64 + 96 + 96 + 96)
