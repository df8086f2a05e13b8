"""Options of a training job: what is refused, and how the global batch splits."""

import pytest
from helpers.commands import CPU

from redi.job import check_adapters, check_job, check_kernel, read_job
from redi.runs.errors import UsageError
from redi.stages import STAGES

PLACES = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", *CPU]


@pytest.mark.parametrize(
    "stage, accelerate", [("sft", "zero2"), ("redi", "zero2"), ("simpo", "zero2"), ("dpo", "zero3")]
)
def test_a_stage_has_a_default_accelerate_configuration_which_does_not_identify_the_run(stage, accelerate):
    assert read_job(stage, PLACES).run.accelerate_config == accelerate
    job = read_job(stage, [*PLACES, "--accelerate_config", "ddp", "--check_only", "true", "--seed", "7"])
    assert job.run.accelerate_config == "ddp" and job.run.check_only
    assert job.given.keys() - {"use_cpu", "bf16", "gradient_checkpointing", "disable_tqdm"} == {
        "model_name_or_path",
        "dataset_name",
        "output_dir",
        "seed",
    }
    assert job.stage is STAGES[stage]


def split(global_batch_size: int, *options: str, num_processes: int = 8) -> tuple[int, int, str]:
    """Pairs per device and accumulation steps of REDI, and the line that reports them."""
    job = read_job("redi", [*PLACES, "--global_batch_size", str(global_batch_size), *options])
    job = check_job(job, num_processes)
    return job.args.per_device_train_batch_size, job.args.gradient_accumulation_steps, job.batch


def test_a_global_batch_is_split_over_the_processes():
    assert split(32, "--per_device_train_batch_size", "1")[:2] == (1, 4)  # the paper's 8 GPUs
    per_device, accumulation, line = split(32, "--per_device_train_batch_size", "2", num_processes=1)
    assert (per_device, accumulation) == (2, 16)
    assert line == "global batch of 32 = 1 x 2 x 16 (processes x per device x accumulation)"
    assert split(32, "--max_tokens_per_micro_batch", "20000")[:2] == (4, 1)


@pytest.mark.parametrize(
    "total, options, message",
    [
        (32, ["--per_device_train_batch_size", "3"], "=32 is not a multiple of 24: 8 process.* times .*batch_size=3;"),
        (4, ["--per_device_train_batch_size", "1"], "=4 is not a multiple of 8: 8 process"),
        (36, ["--max_tokens_per_micro_batch", "20000"], "=36 is not a multiple of 8: 8 process.es.; change"),
        (
            32,
            ["--gradient_accumulation_steps", "4"],
            "gradient_accumulation_steps=4 follows from global_batch_size=32",
        ),
    ],
)
def test_a_global_batch_that_cannot_be_split_is_refused_with_the_numbers(total, options, message):
    with pytest.raises(UsageError, match=message):
        split(total, *options)


@pytest.mark.parametrize(
    "stage, options, message",
    [
        ("redi", ["--lora_alpha", "8"], "lora_alpha=8 is read only with lora_r"),
        ("redi", ["--lora_r", "0"], "lora_r=0 must be at least 1"),
        (
            "redi",
            ["--save_only_model", "true"],
            "option 'save_only_model' is not read here: it leaves nothing to resume",
        ),
        ("redi", ["--enable_jit_checkpoint", "true"], "option 'enable_jit_checkpoint' is not read here: runs save"),
        (
            "redi",
            ["--push_to_hub", "true", "--hub_strategy", "every_save"],
            "option 'hub_strategy' is not read here: push_to_hub",
        ),
        (
            "sft",
            ["--resume_from_checkpoint", "/nowhere"],
            "option 'resume_from_checkpoint' is not read here: runs resume",
        ),
        ("dpo", ["--do_eval", "true"], "option 'do_eval' is not read here: training evaluates nothing"),
        (
            "simpo",
            ["--eval_steps", "10"],
            "eval_steps is read only with eval_dataset_name: set it, or remove eval_steps",
        ),
        (
            "sft",
            ["--eval_strategy", "epoch"],
            "eval_strategy is read only with eval_dataset_name",
        ),
        ("sft", ["--dataset_eval_split", "test"], "dataset_eval_split is read only with eval_dataset_name"),
        ("redi", ["--eval_dataset_name", "x"], "eval_dataset_name=x is read only with eval_strategy: steps or epoch"),
        (
            "redi",
            ["--eval_dataset_name", "x", "--eval_strategy", "epoch", "--eval_steps", "5"],
            "eval_steps=5 is read only with eval_strategy: steps",
        ),
        ("redi", ["--load_best_model_at_end", "true"], "option 'load_best_model_at_end' is not read here"),
        ("redi", ["--beta", "0.1"], "option 'beta' is not read here: REDI has no reference model"),
        ("sft", ["--eos_token", "x"], "option 'eos_token' is not read here: the eos token comes with"),
        ("dpo", ["--padding_free", "true"], "option 'padding_free' is not read here: TRL's DPOTrainer pads"),
    ],
)
def test_options_without_effect_are_refused(stage, options, message):
    with pytest.raises(UsageError, match=message):
        check_job(read_job(stage, [*PLACES, *options]), 1)


