"""Stage 1: the loss against log-softmax row by row, and the steps against those of TRL's own `SFTTrainer`."""

import pytest
import torch
from datasets import Dataset
from helpers.commands import CPU, arguments, log_of
from helpers.oracle import stock_sft
from helpers.tiny import make_pairs
from transformers import AutoModelForCausalLM

from redi.config import PackedSFTConfig
from redi.runs.errors import UsageError
from redi.sft import PackedSFTTrainer
from redi.text.training_rows import prepare_rows
from redi.training import train

BATCH = ["--per_device_train_batch_size", "16"]  # all rows


@pytest.fixture()
def rows(rows_file, tokenizer) -> Dataset:
    return prepare_rows(Dataset.from_parquet(rows_file), ("positives",), tokenizer, None)[0]


def mean_loss(model_path: str, rows: Dataset, limit: int | None = None) -> float:
    """The mean of -log p over the completion tokens of all rows, one row at a time."""
    model, total, count = AutoModelForCausalLM.from_pretrained(model_path), 0.0, 0
    for row in rows:
        ids, labels = row["input_ids"][:limit], row["labels"][:limit]
        logps = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        for t, label in enumerate(labels[1:]):
            if label != -100:
                total, count = total - logps[t, label].item(), count + 1
    return total / count


def test_the_completion_with_its_end_of_turn_and_eos_is_scored(tokenizer, rows):
    row = rows[1]
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(trained) == (
        "<think>\nstep 0 is 1. step 1 is 2.\n</think>\n\\boxed{2}<|im_end|>\n<|endoftext|>"
    )
    masked = row["input_ids"][: -len(trained)]
    assert tokenizer.decode(masked).endswith("<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("options", [[], ["--padding_free", "false"], ["--packing", "true"]])
def test_the_loss_is_the_mean_over_completion_tokens(model_path, rows_file, rows, tmp_path, options):
    """One batch of all 16 rows: by the engine, padded, or packed by TRL; the rows do not see each other."""
    train("sft", arguments(model_path, rows_file, tmp_path / "o", *BATCH, *options))
    assert log_of(tmp_path / "o")[0]["loss"] == pytest.approx(mean_loss(model_path, rows), abs=2e-5)


def test_rows_are_cut_at_max_length_with_a_message(model_path, rows_file, rows, tmp_path, capsys):
    lengths = sorted(len(ids) for ids in rows["input_ids"])
    limit, num_long = lengths[8], sum(length > lengths[8] for length in lengths)
    options = [*BATCH, "--max_length", str(limit)]
    train("sft", arguments(model_path, rows_file, tmp_path / "o", *options))
    assert num_long > 0 and f"max_length={limit} cuts {num_long} of 16 traces at the end" in capsys.readouterr().out
    assert log_of(tmp_path / "o")[0]["loss"] == pytest.approx(mean_loss(model_path, rows, limit), abs=2e-5)


# --- against TRL's own `SFTTrainer` ------------------------------------------------------------------------------

STEPS = {"max_steps": 5, "learning_rate": 1e-3, "lr_scheduler_type": "constant"}  # the third batch is a partial one
SPLITS = [  # per device, accumulation, other options
    (8, 1, []),
    (2, 4, []),
    (8, 1, ["--max_tokens_per_micro_batch", "300"]),  # about two traces each
    (2, 4, ["--gradient_checkpointing", "true"]),
]


@pytest.fixture(scope="module")
def positives_file(tmp_path_factory) -> str:
    """18 positives: an epoch is two global batches of 8 and one of 2."""
    path = tmp_path_factory.mktemp("positives") / "positives.parquet"
    Dataset.from_list([{"messages": row["prompt"] + row["chosen"]} for row in make_pairs(18)]).to_parquet(path)
    return str(path)


@pytest.fixture(scope="module")
def stock(model_path, tokenizer, positives_file, tmp_path_factory):
    options = STEPS | {"per_device_train_batch_size": 8}
    return stock_sft(model_path, tokenizer, positives_file, tmp_path_factory.mktemp("stock"), **options)


def options_of(model_path: str, positives_file: str, folder, *extra: str) -> list[str]:
    argv = ["--model_name_or_path", model_path, "--dataset_name", positives_file, "--output_dir", str(folder), *CPU]
    argv += ["--logging_steps", "1", "--save_strategy", "no", *extra]
    return argv + [text for name, value in STEPS.items() for text in (f"--{name}", str(value))]


def assert_same_run(actual, expected) -> None:
    found, wanted = log_of(actual), log_of(expected)
    assert len(found) == len(wanted) == STEPS["max_steps"]
    for key in ("loss", "grad_norm", "mean_token_accuracy", "num_tokens"):
        values = [entry[key] for entry in wanted]
        assert [entry[key] for entry in found] == pytest.approx(values, rel=2e-5, abs=1e-6), key
    found, wanted = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (actual, expected))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=5e-6, rtol=2e-5)


