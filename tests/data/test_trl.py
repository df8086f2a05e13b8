"""What the builds write trains in stock TRL, as docs/data.md says."""

import pytest
import torch
from datasets import load_dataset
from helpers.corpus import run, write_corpus
from helpers.paths import REPOSITORY
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

LINE = 'load_dataset("data/pairs", split="train").remove_columns("prompt")'
CASES = [("build_pairs", DPOTrainer, DPOConfig), ("build_positives", SFTTrainer, SFTConfig)]


@pytest.mark.parametrize(("name", "trainer", "options"), CASES, ids=["DPO", "SFT"])
def test_stock_trl_trains_on_what_is_built(tmp_path, model_path, tokenizer, name, trainer, options):
    """DPO with the documented line, SFT with the dataset as it is; the first step moves the weights."""
    run(name, "--input", write_corpus(tmp_path / "raw.parquet"), "--output", tmp_path / "out")
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    if name == "build_pairs":
        assert LINE in (REPOSITORY / "docs" / "data.md").read_text()
        dataset = dataset.remove_columns("prompt")
    settings = {"max_steps": 1, "learning_rate": 1e-2, "warmup_steps": 0, "per_device_train_batch_size": 4}
    settings |= {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
    args = options(output_dir=str(tmp_path / "run"), disable_tqdm=True, **settings)
    before = AutoModelForCausalLM.from_pretrained(model_path).state_dict()
    trained = trainer(model=model_path, args=args, train_dataset=dataset, processing_class=tokenizer)
    assert trained.train().training_loss > 0
    after = trained.model.state_dict()
    assert any(not torch.equal(before[weight], after[weight]) for weight in before)
