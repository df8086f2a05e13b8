"""The check before a job as a user runs it: it finds every waste, in one line with exit code 2, and nothing else."""

import json
import re
from types import SimpleNamespace

import preflight
import pytest
from datasets import Dataset
from helpers.tiny import make_pairs
from transformers import AutoModelForCausalLM, Gemma2Config

from redi.preflight import fit, recipe
from redi.preflight.check import check_updates, notes_on_length
from redi.preflight.recipe import precision_of, read_recipe
from redi.runs.errors import UsageError

pytest_plugins = ["helpers.preflight"]


@pytest.mark.parametrize("stage, objective", [("sft", None), ("redi", None), ("simpo", "simpo"), ("dpo", None)])
def test_a_job_without_a_problem_passes_with_its_plan(job, stage, objective):
    job.options["objective"] = objective
    said = job.check(stage=stage)
    assert "FAIL" not in said and said.rstrip().endswith("No problem found.")
    assert f"16 {'positives' if stage == 'sft' else 'pairs'} (as many as its manifest.json counts)" in said
    assert "global batch   8 = 4 x 1 x 2 (processes x per device x accumulation)" in said
    assert "steps          2 = 1 x 2 (epochs x steps per epoch)" in said  # 16 rows, 8 a step
    assert "checkpoints    1 of" in said  # after step 2
    assert "the last scored token is eos, '<|endoftext|>'" in said
    assert "zero3" in said.splitlines()[0] if stage == "dpo" else "zero2" in said.splitlines()[0]


def test_padded_sft_renders_the_same(job):
    def tokens(said: str) -> str:
        return said.partition("\nTokens of one row")[2].partition("\nPlan\n")[0]

    packed = tokens(job.check(stage="sft"))
    job.options["padding_free"] = "false"
    assert packed and tokens(job.check(stage="sft")) == packed


@pytest.mark.parametrize("kernel", [None, "eager", "flash_attention_2"])
def test_a_model_that_cannot_be_packed_is_reported_as_padded(job, kernel):
    """As training does: see `redi.engine.attention.enable_packing`."""
    config = Gemma2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=0,
    )
    (job.model / "config.json").unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(job.model)
    job.options["attn_implementation"] = kernel
    said = job.check()
    note = "traces are padded, not packed: its attention caps logits"
    assert (note in said) == ("with pads" in said) == (kernel != "flash_attention_2")
    assert ("eager attention keeps all scores" in said) == (kernel != "flash_attention_2")
    job.options["attn_implementation"] = "sdpa"
    assert "attn_implementation=sdpa ignores the cap on attention logits" in job.check(code=2)


def test_eager_attention_is_noted_where_it_runs(job):
    job.options["attn_implementation"] = "eager"
    assert "eager attention keeps all scores" not in job.check()  # packed, by another kernel
    job.options["padding_free"] = "false"
    assert "eager attention keeps all scores" in job.check()


def test_half_precision_that_would_lose_updates_is_refused(job):
    """Weights of dtype bfloat16 are spaced 2^-8 apart, relatively; an update of lr 1e-6 is far below that."""
    message = job.check("--accelerate_config", "ddp", "--learning_rate", "1e-6", code=2)
    assert "accelerate_config=ddp: dtype=bfloat16 without DeepSpeed or FSDP keeps no float32" in message
    assert "learning_rate=1e-06" in message

    def check(*options: str, gpus: int = 4, config: str = "ddp") -> None:
        found = read_recipe(job.config(), ["--accelerate_config", config, *options], gpus)
        check_updates(found, SimpleNamespace(precision=precision_of(found, None)))

    with pytest.raises(UsageError, match="accelerate_config=single_gpu: dtype=bfloat16"):
        check(gpus=1)
    with pytest.raises(UsageError, match="accelerate_config=ddp: dtype=float16"):
        check("--dtype", "float16")
    check("--dtype", "float32")
    check("--lora_r", "4")
    check("--use_cpu", "true", "--bf16", "false")
    check(config="zero2")


def test_options_are_those_of_training(job):
    assert job.check("--alhpa", "0.5", code=2) == "error: unknown option '--alhpa'; did you mean '--alpha'?"
    job.options["learning_rte"] = 1e-6
    assert job.check(code=2) == "error: unknown key 'learning_rte'; did you mean 'learning_rate'?"


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("max_steps", "many", "invalid int value: 'many'"),
        ("do_eval", "true", "option 'do_eval' is not read here: training evaluates nothing"),
        ("output_dir", "${NO_SUCH_VARIABLE}/out", "the environment variable NO_SUCH_VARIABLE is not set"),
        ("beta", 0.1, "option 'beta' is not read here: REDI has no reference model"),
        ("global_batch_size", 6, "global_batch_size=6 is not a multiple of 4: 4 process(es)"),
        ("save_only_model", "true", "option 'save_only_model' is not read here: it leaves nothing to resume from"),
        ("model_name_or_path", "/no/model", "model_name_or_path=/no/model does not exist"),
        ("dataset_name", "/no/data", "dataset_name=/no/data does not exist"),
        ("dataset_train_split", "dev", 'cannot be loaded: Unknown split "dev"'),
        ("max_length", 20, "max_length=20 cuts even the shortest of the first 64 rows"),
        ("max_length", 100, "max_length=100 cuts even the shortest of the first 64 rows"),
        ("max_tokens_per_micro_batch", 50, "does not fit max_tokens_per_micro_batch=50"),
    ],
)
def test_options_that_would_waste_the_job(job, option, value, message):
    job.options[option] = value
    if option == "max_tokens_per_micro_batch":
        job.options["per_device_train_batch_size"] = None
    assert message in job.check(code=2)


