"""`REDITrainer` on traces against plain PyTorch: splits of a batch, LoRA, architectures, traces that are not pairs."""

import pytest
import torch
from datasets import Dataset
from helpers.oracle import check_steps, config, logged, oracle_logps, oracle_losses, oracle_steps, trained
from helpers.tiny import make_model, make_pairs
from transformers import AutoModelForCausalLM, TrainerCallback

from redi import REDITrainer
from redi.callbacks import CollapseGuard

SPLITS = [  # per device, accumulation, max_tokens_per_micro_batch, padding_free, gradient_checkpointing
    (24, 1, None, True, False),
    (6, 4, None, True, False),
    (2, 12, None, True, False),
    (24, 1, 300, True, False),  # about two traces per micro-batch, so most pairs are split up
    (6, 4, None, True, True),
    (6, 4, None, False, False),
]


OBJECTIVES = {"redi": {}, "bounded": {"alpha": 1.0, "chosen_weight": 0.5, "bounded_negatives": True}}


@pytest.fixture(scope="module", params=OBJECTIVES.values(), ids=OBJECTIVES)
def objective(request) -> dict:
    return request.param


@pytest.fixture(scope="module")
def expected_steps(model_path, tokenizer, objective):
    """Losses and final model of three AdamW steps on 24 pairs: a plain PyTorch loop over single, unpadded traces."""
    return oracle_steps(model_path, tokenizer, make_pairs(24), num_steps=3, **objective)


@pytest.mark.parametrize("per_device, accumulation, max_tokens, padding_free, checkpointing", SPLITS)
def test_every_split_of_a_global_batch_takes_the_same_steps(
    tmp_path,
    model_path,
    tokenizer,
    objective,
    expected_steps,
    per_device,
    accumulation,
    max_tokens,
    padding_free,
    checkpointing,
):
    args = config(
        tmp_path,
        **objective,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        max_tokens_per_micro_batch=max_tokens,
        padding_free=padding_free,
        gradient_checkpointing=checkpointing,
        max_steps=3,
        learning_rate=1e-3,
    )
    trainer = trained(model_path, tokenizer, args, Dataset.from_list(make_pairs(24)))
    check_steps(trainer, *expected_steps)


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


def test_chosen_weight_zero_trains_on_negatives_and_still_watches_positives(tmp_path, model_path, tokenizer, pairs):
    """The collapse guard reads `logps/chosen`."""
    args = config(tmp_path, alpha=1.0, chosen_weight=0.0, per_device_train_batch_size=8)
    trainer = trained(model_path, tokenizer, args, pairs)
    before = AutoModelForCausalLM.from_pretrained(model_path)
    chosen = -oracle_losses(before, tokenizer, make_pairs(), alpha=0.0).mean().item()
    assert logged(trainer, "logps/chosen") == pytest.approx([chosen], abs=1e-5)
    assert logged(trainer, "loss") == pytest.approx(logged(trainer, "logps/rejected"), abs=1e-6)
    assert any(isinstance(callback, CollapseGuard) for callback in trainer.callback_handler.callbacks)


def test_the_largest_micro_batch_is_found_from_lengths(tmp_path, model_path, tokenizer):
    args = config(tmp_path, per_device_train_batch_size=4, max_tokens_per_micro_batch=300)
    dataset = Dataset.from_list(make_pairs(20))
    trainer = REDITrainer(model=model_path, args=args, train_dataset=dataset, processing_class=tokenizer)
    sizes = [batch["model_inputs"]["input_ids"].numel() for step in range(5) for batch in trainer.steps[step]]
    assert trainer.steps.largest()["model_inputs"]["input_ids"].numel() == max(sizes)


def test_the_rehearsal_changes_nothing(tmp_path, model_path, tokenizer, pairs, monkeypatch):
    """Weights and random state are bitwise those without it. One more micro-batch goes through the model."""
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


def test_out_of_memory_names_the_option_to_lower(tmp_path, model_path, tokenizer, pairs, monkeypatch):
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


# --- architectures and lengths -----------------------------------------------------------------------------------


def test_gemma2_is_padded_with_one_line_and_exact(tmp_path, tokenizer, pairs, caplog):
    """Its attention caps logits, so it can be packed only with flash-attention."""
    folder = tmp_path / "gemma2"
    options = dict(head_dim=8, sliding_window=6, query_pre_attn_scalar=8, attn_logit_softcapping=0.5)
    make_model(seed=1, architecture="Gemma2", **options).save_pretrained(folder)
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
    model = make_model(
        len(tokenizer), architecture="Llama", num_hidden_layers=1, max_position_embeddings=40000, head_dim=8
    )
    rows = make_pairs(1)
    rows[0]["chosen"][0]["content"] = "7" * 32000  # one token per digit
    args = config(tmp_path, per_device_train_batch_size=1)
    trainer = REDITrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    assert logged(trainer, "completions/mean_length/chosen")[0] > 32000
    assert torch.isfinite(torch.tensor(logged(trainer, "loss"))).all()


# --- traces that are not pairs -----------------------------------------------------------------------------------


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


class Damage(TrainerCallback):
    """Puts NaN into the head's weights, after the model has been checked."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            model.lm_head.weight.fill_(float("nan"))


def test_a_nan_stops_before_the_step_and_names_the_rows(tmp_path, model_path, tokenizer, pairs):
    trainer = REDITrainer(
        model=model_path,
        args=config(tmp_path, max_steps=2),
        train_dataset=pairs,
        processing_class=tokenizer,
        callbacks=[Damage()],
    )
    with pytest.raises(FloatingPointError, match=r"in step 1; batch: row \d"):
        trainer.train()
    assert trainer.state.global_step == 0
