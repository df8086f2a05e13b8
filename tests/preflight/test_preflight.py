"""The check before a job: every waste that it is to find is found, with one line and exit code 2, and no other is."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from helpers.paths import REPOSITORY
from helpers.tiny import CHATML, make_pairs
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma2Config

from redi.preflight.check import check_updates, precision_of
from redi.preflight.recipe import read_recipe
from redi.preflight.tokens import Rendering, around, check_tokens, first_difference
from redi.runs.errors import UsageError

pytest_plugins = ["helpers.preflight"]

# --- what is fine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, objective", [("sft", None), ("redi", None), ("simpo", "simpo"), ("dpo", None)])
def test_a_job_that_is_fine_passes_with_its_plan(job, stage, objective):
    job.options["objective"] = objective
    said = job.check(stage=stage)
    assert "FAIL" not in said and said.rstrip().endswith("nothing found that would waste the job")
    assert "16 positives" in said if stage == "sft" else "16 pairs" in said
    assert "as its manifest.json counts" in said
    assert "batch       8 = 4 x 1 x 2 (processes x per device x accumulation)" in said
    assert "steps       2 in 1 epoch(s) of 2" in said  # 16 rows, 8 a step
    assert "1 checkpoint(s)" in said  # after step 2
    assert "eos '<|endoftext|>' is scored last" in said
    assert "zero3" in said.splitlines()[0] if stage == "dpo" else "zero2" in said.splitlines()[0]


def test_padding_free_sft_renders_the_same(job):
    def tokens(said: str) -> str:
        return said.partition("\ntokens\n")[2].partition("\nplan\n")[0]

    padded = tokens(job.check(stage="sft"))
    job.options["padding_free"] = "true"
    assert padded and tokens(job.check(stage="sft")) == padded


def test_every_recipe_of_the_repository_is_read(tmp_path):
    """As by its own script, on the paper's 8 GPUs and on one; no model or data is needed for it."""
    for config in sorted((REPOSITORY / "recipes").rglob("config.yaml")):
        for gpus in (1,) if config.parent.name.endswith("_lora") else (1, 8):
            recipe = read_recipe(config, ["--output_dir", str(tmp_path / "out")], gpus)
            assert recipe.given["seed"] == recipe.args.seed, config
            assert "use_cpu" not in recipe.given or recipe.strategy.on_cpu, config
            check_updates(recipe, precision_of(recipe, None))


@pytest.mark.parametrize("kernel", [None, "eager", "flash_attention_2"])
def test_a_model_that_is_not_packed_is_said_to_be_padded(job, kernel):
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
    assert (note in said) == ("pads counted" in said) == (kernel != "flash_attention_2")
    assert ("eager attention keeps all scores" in said) == (kernel != "flash_attention_2")
    job.options["attn_implementation"] = "sdpa"
    assert "attn_implementation=sdpa leaves out the cap on attention logits" in job.check(code=2)


def test_eager_attention_is_noted_where_it_runs(job):
    job.options["attn_implementation"] = "eager"
    assert "eager attention keeps all scores" not in job.check()  # packed, by another kernel
    job.options["padding_free"] = "false"
    assert "eager attention keeps all scores" in job.check()


def test_half_precision_that_would_lose_updates_is_refused(job):
    """Weights of dtype bfloat16 are spaced 2^-8 apart, relatively; an update of lr 1e-6 is far below that."""
    ddp = ("--accelerate_config", "ddp")
    message = job.check(*ddp, "--learning_rate", "1e-6", code=2)
    assert "dtype=bfloat16 on ddp, without DeepSpeed or FSDP" in message and "learning_rate=1e-06" in message
    assert "dtype=bfloat16 on single_gpu" in job.check(*ddp, "--gpus", "1", code=2)
    assert "dtype=float16 on ddp" in job.check(*ddp, "--dtype", "float16", code=2)
    for fine in (["--dtype", "float32"], ["--lora_r", "4"]):
        assert "FAIL" not in job.check(*ddp, *fine)
    assert "FAIL" not in job.check("--use_cpu", "true", "--bf16", "false")


