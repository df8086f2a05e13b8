"""A recipe as preflight reads it: options, accelerate configuration, model and rows."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs
from transformers import Gemma2Config, Qwen2Config

from redi.preflight.check import check_updates
from redi.preflight.memory import shape_of
from redi.preflight.recipe import precision_of, read_recipe, read_strategy, why_padded
from redi.runs.errors import UsageError

pytest_plugins = ["helpers.preflight"]


def test_every_recipe_of_the_repository_is_read(tmp_path):
    """On the paper's 8 GPUs and on one; this needs no model and no data."""
    for config in sorted((REPOSITORY / "recipes").rglob("config.yaml")):
        for gpus in (1,) if config.parent.name.endswith("_lora") else (1, 8):
            recipe = read_recipe(config, ["--output_dir", str(tmp_path / "out")], gpus)
            assert recipe.given["seed"] == recipe.args.seed, config
            assert "use_cpu" not in recipe.given or recipe.strategy.on_cpu, config
            check_updates(recipe, SimpleNamespace(precision=precision_of(recipe, None)))


def test_a_recipe_without_a_stage_and_gpus_without_processes_are_refused(job, tmp_path):
    path = shutil.copy(job.config(), tmp_path / "config.yaml")
    with pytest.raises(UsageError, match="is not in a folder STAGE/RUN with STAGE one of sft, redi, simpo, dpo"):
        read_recipe(Path(path), [], 1)
    single = REPOSITORY / "configs/accelerate/single_gpu.yaml"
    assert "accelerate_config=single_gpu runs one process, not 4" in job.check(
        "--accelerate-config", str(single), code=2
    )
    assert "'0' is not a whole number above 0" in job.check("--gpus", "0", code=2)
    assert "--utilisation 40 is a share" in job.check("--utilisation", "40", code=2)


def test_a_cut_off_weights_file_is_refused(job):
    weights = job.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "model.safetensors is damaged or cut off" in job.check(code=2)


def test_a_model_without_its_tokenizer_is_refused(job):
    (job.model / "tokenizer.json").unlink()
    assert "has no tokenizer in it; copy the tokenizer files" in job.check(code=2)


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
    expected = "has the columns text, but this stage trains on pairs (chosen, rejected) or traces (prompt, completion"
    assert expected in message


def test_the_result_of_another_run_in_output_dir_is_refused(job):
    out = job.options["output_dir"]
    out.mkdir()
    (out / "manifest.json").write_text(json.dumps({"config": {"alpha": 0.5}, "inputs": {}}))
    assert "holds a finished run with alpha=0.5, not None" in job.check(code=2)


@pytest.mark.parametrize("config", sorted((REPOSITORY / "configs/accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_accelerate_configuration_is_understood(config):
    gpus = 1 if config.stem in ("cpu", "single_gpu") else 8
    strategy = read_strategy(config, gpus, on_cpu=False)
    assert strategy.offload_optimizer == ("offload" in config.stem)
    expected = {"cpu": "none", "single_gpu": "none", "zero3_offload": "zero3"}.get(config.stem, config.stem)
    assert strategy.kind == expected


TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


GEMMA_2 = Gemma2Config(vocab_size=300, head_dim=16, pad_token_id=0, **TINY)


@pytest.mark.parametrize(
    "config, kernel, padded",
    [
        (GEMMA_2, None, True),
        (GEMMA_2, "eager", True),
        (GEMMA_2, "flash_attention_2", False),
        (Qwen2Config(vocab_size=300, **TINY), None, False),
    ],
)
def test_models_whose_attention_cannot_be_packed_are_padded(job, config, kernel, padded):
    job.options["attn_implementation"] = kernel
    reason = why_padded(read_recipe(job.config(), [], 4), config)
    assert ("attn_logit_softcapping" in reason) if padded else reason is None
    job.options["objective"] = "simpo"  # pads in any case
    assert why_padded(read_recipe(job.config(), [], 4), config) is None


def test_adapters_are_small_and_not_sharded(job):
    job.options["lora_r"] = 4
    said = job.check("--accelerate_config", "ddp")
    assert "No problem found." in said
    assert "lora_r=4 needs unsharded weights" in job.check(
        "--accelerate_config", str(REPOSITORY / "configs/accelerate/zero3.yaml"), code=2
    )
    recipe = read_recipe(job.config(), ["--accelerate_config", "ddp"], 4)
    shape = shape_of(Qwen2Config(vocab_size=300, **TINY), recipe.lora)
    # r * (in + out) of q 32-32, k and v 32-16, o 32-32, gate and up 32-64, down 64-32
    assert shape.trained == 4 * (64 + 48 + 48 + 64 + 96 + 96 + 96)
