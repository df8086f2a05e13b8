"""The collapse guard and `update_norm`: rules on numbers made by hand, and real tiny runs."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import train_redi
from accelerate import DistributedType
from helpers.commands import CPU, arguments, log_of, weights_of

from redi import REDIConfig, REDITrainer
from redi.callbacks import UpdateNorm, find_collapse
from redi.runs.checkpoints import last_complete_checkpoint
from redi.runs.recipe_options import parse_options
from redi.training import train


def distance(before: Path | str, after: Path | str) -> float:
    before, after = weights_of(before), weights_of(after)
    return sum(((after[name] - before[name]).double() ** 2).sum().item() for name in before) ** 0.5


# --- collapse guard ------------------------------------------------------------------------------------------------


def history(logps: list[float], norms: list[float]) -> list[dict]:
    entries = enumerate(zip(logps, norms, strict=True), 1)
    return [{"step": 10 * i, "logps/chosen": chosen, "grad_norm": norm} for i, (chosen, norm) in entries]


RULE = dict(drop=1.0, ratio=3.0, window=2, patience=2)
# The window: mean LogPS (-0.4 - 0.2) / 2 = -0.3, so the threshold is -1.3; median norm (1 + 3) / 2 = 2, so 6.
WINDOW = ([-0.4, -0.2], [1.0, 3.0])


@pytest.mark.parametrize(
    "logps, norms, fires",
    [
        ([-1.2, -1.31, -1.32], [5, 7, 6], True),  # norm: median of the last two, 6.5
        ([-1.2, -1.31, -1.29], [5, 7, 6], False),  # LogPS back above the threshold
        ([-1.2, -1.31, -1.32], [5, 5, 6], False),  # norm 5.5
        ([-1.2, -1.31, -1.32], [7, 7, 1], True),  # the norm surged, then calmed down after the collapse
        ([-1.2, -1.31, -1.32], [1, 100, 1], True),  # 50.5: a median of two is their mean
        ([-9.0], [99], False),  # a single step
        ([-0.9, -1.0, -1.1, -1.2], [9, 9, 9, 9], False),  # only the norm
    ],
)
def test_the_rule_wants_a_plunge_and_a_surge_that_last(logps, norms, fires):
    collapse = find_collapse(history(WINDOW[0] + logps, WINDOW[1] + norms), **RULE)
    assert (collapse is not None) == fires


def test_the_line_gives_the_numbers_and_the_remedy():
    collapse = find_collapse(history(WINDOW[0] + [-1.2, -1.5, -2.5], WINDOW[1] + [5, 7, 8]), **RULE)
    assert str(collapse) == (
        "collapse at step 50: logps/chosen -2.50 nats per token, at the start -0.30; grad_norm up to 7.5, at the "
        "start 2. Lower learning_rate or alpha and train again; checkpoints up to step 30 predate the collapse"
    )


def test_entries_without_the_numbers_are_left_out():
    logs = history(WINDOW[0] + [-1.4, -1.5], WINDOW[1] + [7, 8])
    assert find_collapse([{"step": 0, "eval_loss": 1.0}, *logs, {"step": 40, "train_runtime": 1.0}], **RULE)


def test_options_of_the_guard(tmp_path):
    def parse(text: str) -> REDIConfig:
        config = tmp_path / "config.yaml"
        config.write_text(f"output_dir: o\nuse_cpu: true\nbf16: false\n{text}\n")
        (args,), _ = parse_options(["--config", str(config)], [REDIConfig])
        return args

    assert parse("alpha: 0.8").collapse_guard == "warn"
    assert parse("collapse_guard: off").collapse_guard == "off"  # YAML reads false
    with pytest.raises(ValueError, match="collapse_guard='never' is unknown"):
        parse("collapse_guard: never")
    with pytest.raises(ValueError, match="collapse_window=0 must be positive"):
        parse("collapse_window: 0")


def test_the_guard_is_silent_on_a_run_at_the_papers_alpha(sft_path, pairs_file, tmp_path, caplog):
    out = tmp_path / "out"
    argv = ["--model_name_or_path", sft_path, "--dataset_name", pairs_file, "--output_dir", str(out), *CPU]
    train_redi.main(
        [*argv, "--learning_rate", "1e-3", "--max_steps", "40", "--logging_steps", "1", "--collapse_guard", "stop"]
    )
    first, last = log_of(out)[0], log_of(out)[-1]
    assert last["logps/rejected"] < first["logps/rejected"] - 3 and last["grad_norm"] > 3 * first["grad_norm"]
    assert (out / "manifest.json").exists() and "collapse" not in caplog.text


@pytest.mark.parametrize("save_every, options", [(1, ["--save_steps", "1"]), (2, ["--save_strategy", "epoch"])])
def test_stop_ends_a_collapsing_run_with_code_3_and_keeps_the_last_checkpoint(
    sft_path, pairs_file, tmp_path, caplog, capsys, save_every, options
):
    argv = ["--model_name_or_path", sft_path, "--dataset_name", pairs_file, "--learning_rate", "2e-2", *CPU]
    argv += ["--alpha", "1", "--warmup_steps", "10", "--max_steps", "16", "--logging_steps", "1"]
    train_redi.main([*argv, "--output_dir", str(tmp_path / "warn"), "--save_strategy", "no"])
    assert caplog.text.count("collapse at step") == 1
    step = int(re.search(r"collapse at step (\d+)", caplog.text)[1])

    stop = [*argv, *options, "--output_dir", str(tmp_path / "stop"), "--collapse_guard", "stop"]
    for _ in range(2):  # the second run resumes from the last checkpoint, with the first run's reference window
        caplog.clear()
        with pytest.raises(SystemExit) as caught:
            train_redi.main(stop)
        assert caught.value.code == 3
        assert "stopped by collapse_guard" in capsys.readouterr().out
        assert not (tmp_path / "stop" / "manifest.json").exists()
        assert not (tmp_path / "stop" / "model.safetensors").exists()
        checkpoint, incomplete = last_complete_checkpoint(tmp_path / "stop")
        assert checkpoint.name == f"checkpoint-{(step - 1) // save_every * save_every}" and not incomplete
        assert caplog.text.count(f"collapse at step {step}:") == 1


# --- update norm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_update_norm_is_the_distance_between_the_weights(tmp_path, model_path, tokenizer, pairs, optim):
    args = REDIConfig(
        output_dir=str(tmp_path),
        optim=optim,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=3,
        save_steps=1,
        logging_steps=2,
        log_update_norm=True,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = REDITrainer(model=model_path, args=args, train_dataset=pairs, processing_class=tokenizer)
    trainer.train()
    steps = [model_path, tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"]
    norms = [distance(steps[0], steps[1]), distance(steps[1], steps[2])]
    assert trainer.state.log_history[0]["update_norm"] == pytest.approx(sum(norms) / 2, rel=1e-4)


def test_update_norm_refuses_what_it_cannot_read():
    plugin = SimpleNamespace(fsdp_version=1)
    accelerator = SimpleNamespace(
        distributed_type=DistributedType.FSDP, state=SimpleNamespace(fsdp_plugin=plugin), device="cpu"
    )
    with pytest.raises(ValueError, match="log_update_norm=True does not read fsdp_version: 1; use .*fsdp2.yaml"):
        UpdateNorm(accelerator, {})


# --- terminal ------------------------------------------------------------------------------------------------------

PAIR_TITLES = "step loss LogPS chosen LogPS rejected margin grad norm lr tokens/s left"


@pytest.mark.parametrize(
    "stage, options, titles",
    [
        ("sft", [], "step loss accuracy grad norm lr tokens/s left"),
        ("redi", [], PAIR_TITLES),
        ("redi", ["--alpha", "0"], PAIR_TITLES),
        ("dpo", [], PAIR_TITLES),
    ],
)
def test_each_logged_step_is_one_aligned_line_of_at_most_100_columns(
    stage, options, titles, model_path, rows_file, tmp_path, capsys
):
    train(stage, arguments(model_path, rows_file, tmp_path, "--max_steps", "12", "--warmup_steps", "4", *options))
    lines = capsys.readouterr().out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.split()[:2] == ["step", "loss"])
    table, logs = lines[header : header + 13], log_of(tmp_path)
    assert " ".join(table[0].split()) == titles
    assert len({len(line) for line in table}) == 1 and len(table[0]) <= 100
    for line, log in zip(table[1:], logs, strict=True):
        words = line.split()
        assert words[0] == f"{log['step']}/12" and words[1] == f"{log['loss']:.4f}"
        if stage != "sft":
            assert words[2] == f"{log['logps/chosen']:.4f}"
            assert words[3] == ("-" if options else f"{log['logps/rejected']:.4f}")
    assert {"epoch", "num_tokens", "learning_rate"} <= logs[0].keys()