# --- options and files -------------------------------------------------------------------------------------------


def test_options_are_those_of_the_training_script(job):
    assert job.check("--alhpa", "0.5", code=2) == "error: unknown option '--alhpa'; did you mean '--alpha'?"
    job.options["learning_rte"] = 1e-6
    assert job.check(code=2) == "error: unknown key 'learning_rte'; did you mean 'learning_rate'?"


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("max_steps", "many", "invalid int value: 'many'"),
        ("beta", 0.1, "option 'beta' is not read here: REDI has no reference model"),
        ("global_batch_size", 6, "global_batch_size=6 is not a multiple of 4: 4 process(es)"),
        ("save_only_model", "true", "save_only_model=true leaves nothing to resume from"),
        ("model_name_or_path", "/no/model", "model_name_or_path=/no/model does not exist"),
        ("dataset_name", "/no/data", "dataset_name=/no/data does not exist"),
        ("dataset_train_split", "dev", 'cannot be loaded: Unknown split "dev"'),
        ("max_length", 20, "no row is left to train on"),
        ("max_length", 100, "max_length=100 cuts the shortest of the first 64 rows"),
        ("max_tokens_per_micro_batch", 50, "does not fit max_tokens_per_micro_batch=50"),
    ],
)
def test_options_that_would_waste_the_job(job, option, value, message):
    job.options[option] = value
    if option == "max_tokens_per_micro_batch":
        job.options["per_device_train_batch_size"] = None
    assert message in job.check(code=2)


def test_a_recipe_without_a_script_and_gpus_without_processes_are_refused(job, tmp_path):
    path = shutil.copy(job.config(), tmp_path / "config.yaml")
    with pytest.raises(UsageError, match="is not in a folder STAGE/RUN with STAGE one of sft, redi, simpo, dpo"):
        read_recipe(Path(path), [], 1)
    single = REPOSITORY / "configs/accelerate/single_gpu.yaml"
    assert "--gpus 4: single_gpu.yaml runs one process" in job.check("--accelerate-config", str(single), code=2)
    assert "'0' is not a whole number above 0" in job.check("--gpus", "0", code=2)
    assert "--utilisation 40 is a share" in job.check("--utilisation", "40", code=2)


def test_a_cut_off_weights_file_is_refused(job):
    weights = job.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "model.safetensors is damaged or cut off" in job.check(code=2)


def test_a_model_without_its_tokenizer_is_refused(job):
    (job.model / "tokenizer.json").unlink()
    assert "has no tokenizer in it; copy its base model's" in job.check(code=2)


