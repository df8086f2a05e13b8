"""SLURM jobs as they are rendered; tests/test_slurm_cluster.py runs them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import submit
from helpers.paths import REPOSITORY

REDI = REPOSITORY / "recipes" / "redi" / "qwen2.5-math-1.5b_alpha0.8"


def rendered(capsys, *argv: str) -> dict[str, str]:
    """What --dry-run prints: file name -> its text, with the sbatch command as the first line."""
    submit.main([argv[0], "--dry-run", *argv[1:]])
    files = re.split(r"^(?=# sbatch )", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    return {Path(text.splitlines()[0].split()[-1]).stem: text for text in files}


def srun(text: str) -> str:
    return re.search(r"^srun .*--kill-on-bad-exit=1 (.*) \|\| code=\$\?$", text, flags=re.DOTALL | re.MULTILINE)[1]


def test_a_training_on_two_nodes(capsys):
    (text,) = rendered(
        capsys, "train", str(REDI), "--nodes", "2", "--sbatch=--partition=gpu", "--", "--alpha", "0.5"
    ).values()
    settings = re.findall(r"^#SBATCH (.*)$", text, flags=re.MULTILINE)
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=64"} <= set(settings)
    assert {"--requeue", "--signal=TERM@300", "--open-mode=append", "--partition=gpu"} <= set(settings)
    assert srun(text).startswith('bash -c \'trap : TERM; MACHINE_RANK=$SLURM_NODEID "$@"')
    assert srun(text).endswith("' bash bash recipes/redi/qwen2.5-math-1.5b_alpha0.8/train.sh --alpha 0.5")
    assert "NUM_MACHINES=$SLURM_NNODES" in text and 'scontrol requeue "$SLURM_JOB_ID"\n' in text
    assert "NUM_MACHINES" not in rendered(capsys, "train", str(REDI))["train-redi-qwen2.5-math-1.5b_alpha0.8"]


def test_an_evaluation_is_an_array_and_a_job_that_gathers(capsys):
    files = rendered(capsys, "evaluate", str(REDI), "--shards", "4")
    name = "evaluate-redi-qwen2.5-math-1.5b_alpha0.8"
    assert "#SBATCH --array=1-4\n" in files[f"{name}-shards"]
    assert srun(files[f"{name}-shards"]).endswith("eval.sh --shard $SLURM_ARRAY_TASK_ID/4")
    assert 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"\n' in files[f"{name}-shards"]
    assert f"--dependency=afterok:<{name}-shards> --kill-on-invalid-dep=yes " in files[name]
    assert srun(files[name]).endswith("eval.sh")
    assert list(rendered(capsys, "evaluate", str(REDI), "--shards", "1")) == [name]


def test_a_pipeline_runs_every_stage_after_what_it_reads(capsys):
    files = rendered(capsys, "pipeline", "table2", "--shards", "2", "--cpu-sbatch=--partition=cpu")
    after = {}
    for name, text in files.items():
        found = re.search(r"afterok:(\S+)", text.splitlines()[0])
        after[name] = re.findall(r"<(.*?)>", found[1]) if found else []
        assert set(after[name]) <= after.keys() - {name}  # submitted before
    start = "train-sft-qwen2.5-math-1.5b_3ep"
    tokenize = {name: f"tokenize-{name[6:]}" for name in files if name.startswith("train-")}
    assert all(after[name] == [ahead] for name, ahead in tokenize.items())
    assert after[tokenize[start]] == ["data"]
    stage_2 = [name for name in tokenize if name != start]
    assert len(stage_2) == 4 and all(after[tokenize[name]] == [start] for name in stage_2)
    assert all(after[f"evaluate-{name[6:]}-shards"] == [name] for name in [start, *stage_2])
    assert after["table"] == [f"evaluate-{name[6:]}" for name in [start, *stage_2]]
    without_gpu = {"data", "table", *tokenize.values()}
    assert all(("--partition=cpu" in text) == (name in without_gpu) for name, text in files.items())
    commands = [srun(text).replace(" $SLURM_ARRAY_TASK_ID/2", "") for text in files.values()]
    listed = subprocess.run(
        ["bash", REPOSITORY / "recipes/pipeline.sh", "table2", "list"], capture_output=True, text=True
    )
    stages = listed.stdout.splitlines()
    stages += [line.replace("train", "tokenize") for line in stages if line.startswith("train")]
    assert {f"bash recipes/pipeline.sh table2 {line}" for line in stages} == set(commands)


def test_job_files_are_valid_scripts(capsys, tmp_path):
    files = rendered(capsys, "pipeline", "controls", "--nodes", "2")
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for name, text in files.items():
        (tmp_path / name).write_text(text.split("\n", 1)[1])
        assert subprocess.run(["bash", "-n", tmp_path / name]).returncode == 0
    if shellcheck.is_file():
        command = [shellcheck, "--severity=warning", *tmp_path.iterdir()]
        assert subprocess.run(command, capture_output=True, text=True).stdout == ""


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["train", "recipes/redi/qwen2.5-math-1.5b_alpha.8"],
            "is no recipe; did you mean 'redi/qwen2.5-math-1.5b_alpha0.8'?",
        ),
        (["train", str(REDI), "--node", "2"], "unknown option '--node'; did you mean '--nodes'?"),
        (["train", str(REDI), "--nodes", "0"], "--nodes 0 must be at least 1"),
        (
            ["train", str(REDI), "--gpus", "3"],
            "global_batch_size=32 of redi/qwen2.5-math-1.5b_alpha0.8 is no multiple",
        ),
        (["pipeline", "table1", "--nodes", "4"], "is no multiple of 256: 32 GPUs times per_device_train_batch_size=8"),
        (["pipeline", "table9"], "TARGET is one of table1"),
        (["pipeline", "table1", "--", "--alpha", "1"], "-- is for train and evaluate"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        submit.main([argv[0], "--dry-run", *argv[1:]])
    output = capsys.readouterr()
    assert caught.value.code == 2 and message in output.err and output.err.count("\n") == 1 and not output.out
