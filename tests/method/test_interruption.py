"""How runs end and resume: SIGTERM, Ctrl-C, SIGKILL at any moment, half-written checkpoints, exact resumption."""

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import train_redi
import train_sft
import yaml
from datasets import Dataset
from helpers.commands import CPU, arguments, log_of, started, weights_of
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs

from redi.callbacks import StopOnSignal
from redi.runs.checkpoints import last_complete_checkpoint, write_start
from redi.training import train


@pytest.fixture(scope="module")
def long_run(model_path, pairs_file) -> list[str]:
    """Options of a run of about three seconds."""
    argv = ["--model_name_or_path", model_path, "--dataset_name", pairs_file, *CPU, "--learning_rate", "1e-3"]
    return [*argv, "--per_device_train_batch_size", "3", "--max_steps", "80", "--save_steps", "9"]


@pytest.fixture(scope="module")
def straight_run(long_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    train_redi.main([*long_run, "--output_dir", str(folder)])
    return folder


def wait_for(path: Path, process: subprocess.Popen, folder: Path) -> None:
    deadline = time.time() + 90
    while not path.exists():
        assert process.poll() is None and time.time() < deadline, (folder / "log.txt").read_text()[-3000:]
        time.sleep(0.005)


def interrupt(
    argv: list[str], folder: Path, number: signal.Signals, delay: float, stage: str = "redi"
) -> tuple[int, str]:
    """Signals the stage's script `delay` seconds after its first checkpoint. Returns its exit code and output."""
    folder.mkdir()
    with started([], [*argv, "--output_dir", str(folder)], folder, stage) as process:
        wait_for(folder / "checkpoint-9", process, folder)
        time.sleep(delay)
        process.send_signal(number)
    return process.returncode, (folder / "log.txt").read_text()


def assert_same_weights(actual: Path, expected: Path) -> None:
    expected, actual = weights_of(expected), weights_of(actual)
    for name in expected:
        assert torch.equal(expected[name], actual[name]), name


@pytest.mark.parametrize(
    "number, code, name",
    [(signal.SIGTERM, 143, "SIGTERM"), pytest.param(signal.SIGINT, 130, "Ctrl-C", marks=pytest.mark.slow)],
)
def test_a_signal_saves_and_the_same_command_resumes_to_the_same_weights(
    long_run, straight_run, tmp_path, capsys, number, code, name
):
    folder = tmp_path / "out"
    ended_with, output = interrupt(long_run, folder, number, delay=0.1)
    assert ended_with == code, output[-3000:]
    assert f"\n{name}: finishing this step, then saving" in output and "Traceback" not in output
    step = int(re.search(rf"stopped by {name} after step (\d+); the same command resumes", output)[1])
    checkpoint, incomplete = last_complete_checkpoint(folder)
    assert checkpoint.name == f"checkpoint-{step}" and not incomplete and not (folder / ".lock").exists()
    assert not (folder / "manifest.json").exists() and not (folder / "model.safetensors").exists()
    before = signal.getsignal(number)
    train_redi.main([*long_run, "--output_dir", str(folder)])
    assert signal.getsignal(number) is before
    assert f"resuming from {checkpoint}" in capsys.readouterr().out
    assert_same_weights(folder, straight_run)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_within_a_step_is_acknowledged_at_once_and_saves_after_the_step(
    long_run, tmp_path, monkeypatch, capfd, number, code
):
    def signal_in_the_fourth_step(self, args, state, control, **kwargs):
        if state.global_step == 3:
            signal.raise_signal(number)
            assert "finishing this step, then saving" in capfd.readouterr().err

    monkeypatch.setattr(StopOnSignal, "on_step_begin", signal_in_the_fourth_step, raising=False)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        train_redi.main([*long_run, "--output_dir", str(tmp_path)])
    assert end.value.code == code and signal.getsignal(number) is before
    assert "after step 4; the same command resumes" in capfd.readouterr().out
    assert last_complete_checkpoint(tmp_path) == (tmp_path / "checkpoint-4", [])


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_a_stopped_run_does_not_evaluate_first(strategy, long_run, pairs_file, tmp_path, monkeypatch):
    def signal_in_the_second_step(self, args, state, control, **kwargs):
        if state.global_step == 1:
            monkeypatch.setattr(sys, "stderr", io.StringIO())  # as in a notebook
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(StopOnSignal, "on_step_begin", signal_in_the_second_step, raising=False)
    held_out = ["--eval_dataset_name", str(pairs_file), "--eval_strategy", strategy]
    held_out += ["--save_strategy", strategy, *(["--eval_steps", "2"] if strategy == "steps" else [])]
    with pytest.raises(SystemExit) as end:
        train_redi.main([*long_run, *held_out, "--output_dir", str(tmp_path)])
    assert end.value.code == 143
    state = json.loads((tmp_path / "checkpoint-2/trainer_state.json").read_text())
    assert state["global_step"] == 2 and not [log for log in state["log_history"] if "eval_loss" in log]


@pytest.mark.parametrize(
    "stage, options",
    [
        ("redi", []),
        ("redi", ["--objective", "simpo"]),
        ("dpo", []),
        ("sft", []),
        ("sft", ["--padding_free", "false"]),
    ],
)
def test_num_tokens_continues_in_a_resumed_run(stage, options, model_path, rows_file, tmp_path):
    """Also where the checkpoint comes after a step that was not logged."""
    every = ["--max_steps", "5", "--save_strategy", "steps", "--save_steps", "3", "--logging_steps", "5"]
    argv = arguments(model_path, rows_file, tmp_path, *every, "--per_device_train_batch_size", "2", *options)
    train(stage, argv)
    (straight,) = [log["num_tokens"] for log in log_of(tmp_path)]
    (tmp_path / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "checkpoint-5")
    train(stage, argv)
    assert [log["num_tokens"] for log in log_of(tmp_path)] == [straight] and straight > 500


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_run_at_once(long_run, tmp_path):
    """Even in a step that takes long: here, one that sleeps in C with the signals blocked from Python."""
    script = tmp_path / "script.py"
    script.write_text(
        "import ctypes, sys, train_redi\n"
        "from redi.callbacks import StopOnSignal\n"
        "def begin(self, args, state, control, **kwargs):\n"
        "    if state.global_step == 3 and not self._received:\n"
        "        print('in the step', flush=True)\n"
        "        while not self._received: pass\n"
        "        libc = ctypes.PyDLL(None)\n"
        "        while True: libc.usleep(100000)\n"
        "StopOnSignal.on_step_begin = begin\n"
        "train_redi.main(sys.argv[1:])\n"
    )
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "scripts")])
    command = [sys.executable, str(script), *long_run, "--output_dir", str(tmp_path / "out")]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=log, stderr=log)
    for line in ("in the step", "Ctrl-C: finishing this step"):
        deadline = time.time() + 120
        while line not in (tmp_path / "log.txt").read_text():
            assert process.poll() is None and time.time() < deadline, (tmp_path / "log.txt").read_text()[-3000:]
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT  # a shell's 130
    assert last_complete_checkpoint(tmp_path / "out") == (None, [])


