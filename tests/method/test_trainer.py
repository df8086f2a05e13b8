"""`REDITrainer` on pairs against plain PyTorch: tokens, loss, metrics, refused input, and the TRL hooks it needs."""

import inspect

import pytest
import torch
import transformers
from accelerate.parallelism_config import ParallelismConfig
from datasets import Dataset
from helpers.oracle import SYSTEM, config, logged, oracle_logps, oracle_losses, trained
from helpers.tiny import make_model, make_pairs
from transformers import AutoModelForCausalLM
from trl import DPOTrainer
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import global_then_local_main_first, maybe_gather_lm_head_ctx

from redi import REDITrainer
from redi.losses import redi_loss, simpo_loss


@pytest.mark.parametrize("alpha", [0.0, 0.8, 1.0])
def test_loss_equals_plain_log_softmax(tmp_path, model_path, tokenizer, pairs, alpha):
    trainer = trained(model_path, tokenizer, config(tmp_path, alpha=alpha, per_device_train_batch_size=8), pairs)
    model = AutoModelForCausalLM.from_pretrained(model_path)
    expected = oracle_losses(model, tokenizer, make_pairs(), alpha).mean().item()
    assert logged(trainer, "loss")[0] == pytest.approx(expected, abs=2e-5)


def test_metrics_are_mean_per_token_logps_and_make_up_the_loss(tmp_path, model_path, tokenizer, pairs):
    trainer = trained(model_path, tokenizer, config(tmp_path, alpha=0.8, per_device_train_batch_size=8), pairs)
    model = AutoModelForCausalLM.from_pretrained(model_path)
    chosen, rejected, accuracy = [], [], []
    for row in make_pairs():
        prompt = row["prompt"][0]["content"]
        for side, values in (("chosen", chosen), ("rejected", rejected)):
            logps, length = oracle_logps(model, tokenizer, prompt, row[side][0]["content"])
            values.append(logps.item() / length)
        accuracy.append(chosen[-1] > rejected[-1])
    log = {key: logged(trainer, key)[0] for key in trainer.state.log_history[0]}
    assert log["logps/chosen"] == pytest.approx(sum(chosen) / 8, abs=1e-5)
    assert log["logps/rejected"] == pytest.approx(sum(rejected) / 8, abs=1e-5)
    assert log["rewards/accuracies"] == pytest.approx(sum(accuracy) / 8)
    assert log["rewards/margins"] == pytest.approx(log["logps/chosen"] - log["logps/rejected"], abs=1e-5)
    assert log["loss"] == pytest.approx(-log["logps/chosen"] + 0.8 * log["logps/rejected"], abs=2e-5)


def test_no_reference_model_is_made(tmp_path, model_path, tokenizer, pairs):
    trainer = trained(model_path, tokenizer, config(tmp_path), pairs)
    assert trainer.ref_model is None


def test_on_disk_shape_gives_the_same_tokens_as_the_trl_shape(tmp_path, model_path, tokenizer, pairs):
    on_disk = [
        {
            "prompt": row["prompt"][0]["content"],
            "chosen": row["prompt"] + row["chosen"],
            "rejected": row["prompt"] + row["rejected"],
        }
        for row in make_pairs()
    ]
    without_prompt = [{"chosen": row["chosen"], "rejected": row["rejected"]} for row in on_disk]
    prepared = [
        REDITrainer(
            model=model_path, args=config(tmp_path), train_dataset=dataset, processing_class=tokenizer
        ).train_dataset.to_list()
        for dataset in (pairs, Dataset.from_list(on_disk), Dataset.from_list(without_prompt))
    ]
    assert prepared[0] == prepared[1] == prepared[2]


def test_tokens_are_content_end_of_turn_and_one_eos(tmp_path, model_path, tokenizer, pairs):
    row = REDITrainer(
        model=model_path, args=config(tmp_path), train_dataset=pairs, processing_class=tokenizer
    ).train_dataset[1]
    assert tokenizer.decode(row["prompt_ids"]) == (
        f"{SYSTEM}<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(row["chosen_ids"]) == (
        "<think>\nstep 0 is 1. step 1 is 2.\n</think>\n\\boxed{2}<|im_end|>\n<|endoftext|>"
    )
    assert row["rejected_ids"].count(tokenizer.eos_token_id) == 1