def test_a_held_out_batch_has_the_size_of_one_of_training_by_default():
    options = [*PLACES, "--eval_dataset_name", "x", "--eval_strategy", "epoch", "--per_device_train_batch_size", "3"]
    assert check_job(read_job("redi", options), 1).args.per_device_eval_batch_size == 3
    options += ["--per_device_eval_batch_size", "5"]
    assert check_job(read_job("redi", options), 1).args.per_device_eval_batch_size == 5


def test_an_output_dir_that_is_not_a_runs_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for extra in ([], ["--model_name_or_path", str(tmp_path)]):
        with pytest.raises(
            UsageError, match=f"output_dir={tmp_path} (holds files that are not|is the model that the)"
        ):
            check_job(read_job("redi", [*PLACES, "--output_dir", str(tmp_path), *extra]), 1)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size=0 must be at least 1"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps=0 must be at least 1"),
        (["--optim", "adamw_8bit"], "optim=adamw_8bit, .*install `bitsandbytes`"),
        (["--optim", "galore_adamw", "--optim_target_modules", "q_proj"], "optim=galore_adamw, .*`galore_torch`"),
        (["--optim", "lomo"], "optim=lomo, .*lomo"),
        (["--learning_rate", "-1"], "learning_rate=-1: Invalid learning rate"),
        (["--adam_beta1", "2"], "optim=adamw.*: Invalid beta"),
        (["--lr_scheduler_type", "warmup_stable_decay"], "lr_scheduler_type=warmup_stable_decay, lr_.*decay_steps"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "lr_scheduler_type=cosine_with_min_lr, lr_.*min_lr"),
        (
            ["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"cycles": 1}'],
            "lr_scheduler_kwargs={'cycles': 1}: .*unexpected keyword argument 'cycles'",
        ),
        (["--use_liger_kernel", "true"], "use_liger_kernel=True needs the package liger-kernel"),
        (["--report_to", "trackio"], "report_to=.'trackio'.: .*trackio"),
        (["--report_to", "nothing"], "report_to=.'nothing'.: nothing is not supported"),
    ],
)
@pytest.mark.parametrize("stage", ["sft", "redi", "dpo"])
def test_what_only_the_trainer_would_find_is_refused_before_the_launch(stage, options, message):
    with pytest.raises(UsageError, match=message):
        check_job(read_job(stage, [*PLACES, *options]), 8)


def test_flash_attention_needs_its_package_where_the_run_trains():
    for attention in (None, "sdpa", "eager"):
        check_kernel(attention)
    with pytest.raises(UsageError, match="attn_implementation=flash_attention_2 needs the package flash-attn"):
        check_kernel("flash_attention_2")


def test_adapters_are_tried_on_a_model_without_data(model_path):
    pytest.importorskip("peft")

    def check(*modules: str) -> None:
        options = ["--lora_r", "2", *(["--lora_target_modules", *modules] if modules else [])]
        check_adapters(model_path, check_job(read_job("redi", [*PLACES, *options]), 1).lora)

    check()
    check("all-linear")
    check("q_proj", "v_proj")
    with pytest.raises(UsageError, match="lora_target_modules=.*query.*not found in the base model"):
        check("query")
    with pytest.raises(UsageError, match="the model's embeddings are also its head"):
        check("embed_tokens", "q_proj")