@pytest.mark.parametrize("per_device, accumulation, options", SPLITS)
def test_the_steps_are_those_of_trl(model_path, positives_file, stock, tmp_path, per_device, accumulation, options):
    """Loss, gradient norm, metrics and weights of five steps, over two epochs."""
    options = [*options, "--per_device_train_batch_size", str(per_device)]
    options += ["--gradient_accumulation_steps", str(accumulation)]
    train("sft", options_of(model_path, positives_file, tmp_path / "o", *options))
    assert_same_run(tmp_path / "o", stock)


def test_lora_takes_the_steps_of_trl(model_path, tokenizer, positives_file, tmp_path):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(42)
    stock_sft(model_path, tokenizer, positives_file, tmp_path / "stock", lora, **STEPS, per_device_train_batch_size=8)
    options = ["--per_device_train_batch_size", "8", "--lora_r", "4", "--lora_alpha", "8"]
    torch.manual_seed(42)
    train("sft", options_of(model_path, positives_file, tmp_path / "o", *options))
    assert_same_run(tmp_path / "o", tmp_path / "stock")


# --- what is refused -----------------------------------------------------------------------------------------------

REFUSED = [
    ({"packing": True, "max_tokens_per_micro_batch": 900}, "max_tokens_per_micro_batch is read only without packing"),
    ({"padding_free": False, "max_tokens_per_micro_batch": 900}, "is read only with padding_free=True"),
    ({"loss_type": "dft"}, "loss_type='dft' is read only with padding_free=False"),
    ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 is read only with padding_free=False"),
    ({"average_tokens_across_devices": False}, "average_tokens_across_devices=False is read only"),
    ({"shuffle_dataset": True}, "shuffle_dataset=True is read only"),
    ({"data_seed": 1}, "data_seed=1 is read only"),
    ({"packing_strategy": "wrapped"}, "packing_strategy='wrapped' is read only"),
]


@pytest.mark.parametrize("options, message", REFUSED)
def test_options_that_the_engine_does_not_read_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        PackedSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **options)


def test_trl_reads_them_without_the_engine(tmp_path):
    args = PackedSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, padding_free=False, loss_type="dft")
    assert not args.trains_on_traces


@pytest.mark.parametrize(
    "options, row, message",
    [
        (
            ["--max_tokens_per_micro_batch", "20"],
            {},
            r"a trace of \d+ tokens does not fit max_tokens_per_micro_batch=20",
        ),
        ([], {"messages": [{"role": "user", "content": "?"}]}, "row 0 .*assistant turn"),
        (["--global_batch_size", "0"], {}, "global_batch_size=0"),
        (["--max_length", "40"], {}, "no row is left to train on"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(model_path, tmp_path, options, row, message):
    rows = [{"messages": pair["prompt"] + pair["chosen"], "uuid": "x"} | row for pair in make_pairs(4)]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match=message) as error:
        train("sft", arguments(model_path, str(tmp_path / "rows.parquet"), tmp_path / "o", *options))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "o").exists() or not any((tmp_path / "o").iterdir())


def trainer_on(rows: list[dict], model_path, tokenizer, tmp_path, **options) -> PackedSFTTrainer:
    args = PackedSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **options)
    return PackedSFTTrainer(
        model=model_path, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )


def test_rows_of_messages_and_of_tokens_are_the_same_steps(model_path, tokenizer, rows, tmp_path):
    messages = [{"messages": row["prompt"] + row["chosen"]} for row in make_pairs(16)]
    one, two = (trainer_on(x, model_path, tokenizer, tmp_path) for x in (messages, rows.to_list()))
    assert one.train_dataset.to_list() == two.train_dataset.to_list()


@pytest.mark.parametrize(
    "labels, message",
    [([-100, 5, -100, 7], "row 0: its scored tokens are not the end"), ([-100] * 4, "row 0 has no scored token")],
)
def test_tokens_that_the_engine_cannot_score_are_refused(model_path, tokenizer, tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        trainer_on([{"input_ids": [3, 5, 6, 7], "labels": labels}], model_path, tokenizer, tmp_path)


def test_a_nan_names_its_row(model_path, tokenizer, rows, tmp_path):
    trainer = trainer_on(rows.to_list(), model_path, tokenizer, tmp_path, per_device_train_batch_size=16)
    original = trainer.steps._micro_batch

    def poisoned(traces, numbers):
        batch = original(traces, numbers)
        batch["shares"][batch["problems"] == numbers.index(5)] = float("nan")
        return batch

    trainer.steps._micro_batch = poisoned
    with pytest.raises(FloatingPointError, match="in step 1; batch: row 5$"):
        trainer.train()


def test_the_balance_over_ranks_is_printed(model_path, tokenizer, rows, tmp_path, capsys):
    trainer_on(rows.to_list(), model_path, tokenizer, tmp_path)
    assert (
        "ranks: 1; micro-batches per rank and step: 1\nbalance over ranks: 1.00 of the ideal"
        in capsys.readouterr().out
    )
