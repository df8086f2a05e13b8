"""What every trainer checks: the model before the first step, losses and gradients at each step, weights at a save."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from helpers import architectures
from helpers.commands import arguments, log_of, weights_of
from helpers.oracle import config, logged, oracle_losses
from helpers.tiny import make_model, make_pairs

from redi import REDIConfig, REDITrainer
from redi.checks import CheckedTrainer
from redi.config import PackedSFTConfig
from redi.runs.checkpoints import last_complete_checkpoint
from redi.runs.errors import UsageError
from redi.sft import PackedSFTTrainer
from redi.text.training_rows import prepare_rows
from redi.training import train

STAGES = [("sft", []), ("dpo", []), ("simpo", ["--objective", "simpo"]), ("redi", [])]
STAGES += [("redi", ["--padding_free", "false"])]


# --- NaN ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [["--save_strategy", "no"], ["--save_strategy", "steps", "--save_steps", "1"]])
@pytest.mark.parametrize("stage, options", STAGES)
def test_a_run_that_explodes_leaves_no_model(model_path, rows_file, tmp_path, stage, options, save):
    out = tmp_path / "out"
    argv = arguments(model_path, rows_file, out, *options, *save, "--learning_rate", "1e30", "--max_steps", "3")
    with pytest.raises(UsageError, match=r"NaN or infinite .*(lower learning_rate=1e\+30|batch: )"):
        train(stage, argv)
    assert not list(out.rglob("*.safetensors")) and not (out / "manifest.json").exists()


@pytest.mark.parametrize("stage, options", STAGES)
def test_the_last_step_is_checked_too(model_path, rows_file, tmp_path, stage, options):
    """Loss and gradient of the only step are finite; the weights after it are not."""
    argv = arguments(model_path, rows_file, tmp_path / "out", *options, "--max_steps", "1", "--learning_rate", "1e30")
    with pytest.raises(UsageError, match="NaN or infinite weights after 1 steps"):
        train(stage, argv)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


class NaNGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("nan")


def test_a_nan_gradient_of_a_finite_loss_ends_before_the_step(tmp_path, model_path, tokenizer, pairs, monkeypatch):
    original = REDITrainer._trace_loss

    def poisoned(self, model, batch):
        loss, logps = original(self, model, batch)
        return NaNGradient.apply(loss), logps

    monkeypatch.setattr(REDITrainer, "_trace_loss", poisoned)
    args = config(tmp_path, max_steps=2)
    trainer = REDITrainer(model=model_path, args=args, train_dataset=pairs, processing_class=tokenizer)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    with pytest.raises(FloatingPointError, match="NaN or infinite loss or gradient norm after 0 steps"):
        trainer.train()
    assert all(torch.equal(*both) for both in zip(before, trainer.model.parameters(), strict=True))


def test_checkpoints_before_the_explosion_are_kept(model_path, rows_file, tmp_path):
    out = tmp_path / "out"
    options = ["--save_strategy", "steps", "--save_steps", "1", "--max_steps", "4", "--learning_rate", "1e-3"]
    monkey = {"count": 0}
    original = CheckedTrainer._get_grad_norm

    def fails_at_step_3(self, *args, **kwargs):
        monkey["count"] += 1
        if monkey["count"] == 3:
            self._loss_of_step = torch.tensor(float("nan"))
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckedTrainer, "_get_grad_norm", fails_at_step_3)
        with pytest.raises(UsageError, match="after 2 steps"):
            train("sft", arguments(model_path, rows_file, out, *options))
    checkpoint, incomplete = last_complete_checkpoint(out)
    assert checkpoint.name == "checkpoint-2" and not incomplete
    assert all(weight.isfinite().all() for weight in weights_of(checkpoint).values())
    train("sft", arguments(model_path, rows_file, out, *options))
    assert [entry["step"] for entry in log_of(out)] == [1, 2, 3, 4]


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config, trainer", [(REDIConfig, REDITrainer), (PackedSFTConfig, PackedSFTTrainer)])
def test_a_token_given_in_python_is_in_no_file(model_path, tokenizer, rows_file, tmp_path, config, trainer):
    args = config(str(tmp_path), hub_token="hf_of_this_test", max_steps=1, save_steps=1, use_cpu=True, bf16=False)
    kind = "pairs" if config is REDIConfig else "positives"
    rows = prepare_rows(Dataset.from_parquet(rows_file), (kind,), tokenizer, None)[0]
    made = trainer(model=model_path, args=args, train_dataset=rows, processing_class=tokenizer)
    made.train()
    made.save_model()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len([path for path in files if path.name == "training_args.bin"]) == 2
    assert not [path for path in files if b"hf_of_this_test" in path.read_bytes()]  # torch.save does not compress
    assert made.args.hub_token == "hf_of_this_test"


# --- the model ---------------------------------------------------------------------------------------------------


def save(model, tokenizer, folder) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["gpt_oss", "nemotron", "granite_swa"])
def test_redi_pads_where_packing_would_be_wrong(tmp_path, tokenizer, name, caplog):
    """The loss is that of the model's own attention on each trace alone."""
    model = architectures.tiny_model(name)
    with torch.no_grad():
        expected = oracle_losses(model, tokenizer, make_pairs(), alpha=0.8).mean().item()
    args = config(tmp_path, per_device_train_batch_size=8)
    trainer = REDITrainer(
        model=model, args=args, train_dataset=Dataset.from_list(make_pairs()), processing_class=tokenizer
    )
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(expected, abs=5e-5)
    lines = [r.getMessage() for r in caplog.records if "padded, not packed" in r.getMessage()]
    assert len(lines) == 1 and "differ from those of each trace alone" in lines[0]