def test_leading_white_space_of_a_completion_never_merges_into_the_prompt(tmp_path, model_path, tokenizer):
    rows = make_pairs(1)
    rows[0]["chosen"][0]["content"] = "\n\n" + rows[0]["chosen"][0]["content"]
    row = REDITrainer(
        model=model_path, args=config(tmp_path), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    ).train_dataset[0]
    assert tokenizer.decode(row["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(row["chosen_ids"]).startswith("\n\n<think>")


def test_truncated_trace_is_normalised_by_what_is_scored(tmp_path, model_path, tokenizer):
    """A trace cut to `max_length` counts only its kept tokens. A pair whose prompt fills it is dropped."""
    rows = make_pairs(2)
    rows[1]["prompt"][0]["content"] = "very long " * 60
    trainer = REDITrainer(
        model=model_path, args=config(tmp_path), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    prompt_length = len(trainer.train_dataset[0]["prompt_ids"])
    args = config(tmp_path, max_length=prompt_length + 5, per_device_train_batch_size=1)
    trainer = trained(model_path, tokenizer, args, Dataset.from_list(rows))
    assert len(trainer.train_dataset) == 1
    assert logged(trainer, "completions/mean_length/chosen") == [5.0]

    model = AutoModelForCausalLM.from_pretrained(model_path)
    row = trainer.train_dataset[0]
    expected = 0.0
    for sign, ids in ((-1.0, row["chosen_ids"][:5]), (0.8, row["rejected_ids"][:5])):
        logits = model(torch.tensor([row["prompt_ids"] + ids])).logits[0, prompt_length - 1 : -1]
        expected += sign * torch.log_softmax(logits, -1)[torch.arange(5), torch.tensor(ids)].mean().item()
    assert logged(trainer, "loss")[0] == pytest.approx(expected, abs=2e-5)


def test_logps_are_float32_for_a_bfloat16_model(tmp_path, tokenizer, pairs):
    model = make_model(len(tokenizer)).to(torch.bfloat16)
    trainer = REDITrainer(model=model, args=config(tmp_path), train_dataset=pairs, processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    seen = {}
    trainer.pair_loss = lambda *args: seen.update(dtypes=[a.dtype for a in args[:2]]) or redi_loss(*args, alpha=0.8)
    loss = trainer.compute_loss(trainer.model, batch)
    assert seen["dtypes"] == [torch.float32, torch.float32]
    assert loss.dtype == torch.float32


def test_simpo_objective_uses_its_own_function(tmp_path, model_path, tokenizer, pairs):
    args = config(tmp_path, objective="simpo", simpo_beta=2.0, simpo_gamma=1.0, per_device_train_batch_size=8)
    trainer = trained(model_path, tokenizer, args, pairs)
    model = AutoModelForCausalLM.from_pretrained(model_path)
    losses = []
    for row in make_pairs():
        prompt = row["prompt"][0]["content"]
        sides = [oracle_logps(model, tokenizer, prompt, row[side][0]["content"]) for side in ("chosen", "rejected")]
        (chosen, chosen_length), (rejected, rejected_length) = sides
        lengths = torch.tensor(chosen_length), torch.tensor(rejected_length)
        losses.append(simpo_loss(chosen, rejected, *lengths, beta=2.0, gamma=1.0).item())
    assert logged(trainer, "loss")[0] == pytest.approx(sum(losses) / len(losses), abs=2e-5)


def test_evaluation_works_after_training(tmp_path, model_path, tokenizer, pairs):
    args = config(tmp_path, per_device_eval_batch_size=8, learning_rate=0.0)
    trainer = trained(model_path, tokenizer, args, pairs, eval_dataset=pairs)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(
        -metrics["eval_logps/chosen"] + 0.8 * metrics["eval_logps/rejected"], abs=1e-4
    )


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"prompt": "x", "chosen": "a", "rejected": "b"}], "row 0 .*`chosen` must be a list of messages"),
        ([{"chosen": [{"role": "user", "content": "x"}], "rejected": []}], "row 0 .* must end with an assistant turn"),
        ([{"prompt": "x", "completion": "y"}], "has the columns .* trains on pairs"),
    ],
)
def test_wrong_rows_are_refused_with_their_number(tmp_path, model_path, tokenizer, rows, message):
    with pytest.raises(ValueError, match=message):
        REDITrainer(
            model=model_path, args=config(tmp_path), train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"beta": 0.1}, "beta=0.1 is a DPO option that REDI does not read"),
        ({"loss_type": "sigmoid"}, "loss_type='sigmoid'"),
        ({"sync_ref_model": False}, "sync_ref_model=False"),
        ({"alpha": 1.5}, r"alpha=1.5 is outside \[0, 1\]"),
        ({"simpo_beta": 2.0}, "only with objective='simpo'"),
        ({"objective": "simpo", "alpha": 0.5}, "alpha=0.5 is not read"),
        ({"objective": "simpo", "bounded_negatives": False}, "bounded_negatives=False is not read"),
        ({"objective": "dpo"}, "objective='dpo' is unknown; use 'redi' or 'simpo'; DPO is a stage, see recipes/dpo"),
        ({"chosen_weight": -0.1}, r"chosen_weight=-0.1 is outside \[0, 1\]"),
        ({"alpha": 0.0, "chosen_weight": 0.0}, "alpha=0.0, chosen_weight=0.0, .* both sides have weight 0"),
        ({"alpha": 0.0, "bounded_negatives": True}, "bounded_negatives=True has no effect with alpha=0"),
        ({"parallelism_config": ParallelismConfig(cp_size=2)}, "parallelism_config is not supported"),
        ({"data_seed": 1}, "data_seed=1 is read only with padding_free=False"),
        ({"objective": "simpo", "padding_free": True}, "padding_free=True needs objective='redi'"),
        ({"padding_free": False, "max_tokens_per_micro_batch": 9}, "is read only with padding_free=True"),
    ],
)
def test_options_that_do_nothing_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)