def test_sigkill_at_any_moment_loses_only_the_steps_since_the_last_checkpoint(long_run, straight_run, tmp_path):
    code, output = interrupt(long_run, tmp_path / "out", signal.SIGKILL, delay=random.uniform(0, 0.5))
    assert code == -signal.SIGKILL, output[-3000:]
    start = json.loads((tmp_path / "out" / "started.json").read_text())
    assert start["config"]["max_steps"] == 80 and set(start["inputs"]) == {"model", "dataset"}
    assert (tmp_path / "out" / ".lock").is_file()
    train_redi.main([*long_run, "--output_dir", str(tmp_path / "out")])
    assert_same_weights(tmp_path / "out", straight_run)
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_second_run_in_the_folder_of_a_running_one_is_refused(long_run, straight_run, tmp_path, monkeypatch, capsys):
    """Also where train.sh checks the options, before it launches anything; the first run is not disturbed."""
    monkeypatch.setenv("PMI_SIZE", "2")  # of MPI: a process that is alone does not wait for a second one
    out = tmp_path / "out"
    with started([], [*long_run, "--output_dir", str(out)], tmp_path) as process:
        wait_for(out / "checkpoint-9", process, tmp_path)
        for options in ([], ["--learning_rate", "0.5"], ["--tokenize_only", "true"]):
            with pytest.raises(SystemExit, match="2"):
                train_redi.main([*long_run, "--output_dir", str(out), *options])
            (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            other = "holds an unfinished run with learning_rate=0.001, not 0.5"
            assert (other if "0.5" in options else f"is being written by process {process.pid} on ") in line
    assert process.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert_same_weights(out, straight_run)


def test_other_options_are_refused_where_a_run_has_only_begun(long_run, tmp_path, capsys):
    write_start(tmp_path, {"learning_rate": 1e-3}, {})
    with pytest.raises(SystemExit, match="2"):
        train_redi.main([*long_run, "--output_dir", str(tmp_path)])
    assert "holds an unfinished run with bf16=" not in (said := capsys.readouterr().err)  # bf16 may change
    assert "holds an unfinished run with dataset_name=None, not " in said


@pytest.fixture(scope="module")
def long_sft_run(model_path, tmp_path_factory) -> list[str]:
    """Options of a run of about three seconds, in micro-batches of about two traces."""
    path = tmp_path_factory.mktemp("positives") / "positives.parquet"
    Dataset.from_list([{"messages": row["prompt"] + row["chosen"]} for row in make_pairs(16)]).to_parquet(path)
    argv = ["--model_name_or_path", model_path, "--dataset_name", str(path), *CPU, "--learning_rate", "1e-3"]
    argv += ["--max_tokens_per_micro_batch", "300", "--global_batch_size", "6"]
    return [*argv, "--max_steps", "80", "--save_steps", "9"]


def test_sft_killed_and_resumed_ends_with_the_weights_of_an_uninterrupted_run(long_sft_run, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train_sft.main([*long_sft_run, "--output_dir", str(straight)])
    code, output = interrupt(long_sft_run, killed, signal.SIGKILL, delay=random.uniform(0, 0.5), stage="sft")
    assert code == -signal.SIGKILL, output[-3000:]
    train_sft.main([*long_sft_run, "--output_dir", str(killed)])
    assert_same_weights(killed, straight)


def test_a_run_killed_after_its_last_step_makes_no_further_one(long_run, tmp_path):
    # 4 steps of 3 pairs end within an epoch of 16; with the linear schedule, one more step would be of size 0.
    argv = [*long_run, "--max_steps", "4", "--lr_scheduler_type", "constant", "--output_dir", str(tmp_path)]
    train_redi.main(argv)
    before = weights_of(tmp_path)
    (tmp_path / "manifest.json").unlink()
    train_redi.main(argv)
    assert json.loads((tmp_path / "manifest.json").read_text())["counts"]["steps"] == 4
    assert all(torch.equal(before[name], weights) for name, weights in weights_of(tmp_path).items())


@pytest.mark.parametrize(
    "name, size",
    [
        ("trainer_state.json", None),
        ("trainer_state.json", 100),
        ("model.safetensors", None),
        ("model.safetensors", 5000),
        ("optimizer.pt", None),
        ("optimizer.pt", 5000),
        ("scheduler.pt", 100),
        ("rng_state.pth", None),
    ],
)
def test_a_checkpoint_cut_off_by_a_kill_is_not_resumed_from(straight_run, tmp_path, name, size):
    """`size`: how many bytes of the file were written. None: the file was not created."""
    for step in (72, 80):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for file in (straight_run / f"checkpoint-{step}").iterdir():
            os.link(file, tmp_path / f"checkpoint-{step}" / file.name)
    assert last_complete_checkpoint(tmp_path) == (tmp_path / "checkpoint-80", [])
    victim = tmp_path / "checkpoint-80" / name
    content = victim.read_bytes()
    victim.unlink()
    if size is not None:
        victim.write_bytes(content[:size])
    assert last_complete_checkpoint(tmp_path) == (tmp_path / "checkpoint-72", [tmp_path / "checkpoint-80"])


def test_resuming_names_the_checkpoints_it_skips(long_run, tmp_path, capsys):
    argv = [*long_run, "--max_steps", "20", "--output_dir", str(tmp_path)]
    train_redi.main(argv)
    expected = weights_of(tmp_path)
    (tmp_path / "manifest.json").unlink()
    for step in (18, 20):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").unlink()
    capsys.readouterr()
    train_redi.main(argv)
    out = capsys.readouterr().out
    names = f"{tmp_path}/checkpoint-20, {tmp_path}/checkpoint-18"
    assert f"skipping incomplete checkpoints: {names}\n" in out
    assert f"resuming from {tmp_path}/checkpoint-9\n" in out
    assert all(torch.equal(expected[name], weights) for name, weights in weights_of(tmp_path).items())


def test_resuming_with_different_options_or_inputs_is_refused(long_run, model_path, tmp_path, capsys):
    argv = [*long_run, "--max_steps", "10", "--output_dir", str(tmp_path / "out")]

    def refusal(*options: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            train_redi.main([*argv, *options])
        return capsys.readouterr().err

    model = shutil.copytree(model_path, tmp_path / "model")
    argv[argv.index(model_path)] = str(model)
    train_redi.main(argv)
    assert not (tmp_path / "out" / "started.json").exists()
    with (model / "config.json").open("a") as stream:
        stream.write("\n")
    assert f"holds a finished run from another model: {model} has changed" in refusal()

    start = {"config": json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]}
    start["inputs"] = json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]
    (tmp_path / "out" / "started.json").write_text(json.dumps(start))
    (tmp_path / "out" / "manifest.json").unlink()  # as if killed
    assert "holds an unfinished run with learning_rate=0.001, not 0.5" in refusal("--learning_rate", "0.5")
    assert "holds an unfinished run with alpha=None, not 0.5" in refusal("--alpha", "0.5")
    assert "holds an unfinished run with per_device_train_batch_size=3, not 2" in refusal(
        "--per_device_train_batch_size", "2"
    )
    assert f"holds an unfinished run from another model: {model} has changed" in refusal()
    shutil.copy(Path(model_path) / "config.json", model)
    train_redi.main([*argv, "--max_steps", "12", "--save_steps", "5"])  # these may change
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["steps"] == 12


@pytest.mark.slow
def test_a_sigterm_to_one_rank_stops_both_at_the_same_step(long_run, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    argv = [*long_run, "--output_dir", str(tmp_path / "out"), "--max_steps", "2000"]
    with started(launcher, argv, tmp_path) as process:
        wait_for(tmp_path / "out" / "checkpoint-9", process, tmp_path)
        workers = psutil.Process(process.pid).children(recursive=True)
        (rank_1,) = [worker for worker in workers if worker.environ().get("RANK") == "1"]
        rank_1.send_signal(signal.SIGTERM)
    assert process.returncode == 1  # from the launcher; its workers ended with 143
    output = (tmp_path / "log.txt").read_text()
    step = re.search(r"stopped by SIGTERM after step (\d+)", output)[1]
    checkpoint, incomplete = last_complete_checkpoint(tmp_path / "out")
    assert checkpoint.name == f"checkpoint-{step}" and not incomplete
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {file.name for file in checkpoint.iterdir()}
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["redi", "sft"])
def test_two_ranks_killed_and_resumed_end_with_the_weights_of_an_uninterrupted_run(
    stage, long_run, long_sft_run, tmp_path
):
    argv = long_run if stage == "redi" else long_sft_run
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    with started(launcher, [*argv, "--output_dir", str(straight)], tmp_path, stage):
        pass
    with started(launcher, [*argv, "--output_dir", str(killed)], tmp_path, stage) as process:
        wait_for(killed / "checkpoint-9", process, tmp_path)
        time.sleep(random.uniform(0, 0.5))
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()  # first, because it would end the workers itself
        for worker in workers:
            worker.kill()
    assert process.returncode != 0 and not (killed / "manifest.json").exists()
    with started(launcher, [*argv, "--output_dir", str(killed)], tmp_path, stage):
        pass
    assert "resuming from" in (tmp_path / "log.txt").read_text()
    assert_same_weights(killed, straight)


@pytest.mark.slow
def test_a_deepspeed_checkpoint_is_refused_with_another_number_of_processes_or_a_cut_off_shard(long_run, tmp_path):
    settings = yaml.safe_load((REPOSITORY / "configs/accelerate/zero2.yaml").read_text())
    settings |= {"use_cpu": True, "num_processes": 2, "mixed_precision": "no"}
    (tmp_path / "zero2.yaml").write_text(yaml.safe_dump(settings))
    launcher = ["-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launcher += ["--config_file", str(tmp_path / "zero2.yaml")]
    out = tmp_path / "out"
    argv = [*long_run, "--max_steps", "10", "--output_dir", str(out)]
    with started(launcher, argv, tmp_path):
        pass
    (out / "manifest.json").unlink()  # as if killed before its end
    with started([*launcher, "--num_processes", "1"], argv, tmp_path) as process:
        pass
    assert process.returncode != 0
    assert "checkpoint-10 was written by 2 process(es), but this run has 1, and" in (tmp_path / "log.txt").read_text()

    older, newer = out / "checkpoint-9", out / "checkpoint-10"
    assert last_complete_checkpoint(out) == (newer, [])
    (shard,) = newer.glob("global_step10/*rank_1_*optim_states.pt")
    shard.write_bytes(shard.read_bytes()[:5000])
    assert last_complete_checkpoint(out) == (older, [newer])