def test_a_model_with_too_few_positions_is_refused(job):
    config = json.loads((job.model / "config.json").read_text())
    (job.model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert "max_position_embeddings=64" in job.check(code=2)


def test_a_model_that_does_not_fit_is_refused_with_the_option_to_change(job):
    message = job.check("--gpu-memory", "1", code=2)
    assert "GiB, but each GPU has 1: " in message and "set accelerate_config: zero3" in message


def test_a_full_disk_is_refused(job, monkeypatch):
    monkeypatch.setattr(fit, "free_bytes", lambda path: 10**7)
    message = job.check(code=2)
    assert "0.0 GB are free; choose another disk" in message


def test_the_balance_of_the_plan_is_that_of_training(job, capsys):
    """A global batch of 2 pairs on 4 GPUs: each GPU has one trace, and waits for the longest."""
    said = job.check("--global_batch_size", "8", "--accelerate_config", "zero2")
    few = job.check("--global_batch_size", "4")
    balances = [float(re.search(r"balance +(\S+) of the ideal", text)[1]) for text in (said, few)]
    assert 1 >= balances[0] > balances[1] > 0


def test_a_folder_is_a_recipe_and_the_machine_is_this_one(job, monkeypatch, capsys):
    def check(*options: str) -> str:
        preflight.main([str(job.config().parent), *options])
        return capsys.readouterr().out

    monkeypatch.setattr(preflight, "gpu_memory", lambda: [24.0, 22.5])
    assert "on 2 GPUs of 22.5 GiB, accelerate configuration zero2" in check()
    assert "on 1 GPU of 40 GiB" in check("--gpus", "1", "--gpu-memory", "40")
    monkeypatch.setattr(preflight, "gpu_memory", lambda: [])
    with pytest.raises(SystemExit):
        check()  # dtype: bfloat16
    message = capsys.readouterr().err
    assert "dtype=bfloat16 needs a GPU, and none is used here: to train on the CPU set use_cpu: true" in message
    assert "preflight checks a job for other machines with --gpus N" in message
    job.options["dtype"] = None
    said = check()
    assert said.startswith("Preflight of ") and "on the CPU" in said.splitlines()[0]
    assert "note  no GPU is found: training on the CPU, in float32" in said


def test_precision_is_that_of_the_machine_of_the_job(job):
    """A GPU is not needed to check a job for one: its default, bfloat16, is the same."""
    assert read_recipe(job.config(), [], 4).args.bf16 is True
    assert read_recipe(job.config(), ["--bf16", "false"], 4).args.bf16 is False
    assert read_recipe(job.config(), ["--use_cpu", "true"], 4).args.bf16 is False
    assert read_recipe(job.config(), ["--use_cpu", "true", "--bf16", "true"], 4).args.bf16 is True


PLAN = SimpleNamespace(steps=8, epochs=4)


def test_a_guard_that_can_never_stop_the_run_is_noted(job):
    job.options |= {"collapse_guard": "stop", "logging_steps": 2, "num_train_epochs": 4}
    said = job.check()
    assert "note  collapse_guard=stop can never stop this run: it needs 8 logged steps" in said
    assert "but 8 steps log 4 times; lower logging_steps" in said
    # 8 logged steps are enough: 5 of the window and 3 of patience.
    assert notes_on_length(read_recipe(job.config(), ["--logging_steps", "1"], 4), PLAN) == []


def test_a_resumed_run_of_another_length_is_noted(job, monkeypatch):
    checkpoint = job.options["output_dir"] / "checkpoint-1"
    monkeypatch.setattr(recipe, "last_complete_checkpoint", lambda folder: (checkpoint, []))
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"max_steps": 2}))
    said = job.check("--max_steps", "50")
    assert "note  the learning rate jumps after step 1: the run had 2 steps and now has 50, and lr_scheduler" in said
    assert notes_on_length(read_recipe(job.config(), [], 4), SimpleNamespace(steps=2, epochs=1)) == []
    constant = ["--lr_scheduler_type", "constant"]
    assert notes_on_length(read_recipe(job.config(), constant, 4), PLAN) == []


def test_traces_that_are_all_negatives_are_rendered(job):
    job.write_rows([{"prompt": p, "completion": "<think>\nx</think> y", "label": False} for p in "abcdefgh"])
    assert "one <think>, no second system block; all 1" in job.check()  # about a dozen tokens


def test_held_out_rows_are_checked(job, tmp_path):
    rows = [job.on_disk(row) for row in make_pairs(4)]
    held_out = tmp_path / "held_out.parquet"
    Dataset.from_list(rows).to_parquet(held_out)
    job.options |= {"eval_dataset_name": held_out, "eval_strategy": "epoch"}
    for stage, kind in (("redi", "pairs"), ("sft", "positives")):
        assert f"held-out dataset {held_out}: 4 {kind}" in job.check(stage=stage)
    rows[2]["rejected"][1]["content"] *= 40
    Dataset.from_list(rows).to_parquet(held_out)
    job.options["per_device_train_batch_size"] = None
    fits = ["--max_tokens_per_micro_batch", "300", "--max_length", "300"]
    job.check(*fits)
    said = job.check("--max_tokens_per_micro_batch", "300", code=2)
    assert (
        f"eval_dataset_name={held_out} has a trace of" in said
        and "does not fit max_tokens_per_micro_batch=300" in said
    )
    job.options["per_device_train_batch_size"] = 1
    rows[1]["chosen"] = [rows[1]["chosen"][0]]
    Dataset.from_list(rows).to_parquet(held_out)
    assert "row 1 of eval_dataset_name: `chosen` must end with an assistant turn" in job.check(code=2)