def test_the_private_hooks_of_trl_are_as_expected():
    """Fails when an upgrade of TRL or transformers moves what `redi.trainer` and `redi.engine.logprobs` rely on."""

    def parameters(function) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert parameters(DPOTrainer._prepare_dataset) == ["self", "dataset", "processing_class", "args", "dataset_name"]
    assert parameters(DPOTrainer._precompute_ref_logps) == ["self", "dataset", "name", "batch_size"]
    assert parameters(DPOTrainer._compute_loss) == ["self", "model", "inputs", "return_outputs"]
    assert parameters(DPOTrainer.training_step) == ["self", "args", "kwargs"]
    # The places that make a reference model or adapter; see redi.trainer._NoReferenceModel.
    source = inspect.getsource(DPOTrainer.__init__)
    condition = "if is_peft_model(self.model) or (args.precompute_ref_log_probs and not self.is_fsdp_enabled):"
    assert source.index("super().__init__(") < source.index(condition) and 'add_adapter("ref"' in source
    before, after = inspect.getsource(transformers.Trainer.__init__).split("callback_handler.on_init_end(")
    assert "self.is_fsdp_enabled" in before and "self.is_fsdp_enabled" not in after
    assert parameters(transformers.Trainer.training_step) == ["self", "model", "inputs", "num_items_in_batch"]
    assert parameters(transformers.Trainer.get_train_dataloader) == ["self"]
    prepare = transformers.Trainer._prepare_for_training  # and those of redi.checks
    assert parameters(prepare) == ["self", "max_steps", "train_dataloader", "resume_from_checkpoint"]
    assert parameters(transformers.Trainer._get_grad_norm) == ["self", "model", "grad_norm"]
    assert parameters(transformers.Trainer.save_model) == ["self", "output_dir", "_internal_call"]
    expected = ["ctx", "hidden", "weight", "bias", "targets", "temperature", "chunk_size"]
    expected += ["final_logit_softcapping", "logit_scale", "outputs"]
    assert parameters(ChunkedLogProbFunction.forward) == expected
    assert callable(global_then_local_main_first) and callable(maybe_gather_lm_head_ctx)
