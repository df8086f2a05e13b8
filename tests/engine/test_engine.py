"""The trace engine against plain PyTorch: splits, architectures, traces that are no pairs, several processes."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from datasets import Dataset
from helpers.oracle import check_steps, config, logged, oracle_logps, oracle_losses, oracle_steps, trained
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs
from transformers import AutoModelForCausalLM
from trl import DPOTrainer

from redi import REDITrainer
from redi.engine.attention import enable_packing
from redi.engine.logprobs import add_scoring

BASE = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
BASE |= dict(vocab_size=300, max_position_embeddings=1024, initializer_range=0.2, head_dim=8, tie_word_embeddings=True)
SPLITS = [  # per device, accumulation, room, padding_free, gradient_checkpointing
    (24, 1, None, True, False),
    (6, 4, None, True, False),
    (2, 12, None, True, False),
    (24, 1, 300, True, False),  # room for about two traces: most pairs are apart
    (6, 4, None, True, True),
    (6, 4, None, False, False),
]


@pytest.mark.parametrize("per_device, accumulation, room, padding_free, checkpointing", SPLITS)
def test_every_split_of_a_global_batch_takes_the_same_steps(
    tmp_path, model_path, tokenizer, per_device, accumulation, room, padding_free, checkpointing
):
    """Three AdamW steps on 24 pairs equal a plain PyTorch loop over them, one trace at a time, without padding."""
    rows = make_pairs(24)
    args = config(
        tmp_path,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        max_tokens_per_micro_batch=room,
        padding_free=padding_free,
        gradient_checkpointing=checkpointing,
        max_steps=3,
        learning_rate=1e-3,
    )
    trainer = trained(model_path, tokenizer, args, Dataset.from_list(rows))
    check_steps(trainer, *oracle_steps(model_path, tokenizer, rows, num_steps=3))


def test_a_last_smaller_global_batch_is_averaged_over_its_own_pairs(tmp_path, model_path, tokenizer):
    """10 pairs in batches of 4: the third step has 2, and its loss is their mean."""
    args = config(tmp_path, max_steps=-1, num_train_epochs=1, learning_rate=0.0)
    trainer = trained(model_path, tokenizer, args, Dataset.from_list(make_pairs(10)))
    model = AutoModelForCausalLM.from_pretrained(model_path)
    losses = oracle_losses(model, tokenizer, make_pairs(10), alpha=0.8).detach()
    expected = [losses[trainer.steps.rows(step)].mean().item() for step in range(3)]
    assert logged(trainer, "loss") == pytest.approx(expected, abs=2e-5)
    assert [len(trainer.steps.rows(step)) for step in range(3)] == [4, 4, 2]


def test_alpha_zero_spends_nothing_on_negatives(tmp_path, model_path, tokenizer, pairs):
    trainer = trained(model_path, tokenizer, config(tmp_path, alpha=0.0, per_device_train_batch_size=8), pairs)
    (batch,) = trainer.steps[0]
    num_tokens = sum(len(row["prompt_ids"]) + len(row["chosen_ids"]) for row in trainer.train_dataset)
    assert batch["model_inputs"]["input_ids"].numel() == num_tokens
    assert logged(trainer, "logps/rejected") == []


def test_the_largest_micro_batch_is_found_from_lengths(tmp_path, model_path, tokenizer):
    args = config(tmp_path, per_device_train_batch_size=4, max_tokens_per_micro_batch=300)
    dataset = Dataset.from_list(make_pairs(20))
    trainer = REDITrainer(model=model_path, args=args, train_dataset=dataset, processing_class=tokenizer)
    sizes = [batch["model_inputs"]["input_ids"].numel() for step in range(5) for batch in trainer.steps[step]]
    assert trainer.steps.largest()["model_inputs"]["input_ids"].numel() == max(sizes)


def test_the_rehearsal_changes_nothing(tmp_path, model_path, tokenizer, pairs, monkeypatch):
    """Bit for bit the same weights and random state as without it; one more micro-batch goes through the model."""
    calls = []
    original = REDITrainer._trace_loss
    monkeypatch.setattr(REDITrainer, "_trace_loss", lambda *args: calls.append(1) or original(*args))
    args = config(tmp_path, max_steps=2, per_device_train_batch_size=8)
    rehearsed = trained(model_path, tokenizer, args, pairs)
    state = torch.random.get_rng_state()
    assert len(calls) == 3
    monkeypatch.setattr(REDITrainer, "_rehearse", lambda self, model: None)
    plain = trained(model_path, tokenizer, args, pairs)
    assert len(calls) == 5
    assert torch.equal(state, torch.random.get_rng_state())
    for expected, actual in zip(plain.model.parameters(), rehearsed.model.parameters(), strict=True):
        assert torch.equal(actual, expected)


def test_out_of_memory_names_the_knob(tmp_path, model_path, tokenizer, pairs, monkeypatch):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(REDITrainer, "_trace_loss", fail)
    with pytest.raises(RuntimeError, match="out of memory on the largest micro-batch, .* lower max_tokens_per_micro"):
        trained(model_path, tokenizer, config(tmp_path), pairs)


def test_lora_trains_adapters_and_leaves_the_base(tmp_path, model_path, tokenizer, pairs):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    args = config(tmp_path, per_device_train_batch_size=8, max_steps=2)
    trainer = trained(model_path, tokenizer, args, pairs, peft_config=lora)
    base = AutoModelForCausalLM.from_pretrained(model_path)
    expected = oracle_losses(base, tokenizer, make_pairs(), alpha=0.8).mean().item()
    assert logged(trainer, "loss")[0] == pytest.approx(expected, abs=2e-5)  # adapters start at zero
    assert trainer.ref_model is None
    adapters = {n: p for n, p in trainer.model.named_parameters() if "lora_B" in n}
    assert adapters and all(p.abs().sum() > 0 for p in adapters.values())
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, weight in base.state_dict().items():
        changed = not torch.equal(loaded[name], weight)
        assert changed == (name.endswith(("q_proj.weight", "v_proj.weight"))), name


def test_a_peft_model_gets_no_reference_adapter(tmp_path, model_path, tokenizer, pairs):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model_path), lora)
    trainer = trained(model, tokenizer, config(tmp_path), pairs)
    assert list(trainer.model.peft_config) == ["default"] and trainer.ref_model is None


# --- architectures -----------------------------------------------------------------------------------------------


def tiny(architecture: str) -> transformers.PreTrainedModel:
    torch.manual_seed(1)
    extra = {
        "Qwen2": {"use_sliding_window": False},
        "Llama": {},
        "Mistral": {"sliding_window": 6},
        "Gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 0.5},
        "Qwen3": {},
    }[architecture]
    config_class = getattr(transformers, f"{architecture}Config")
    return getattr(transformers, f"{architecture}ForCausalLM")(config_class(**BASE, **extra)).eval()


@pytest.mark.parametrize("architecture", ["Qwen2", "Qwen3", "Llama", "Mistral"])
def test_packed_equals_one_trace_at_a_time(architecture):
    """Also with sliding windows (Mistral), and log-probabilities of the scored positions only."""
    model = tiny(architecture)
    traces = [torch.randint(1, 300, (length,)) for length in (17, 5, 30)]
    expected = torch.cat(
        [torch.log_softmax(model(t[None]).logits[0, :-1], -1).gather(1, t[1:, None])[:, 0] for t in traces]
    )
    assert enable_packing(model) is None
    add_scoring(model)
    boundaries = torch.tensor([0, 17, 22, 52], dtype=torch.int32)
    packed = model(
        input_ids=torch.cat(traces)[None],
        position_ids=torch.cat([torch.arange(len(t)) for t in traces])[None],
        cu_seq_lens_q=boundaries,
        cu_seq_lens_k=boundaries,
        max_length_q=30,
        max_length_k=30,
        positions=torch.tensor([i for i in range(52) if i not in (16, 21, 51)]),
        targets=torch.cat([t[1:] for t in traces]),
    )
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-5)


def test_gemma2_is_padded_with_one_line_and_exact(tmp_path, tokenizer, pairs, caplog):
    """Its attention caps logits, which cannot be packed without flash-attention."""
    folder = tmp_path / "gemma2"
    tiny("Gemma2").save_pretrained(folder)
    args = config(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=1)
    trainer = trained(str(folder), tokenizer, args, pairs)
    lines = [record.getMessage() for record in caplog.records if "padded, not packed" in record.getMessage()]
    assert len(lines) == 1 and "attn_logit_softcapping" in lines[0]
    losses = {}
    for attention in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
        losses[attention] = oracle_losses(model, tokenizer, make_pairs(), alpha=0.8).mean().item()
    assert logged(trainer, "loss")[0] == pytest.approx(losses["eager"], abs=2e-5)
    assert abs(losses["eager"] - losses["sdpa"]) > 1e-3  # transformers' SDPA leaves the cap out


@pytest.mark.slow
def test_one_trace_of_32k_tokens_trains(tmp_path, tokenizer):
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **(BASE | {"num_hidden_layers": 1, "max_position_embeddings": 40000, "vocab_size": len(tokenizer)})
        )
    )
    rows = make_pairs(1)
    rows[0]["chosen"][0]["content"] = "7" * 32000  # a token a digit
    args = config(tmp_path, per_device_train_batch_size=1)
    trainer = REDITrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    assert logged(trainer, "completions/mean_length/chosen")[0] > 32000
    assert torch.isfinite(torch.tensor(logged(trainer, "loss"))).all()


# --- traces that are no pairs ------------------------------------------------------------------------------------


def test_pairs_given_as_traces_take_the_same_step(tmp_path, model_path, tokenizer, pairs):
    traces = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in make_pairs()
        for side in ("chosen", "rejected")
    ]
    args = config(tmp_path, per_device_train_batch_size=8)
    as_pairs = trained(model_path, tokenizer, args, pairs)
    as_traces = trained(model_path, tokenizer, args, Dataset.from_list(traces))
    assert logged(as_traces, "loss") == pytest.approx(logged(as_pairs, "loss"), abs=1e-6)
    for expected, actual in zip(as_pairs.model.parameters(), as_traces.model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_unpaired_and_several_traces_are_means_over_problems_then_over_a_side(tmp_path, model_path, tokenizer):
    """Problem a: a positive, negatives of weight 1 and 3. Problem b: a negative alone. Problem c: a positive alone."""
    rows = [("a", "good", True, 1.0), ("a", "bad one", False, 1.0), ("b", "wrong", False, 1.0)]
    rows += [("a", "bad two", False, 3.0), ("c", "right", True, 1.0)]
    dataset = Dataset.from_list(
        [dict(zip(("prompt", "completion", "label", "weight"), row, strict=True)) for row in rows]
    )
    trainer = trained(model_path, tokenizer, config(tmp_path, per_device_train_batch_size=3), dataset)
    model = AutoModelForCausalLM.from_pretrained(model_path)
    logp = {}
    for prompt, completion, _, _ in rows:
        total, length = oracle_logps(model, tokenizer, prompt, completion)
        logp[completion] = total.item() / length
    a = -logp["good"] + 0.8 * (logp["bad one"] + 3 * logp["bad two"]) / 4
    expected = (a + 0.8 * logp["wrong"] - logp["right"]) / 3
    assert logged(trainer, "loss")[0] == pytest.approx(expected, abs=2e-5)
    chosen = (logp["good"] + logp["right"]) / 2  # over the problems that have positives
    assert logged(trainer, "logps/chosen")[0] == pytest.approx(chosen, abs=1e-5)


def test_rows_that_cannot_be_trained_on_are_dropped_by_name(tmp_path, model_path, tokenizer, caplog):
    rows = make_pairs(4)
    rows[1]["rejected"][0]["content"] = ""
    for i, row in enumerate(rows):
        row["uuid"] = f"problem-{i}"
    trainer = REDITrainer(
        model=model_path, args=config(tmp_path), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    assert len(trainer.train_dataset) == 3
    assert any("1 of 4 rows dropped for an empty completion: problem-1" in r.getMessage() for r in caplog.records)


def test_a_nan_stops_before_the_step_and_names_the_rows(tmp_path, model_path, tokenizer, pairs):
    trainer = REDITrainer(
        model=model_path, args=config(tmp_path, max_steps=2), train_dataset=pairs, processing_class=tokenizer
    )
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"in step 1; batch: row \d"):
        trainer.train()
    assert trainer.state.global_step == 0


# --- several processes -------------------------------------------------------------------------------------------

ARGUMENTS = "--per_device_train_batch_size 2 --max_steps 3 --logging_steps 1 --save_strategy no --learning_rate 1e-3"
ARGUMENTS += " --lr_scheduler_type constant --use_cpu true --bf16 false --gradient_checkpointing false"
ARGUMENTS += " --log_update_norm true"
METRICS = ["loss", "logps/chosen", "logps/rejected", "rewards/margins", "rewards/accuracies"]
METRICS += ["grad_norm", "update_norm"]


def launch(folder: Path, name: str, launcher: list[str], model_path: str, accumulation: int) -> Path:
    command = [sys.executable, "-m", *launcher, str(REPOSITORY / "scripts/train_redi.py"), *ARGUMENTS.split()]
    command += ["--model_name_or_path", model_path, "--dataset_name", str(folder / "pairs.parquet")]
    command += ["--output_dir", str(folder / name), "--gradient_accumulation_steps", str(accumulation)]
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "zero2", "zero3", "fsdp2"])
def test_two_processes_equal_one(tmp_path, model_path, kind):
    """18 pairs in global batches of 8 (the last has 2): traces of a pair land on either rank, with the same result."""
    Dataset.from_list(make_pairs(18)).to_parquet(tmp_path / "pairs.parquet")
    if kind in ("ddp", "fsdp2"):  # accelerate launches several CPU processes through MPI alone; torchrun does for GPUs
        launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
        launcher += [str(REPOSITORY / "tests/helpers/fsdp2_on_cpu.py")] if kind == "fsdp2" else []
    else:
        shipped = yaml.safe_load((REPOSITORY / f"configs/accelerate/{kind}.yaml").read_text())
        shipped.update(use_cpu=True, num_processes=2, mixed_precision="no")
        (tmp_path / "accelerate.yaml").write_text(yaml.safe_dump(shipped))
        launcher = ["accelerate.commands.launch", "--main_process_port", "0"]
        launcher += ["--config_file", str(tmp_path / "accelerate.yaml")]
    two = launch(tmp_path, kind, launcher, model_path, accumulation=2)
    cpu = ["accelerate.commands.launch", "--config_file", str(REPOSITORY / "configs/accelerate/cpu.yaml")]
    one = launch(tmp_path, "one", cpu, model_path, accumulation=4)
    logs = []
    for folder in (one, two):
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        logs.append([entry for entry in history if "loss" in entry])
    assert json.loads((two / "manifest.json").read_text())["counts"]["world_size"] == 2
    assert len(logs[0]) == 3
    rewards = ["rewards/margins", "rewards/accuracies"]
    for key in ("loss", "logps/chosen", "logps/rejected", *rewards, "grad_norm", "update_norm"):
        assert [entry[key] for entry in logs[1]] == pytest.approx(
            [entry[key] for entry in logs[0]], rel=2e-5, abs=1e-6
        )
    expected, actual = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (one, two))
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], atol=2e-6, rtol=1e-5)


# --- the ground it stands on -------------------------------------------------------------------------------------


def test_the_private_hooks_of_trl_are_as_expected():
    """Fails when an upgrade of TRL or transformers moves what `redi/trainer.py` and `redi/scoring.py` rely on."""

    def parameters(function) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert parameters(DPOTrainer._prepare_dataset) == ["self", "dataset", "processing_class", "args", "dataset_name"]
    assert parameters(DPOTrainer._precompute_ref_logps) == ["self", "dataset", "name", "batch_size"]
    assert parameters(DPOTrainer._compute_loss) == ["self", "model", "inputs", "return_outputs"]
    assert parameters(DPOTrainer.training_step) == ["self", "args", "kwargs"]
    # Where a reference model or adapter is made, see redi.trainer._NoReferenceModel.
    source = inspect.getsource(DPOTrainer.__init__)
    condition = "if is_peft_model(self.model) or (args.precompute_ref_log_probs and not self.is_fsdp_enabled):"
    assert source.index("super().__init__(") < source.index(condition) and 'add_adapter("ref"' in source
    before, after = inspect.getsource(transformers.Trainer.__init__).split("callback_handler.on_init_end(")
    assert "self.is_fsdp_enabled" in before and "self.is_fsdp_enabled" not in after
    assert parameters(transformers.Trainer.training_step) == ["self", "model", "inputs", "num_items_in_batch"]
    assert parameters(transformers.Trainer.get_train_dataloader) == ["self"]
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import global_then_local_main_first, maybe_gather_lm_head_ctx

    expected = ["ctx", "hidden", "weight", "bias", "targets", "temperature", "chunk_size"]
    expected += ["final_logit_softcapping", "logit_scale", "outputs"]
    assert parameters(ChunkedLogProbFunction.forward) == expected
    assert callable(global_then_local_main_first) and callable(maybe_gather_lm_head_ctx)
