"""The check before a launch, by train.sh's first process: what preflight refuses, by the same code."""

import json
import os
from pathlib import Path

import pytest
import train_redi
import train_sft
from helpers.tiny import make_pairs

from redi.preflight import fit
from redi.training import train

pytest_plugins = ["helpers.preflight"]


@pytest.fixture()
def launch(job, monkeypatch, tmp_path, capsys):
    """Runs the first process of train.sh; returns what it says, or its error."""
    file = tmp_path / "launch"
    monkeypatch.setenv("REDI_LAUNCH_FILE", str(file))
    job.options |= {"dtype": None, "disable_tqdm": "true"}

    def run(*argv: str, code: int = 0, stage: str = "redi") -> str:
        main = train_sft.main if stage == "sft" else train_redi.main
        argv = ["--config", str(job.config(stage)), *argv, "--tokenize_only", "true"]
        if code == 0:
            main(argv)
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == code and not file.exists()
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        return errors[0]

    return run


@pytest.mark.parametrize("stage", ["redi", "sft"])
def test_a_job_without_a_problem_is_tokenised_and_launched(job, launch, stage, tmp_path):
    said = launch(stage=stage)
    assert said.splitlines() == [
        "note: no GPU is found: training on the CPU, in float32 (use_cpu: true, bf16: false)",
        f"{job.data}: 16 of 16 rows tokenised, in the datasets cache",
    ]
    option, config = (tmp_path / "launch").read_text().splitlines()
    assert option == "--config_file" and Path(config).name == "cpu.yaml"
    assert not job.options["output_dir"].exists()


def test_what_preflight_refuses_is_refused(job, launch, monkeypatch):
    assert (
        "bf16=True needs a GPU, and none is used here: to train on the CPU set use_cpu: true, bf16: false"
        in launch("--bf16", "true", code=2)
    )
    with monkeypatch.context() as patch:
        patch.setattr(fit, "free_bytes", lambda path: 10**6)
        assert "GB are free; choose another disk" in launch(code=2)
    with monkeypatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.delenv("WANDB_MODE", raising=False)
        patch.setattr("wandb.login", lambda prompt: False)
        assert "report_to=wandb finds no API key" in launch("--report_to", "wandb", code=2)
    assert "max_length=100 cuts even the shortest" in launch("--max_length", "100", code=2)
    config = json.loads((job.model / "config.json").read_text())
    (job.model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert "max_position_embeddings=64" in launch(code=2)
    (job.data / "manifest.json").write_text(json.dumps({"config": {}, "counts": {"rows": 3}}))
    assert "has 16 rows in split train, but its manifest.json counts 3" in launch(code=2)


def test_memory_is_checked_on_request(job, launch, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    assert "this machine has 0: " in launch("--check_memory", "true", code=2)
    launch()
    assert (tmp_path / "launch").is_file()


def test_an_unfinished_start_model_is_refused(job, launch, model_path, rows_file):
    folder = job.folder / "sft"
    (folder / "checkpoint-2").mkdir(parents=True)
    (folder / "started.json").write_text("{}")
    options = ["--model_name_or_path", str(folder)]
    expected = f"model_name_or_path={folder} is an unfinished run: finish it with the command that began it, or name "
    for message in (launch(*options, code=2), job.check(*options, code=2)):
        assert f"{expected}one of its checkpoints ({folder}/checkpoint-2)" in message


def test_traces_without_thoughts_are_noted_and_trained(job, launch, tmp_path):
    rows = [job.on_disk(row) for row in make_pairs(8)]
    for row in rows:
        for name in ("chosen", "rejected"):
            row[name] = [row[name][0], {"role": "assistant", "content": "It is 4."}]
    job.write_rows(rows)
    assert "note: 16 of the 16 completions of the first rows have no <think>: right for a model" in launch()
    assert (tmp_path / "launch").is_file()


def test_a_finished_run_is_known_on_any_machine(job, launch, tmp_path, capsys):
    """Also where its options could not be trained with: here without a GPU, in bfloat16 and on 3 processes."""
    cpu = ["--use_cpu", "true", "--bf16", "false"]
    options = ["--config", str(job.config()), "--max_steps", "1", "--save_strategy", "no"]
    train("redi", [*options, *cpu])
    manifest = job.options["output_dir"] / "manifest.json"
    record = json.loads(manifest.read_text())
    for name in ("use_cpu", "bf16"):
        del record["config"][name]
    manifest.write_text(json.dumps(record | {"config": record["config"] | {"bf16": True}}))
    capsys.readouterr()
    said = launch("--max_steps", "1", "--save_strategy", "no", "--bf16", "true")
    assert said == f"{job.options['output_dir']} is finished already: nothing to do\n"
    assert not (tmp_path / "launch").exists()