def test_sft_pads_where_packing_would_be_wrong_and_refuses_packed_rows(tmp_path, tokenizer, rows_file):
    path = save(architectures.tiny_model("gpt_oss"), tokenizer, tmp_path / "model")
    losses = []
    for name, options in (("padded", []), ("free", ["--padding_free", "true"])):
        train("sft", arguments(path, rows_file, tmp_path / name, *options))
        losses.append([entry["loss"] for entry in log_of(tmp_path / name)])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    with pytest.raises(UsageError, match="remove packing"):
        train("sft", arguments(path, rows_file, tmp_path / "packed", "--packing", "true"))


@pytest.mark.parametrize("stage", ["sft", "redi", "dpo"])
def test_a_model_that_sees_padding_is_refused_by_every_stage(tmp_path, tokenizer, rows_file, stage):
    path = save(architectures.tiny_model("doge"), tokenizer, tmp_path / "model")
    with pytest.raises(UsageError, match="padded, the logits of DogeForCausalLM differ"):
        train(stage, arguments(path, rows_file, tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_damaged_model_is_refused_before_the_first_step(tmp_path, tokenizer, rows_file):
    model = make_model(len(tokenizer))
    model.model.norm.weight.data.fill_(float("nan"))
    path = save(model, tokenizer, tmp_path / "model")
    with pytest.raises(UsageError, match="are NaN or infinite: its weights are damaged"):
        train("sft", arguments(path, rows_file, tmp_path / "out"))


# --- options of this kind ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, stored", [(["--dtype", "float16"], "float32"), (["--dtype", "auto"], "float16")])
def test_float16_weights_alone_are_refused(tmp_path, tokenizer, rows_file, options, stored):
    model = make_model(len(tokenizer)).to(getattr(torch, stored))
    path = save(model, tokenizer, tmp_path / "model")
    with pytest.raises(UsageError, match="dtype=float16 without DeepSpeed or FSDP .* AdamW diverges"):
        train("redi", arguments(path, rows_file, tmp_path / "out", *options))


def test_bfloat16_weights_of_dtype_auto_are_warned_of(tmp_path, tokenizer, rows_file, capsys):
    path = save(make_model(len(tokenizer)).to(torch.bfloat16), tokenizer, tmp_path / "model")
    train("redi", arguments(path, rows_file, tmp_path / "out", "--dtype", "auto"))
    assert "warning: dtype=bfloat16 without DeepSpeed or FSDP keeps no float32" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["sft", "redi", "dpo"])
def test_sequence_parallelism_is_refused(stage, tmp_path, monkeypatch):
    argv = arguments("m", "d", tmp_path / "out", "--check_only", "true")
    with pytest.raises(UsageError, match="'parallelism_config' is not read here: a trace stays on one GPU"):
        train(stage, [*argv, "--parallelism_config", '{"cp_size": 2}'])
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    with pytest.raises(UsageError, match="remove parallelism_config from the accelerate configuration"):
        train(stage, argv)


# --- adapters ----------------------------------------------------------------------------------------------------


def test_adapters_on_tied_embeddings_are_refused_before_training(model_path, rows_file, tmp_path):
    pytest.importorskip("peft")
    options = ["--lora_r", "4", "--lora_target_modules", "embed_tokens", "q_proj"]
    with pytest.raises(UsageError, match="the model's embeddings are also its head"):
        train("redi", arguments(model_path, rows_file, tmp_path / "out", *options))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_merge_that_changes_the_model_is_refused(tokenizer):
    peft = pytest.importorskip("peft")
    from redi.training import merge_adapters

    for target, is_right in (("q_proj", True), ("embed_tokens", False)):
        lora = peft.LoraConfig(r=4, target_modules=[target], task_type="CAUSAL_LM", init_lora_weights=False)
        model = peft.get_peft_model(make_model(len(tokenizer)), lora)
        if is_right:
            merge_adapters(model, [5, 6, 7, 8])
        else:
            with pytest.raises(UsageError, match="merging the adapters changes the model"):
                merge_adapters(model, [5, 6, 7, 8])


# --- resuming ------------------------------------------------------------------------------------------------------


def test_only_tied_weights_may_be_missing_from_a_checkpoint(tmp_path, model_path, tokenizer, pairs):
    """The tiny model's head is its embeddings, which a checkpoint holds once."""
    trainer = REDITrainer(model=model_path, args=config(tmp_path), train_dataset=pairs, processing_class=tokenizer)
    loaded = SimpleNamespace(missing_keys=["lm_head.weight", "model.norm.weight"], unexpected_keys=[])
    trainer._issue_warnings_after_load(loaded)
    assert loaded.missing_keys == ["model.norm.weight"]