def test_a_tokenizer_larger_than_the_embeddings_is_refused(job):
    config = json.loads((job.model / "config.json").read_text())
    (job.model / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    assert "its tokenizer has 287 tokens, but its embeddings have only 200 rows" in job.check(code=2)


def test_rows_that_the_manifest_does_not_count_are_refused(job):
    Dataset.from_list([job.on_disk(row) for row in make_pairs(4)]).to_parquet(
        job.data / "train-00001-of-00002.parquet"
    )
    message = job.check(code=2)
    assert "has 20 rows in split train, but its manifest.json counts 16" in message
    assert "and does not list train-00001-of-00002.parquet" in message


def test_rows_without_the_columns_of_the_stage_are_refused(job):
    job.write_rows([{"text": "x"}] * 3)
    message = job.check(code=2)
    assert (
        "has the columns text, but redi trains on pairs (chosen, rejected) or traces (completion, label, prompt)"
        in message
    )


def test_the_result_of_another_run_in_output_dir_is_refused(job):
    out = job.options["output_dir"]
    out.mkdir()
    (out / "manifest.json").write_text(json.dumps({"config": {"alpha": 0.5}}))
    assert "holds a finished run with alpha=0.5, not None" in job.check(code=2)


def test_a_model_with_too_few_positions_is_refused(job):
    config = json.loads((job.model / "config.json").read_text())
    (job.model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert "max_position_embeddings=64" in job.check(code=2)


# --- tokens ------------------------------------------------------------------------------------------------------


def with_template(model: Path, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(model)


def test_a_doubled_system_block_is_found(job):
    with_template(job.model, "<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML)
    message = job.check(code=2)
    assert "tokens: training has 2 system blocks: 'system\\nBe brief.', 'system\\nPlease reason" in message


def test_a_template_that_changes_its_own_prompt_is_found(job):
    with_template(job.model, CHATML.replace("assistant\n{% endif", "assistant<think>\n{% endif"))
    assert "does not continue its own generation prompt" in job.check(code=2)


def test_a_tokenizer_that_merges_the_tag_with_the_thought_shows_the_token(job):
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    tokenizer.add_tokens(["<think>\nstep"])
    tokenizer.save_pretrained(job.model)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(job.model, vocab_size=len(tokenizer))).save_pretrained(
        job.model
    )
    message = job.check(code=2)
    assert "training and evaluation differ at token" in message
    assert "['<think>\\nstep']" in message and "['<'] 'think' '>'" in message


def test_a_trace_that_does_not_open_the_thought_as_evaluation_does_is_found(job):
    rows = [job.on_disk(row) for row in make_pairs(4)]
    for row in rows:
        for name in ("chosen", "rejected"):
            row[name][1] = {"role": "assistant", "content": row[name][1]["content"].replace("<think>\n", "<think> ")}
    job.write_rows(rows)
    assert "training and evaluation differ at token" in job.check(code=2)


PROBLEM = "What is 1 + 1?"


@pytest.fixture()
def rendered(tokenizer) -> Rendering:
    """As training renders the problem: prompt masked, completion with end of turn and eos scored."""
    messages = [{"role": "user", "content": PROBLEM}]
    prompt = tokenizer(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)).input_ids
    completion = tokenizer("<think>\nso\n</think>\n2<|im_end|>\n").input_ids + [tokenizer.eos_token_id]
    return Rendering(prompt + completion, [False] * len(prompt) + [True] * len(completion))


def refused(tokenizer, rendering: Rendering) -> str:
    with pytest.raises(UsageError) as caught:
        check_tokens(tokenizer, rendering, PROBLEM)
    return str(caught.value)


def changed(rendering: Rendering, at: int, scored: bool) -> Rendering:
    flags = list(rendering.scored)
    flags[at] = scored
    return Rendering(rendering.ids, flags)


def test_masks_that_are_wrong_are_found(tokenizer, rendered):
    found = check_tokens(tokenizer, rendered, PROBLEM)
    assert [mark for mark, _ in found] == ["ok"] * 3
    last, first = len(rendered.ids) - 1, rendered.num_prompt
    assert refused(tokenizer, changed(rendered, last, False)).startswith(f"tokens: eos is masked at token {last}: ")
    assert f"the completion is masked at token {last - 3}" in refused(tokenizer, changed(rendered, last - 3, False))
    assert f"scoring begins at token {first - 1}" in refused(tokenizer, changed(rendered, first - 1, True))
    assert f"scoring begins at token {first + 1}" in refused(tokenizer, changed(rendered, first, False))


def test_a_trace_without_eos_is_found(tokenizer, rendered):
    cut = Rendering(rendered.ids[:-1], rendered.scored[:-1])
    assert "no eos at the end of the trace" in refused(tokenizer, cut)


def test_two_thoughts_are_found(tokenizer, rendered):
    thought = tokenizer("<think>").input_ids
    ids = rendered.ids[:-1] + thought + rendered.ids[-1:]
    doubled = Rendering(ids, rendered.scored + [True] * len(thought))
    assert "training has 2 <think>" in refused(tokenizer, doubled)


def test_the_first_differing_token_is_shown_with_its_neighbours(tokenizer):
    assert first_difference([1, 2, 3, 4], [1, 2, 9]) == 2
    assert first_difference([1, 2, 3, 4], [1, 2]) is None  # evaluation goes on by generating
    assert first_difference([1], [1, 2]) == 1
    ids = tokenizer("a=b").input_ids
    assert around(tokenizer, ids, 1) == "'a' ['='] 'b'"
