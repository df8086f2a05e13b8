"""Eq. (5) and full steps in plain PyTorch, TRL's `SFTTrainer` as it comes, and runs of the trainer to compare."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from redi import REDIConfig, REDITrainer
from redi.text.training_rows import prepare_rows

SYSTEM = "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"


def config(tmp_path, **options) -> REDIConfig:
    defaults = dict(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=4,
        max_steps=1,
        logging_steps=1,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=0,
    )
    return REDIConfig(**{**defaults, **options})


def trained(model_path, tokenizer, args, dataset, **kwargs) -> REDITrainer:
    trainer = REDITrainer(model=model_path, args=args, train_dataset=dataset, processing_class=tokenizer, **kwargs)
    trainer.train()
    return trainer


def logged(trainer, key) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def oracle_tokens(model, tokenizer, prompt: str, content: str) -> torch.Tensor:
    """log p of each token of y, spelled out: ChatML text, one eos, log-softmax, no padding, no trainer code."""
    prompt_text = f"{SYSTEM}<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    x = tokenizer.encode(prompt_text, add_special_tokens=False)
    y = tokenizer.encode(f"{content}<|im_end|>\n", add_special_tokens=False) + [tokenizer.eos_token_id]
    logits = model(torch.tensor([x + y])).logits[0].float()
    logps = torch.log_softmax(logits[len(x) - 1 : -1], dim=-1)  # position t predicts token t + 1
    return logps[torch.arange(len(y)), torch.tensor(y)]


def oracle_logps(model, tokenizer, prompt: str, content: str) -> tuple[torch.Tensor, int]:
    """sum log p(y|x) and |y|."""
    logps = oracle_tokens(model, tokenizer, prompt, content)
    return logps.sum(), len(logps)


def oracle_losses(model, tokenizer, rows, alpha=0.8, chosen_weight=1.0, bounded_negatives=False) -> torch.Tensor:
    losses = []
    for row in rows:
        prompt = row["prompt"][0]["content"]
        chosen = oracle_tokens(model, tokenizer, prompt, row["chosen"][0]["content"])
        rejected = oracle_tokens(model, tokenizer, prompt, row["rejected"][0]["content"])
        if bounded_negatives:
            rejected = -torch.log(1 - rejected.exp())
        losses.append(-chosen_weight * chosen.mean() + alpha * rejected.mean())
    return torch.stack(losses)


def oracle_steps(model_path, tokenizer, rows, num_steps, **objective) -> tuple[list[float], torch.nn.Module]:
    """Losses and final model of AdamW steps on all rows, one trace at a time; learning rate 1e-3."""
    model = AutoModelForCausalLM.from_pretrained(model_path).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for _ in range(num_steps):
        loss = oracle_losses(model, tokenizer, rows, **objective).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model


def check_steps(trainer, losses, model) -> None:
    assert logged(trainer, "loss") == pytest.approx(losses, abs=5e-5)
    for (name, expected), actual in zip(model.named_parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, atol=3e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def stock_sft(model_path: str, tokenizer, rows_file: str, folder: Path, peft_config=None, **options) -> Path:
    """Trains TRL's own `SFTTrainer`, padded, on the tokens of `prepare_rows`; `folder` gets what a run leaves."""
    rows = prepare_rows(Dataset.from_parquet(rows_file), ("positives",), tokenizer, None)[0]
    fixed = dict(logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, bf16=False)
    args = SFTConfig(output_dir=str(folder), gradient_checkpointing=False, **fixed, **options)
    model = AutoModelForCausalLM.from_pretrained(model_path)
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config
    )
    trainer.train()
    trainer.model = trainer.model.merge_and_unload() if peft_config else trainer.model
    trainer.model.save_pretrained(folder)
    trainer.save_state()
    return folder
