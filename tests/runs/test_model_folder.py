"""Model folders: tokenizers, and models whose attention caps logits (Gemma-2), which SDPA would ignore."""

import pytest
import torch
from datasets import Dataset
from helpers.commands import CPU, STEPS, log_of
from helpers.evaluation import main, rows_of, write_benchmark
from helpers.tiny import make_pairs, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from redi.runs.errors import UsageError
from redi.runs.model_folder import attention_of, load_tokenizer
from redi.text.training_rows import prepare_rows
from redi.training import train


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> str:
    """Scores beyond its cap of 0.5, so that with and without it are far apart."""
    folder, tokenizer = tmp_path_factory.mktemp("gemma-2"), make_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 300}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "query_pre_attn_scalar": 8}
    torch.manual_seed(0)
    config = Gemma2Config(
        **sizes, **heads, initializer_range=0.5, attn_logit_softcapping=0.5, tie_word_embeddings=False
    )
    Gemma2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_attention_that_a_model_is_loaded_with(gemma, model_path):
    assert attention_of(gemma, None) == "eager"
    assert attention_of(gemma, "flash_attention_2") == "flash_attention_2"
    assert (attention_of(model_path, None), attention_of(model_path, "sdpa")) == (None, "sdpa")
    with pytest.raises(UsageError, match="attn_implementation=sdpa ignores the cap on attention logits"):
        attention_of(gemma, "sdpa")


def test_an_unfinished_run_is_no_model(tmp_path, capsys):
    """Whether its final model has begun to be written or not; training and evaluation alike."""
    run = tmp_path / "run"
    (run / "checkpoint-100").mkdir(parents=True)
    remedy = f"is an unfinished run: .* or name one of its checkpoints .{run}/checkpoint-100"
    with pytest.raises(UsageError, match=f"model_name_or_path={run} {remedy}"):
        load_tokenizer(str(run))
    for name in ("started.json", "config.json"):
        (run / name).write_text("{}")
    with pytest.raises(UsageError, match=remedy):
        load_tokenizer(str(run))
    benchmark = write_benchmark(tmp_path / "small.jsonl", num_problems=1)
    argv = ["generate", "--model", str(run), "--benchmark", str(benchmark), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*argv, "--backend", "transformers", "--n", "1", "--max-tokens", "4", "--prompt", "bare"])
    assert "is an unfinished run" in capsys.readouterr().err


def test_sft_and_dpo_train_with_the_cap(gemma, tmp_path):
    """SFT: the loss of the rows by themselves. DPO: policy and reference start equal, log sigmoid(0) = -log 2."""
    rows = [{**row, "messages": row["prompt"] + row["chosen"]} for row in make_pairs(8)]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    argv = ["--model_name_or_path", gemma, "--dataset_name", str(tmp_path / "rows.parquet"), *CPU, *STEPS]
    for stage in ("sft", "dpo"):
        train(stage, [*argv, "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / stage)])
    assert log_of(tmp_path / "dpo")[0]["loss"] == pytest.approx(0.693147, abs=1e-5)

    tokens = prepare_rows(Dataset.from_list(rows), ("positives",), AutoTokenizer.from_pretrained(gemma), None)[0]
    losses = {}
    for attention in ("eager", "sdpa"):
        model, total, count = AutoModelForCausalLM.from_pretrained(gemma, attn_implementation=attention), 0.0, 0
        for row in tokens:
            logps = torch.log_softmax(model(torch.tensor([row["input_ids"]])).logits[0], -1)
            scored = [(t, label) for t, label in enumerate(row["labels"][1:]) if label != -100]
            total, count = total - sum(logps[place].item() for place in scored), count + len(scored)
        losses[attention] = total / count
    assert log_of(tmp_path / "sft")[0]["loss"] == pytest.approx(losses["eager"], abs=1e-4)
    assert abs(losses["eager"] - losses["sdpa"]) > 0.01


def test_answers_are_sampled_with_the_cap(gemma, tmp_path):
    benchmark = write_benchmark(tmp_path / "small.jsonl", num_problems=3)
    options = ["--backend", "transformers", "--n", "1", "--temperature", "0", "--max-tokens", "8", "--prompt", "bare"]
    main(["generate", "--model", gemma, "--benchmark", str(benchmark), *options, "--output", str(tmp_path / "out")])
    tokenizer, answers = AutoTokenizer.from_pretrained(gemma), {}
    rows = rows_of(tmp_path / "out" / "generations.jsonl")
    for attention in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(gemma, attn_implementation=attention)
        answers[attention] = []
        for row in rows:
            ids = tokenizer(row["prompt"], add_special_tokens=False).input_ids
            length = len(ids)
            for _ in range(row["num_tokens"]):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            answers[attention].append(tokenizer.decode(ids[length:], skip_special_tokens=True))
    assert [row["response"] for row in rows] == answers["eager"] != answers["sdpa"]


def test_a_tokenizer_without_a_chat_template_is_refused(model_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="has no chat template"):
        load_tokenizer(str(tmp_path))
