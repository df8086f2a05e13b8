"""Renders one row as training and as evaluation do, and checks that the tokens agree and the right ones are scored."""

import contextlib
import copy
import io
import logging
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase

from redi.preflight.lengths import LENGTH_COLUMNS
from redi.preflight.recipe import Model, Recipe, Rows
from redi.preflight.report import Report
from redi.runs.errors import UsageError, usage_errors
from redi.text.prompts import THINK, make_prompt
from redi.text.training_rows import read_row, tokenize_row

TAG = THINK.strip()
TRIED = 64  # rows; the shortest of them is rendered


@dataclass(frozen=True)
class Rendering:
    """A trace from the trainer's own data loader: its tokens, and which of them are scored."""

    ids: list[int]
    scored: list[bool]

    @property
    def num_prompt(self) -> int:
        """Tokens before the first scored one; all tokens if none is scored."""
        return self.scored.index(True) if any(self.scored) else len(self.ids)


def check_row(report: Report, recipe: Recipe, model: Model, rows: Rows) -> None:
    """Renders a row, shows the end of its prompt and compares training with evaluation; refuses what differs."""
    limit = recipe.args.max_length
    columns = [name for name in rows.table.schema.names if name not in LENGTH_COLUMNS]
    kind, first = rows.kind, rows.first(TRIED, columns)
    tried = [row for i, row in enumerate(first) if all(tokenize_row(row, i, model.tokenizer, kind)["lengths"])]
    if not tried:
        raise UsageError(f"each of the first {len(first)} rows has an empty completion: training drops them")
    row = min(tried, key=lambda row: len(str(row)))
    row |= {"label": True} if kind == "traces" else {}  # a negative is rendered alike
    trained = train_rendering(recipe, model, row)
    if limit is not None and len(trained.ids) >= limit:
        raise UsageError(
            f"max_length={limit} cuts even the shortest of the first {TRIED} rows, so the model would not learn its "
            "end and eos; raise it"
        )
    problem = row.get("messages") or row.get("chosen")
    if problem is None or problem[0]["role"] == "assistant":
        problem = row["prompt"]
    if not isinstance(problem, str):
        problem = next(message["content"] for message in problem if message["role"] == "user")
    force = "as-trained" if TAG in model.tokenizer.decode(trained.ids) else "none"
    evaluated = make_prompt(model.tokenizer, problem, "bare", force)[1]
    begin, end = max(0, trained.num_prompt - 3), trained.num_prompt
    for name, ids in (("training", trained.ids[: max(len(evaluated), end + 3)]), ("evaluation", evaluated)):
        shown = [repr(model.tokenizer.decode([token])) for token in ids[begin:]]
        shown.insert(end - begin, "|")  # the end of the prompt
        report.line(f"{name:11}{' '.join(shown)} ...")
    for text in check_tokens(model.tokenizer, trained, problem):
        report.ok(text)
    if not make_prompt(model.tokenizer, problem, "bare")[0].rstrip().endswith(TAG):
        turns = [turn[0]["content"] for i, row in enumerate(tried) for turn in read_row(row, i, kind)[1]]
        if missing := sum(TAG not in turn for turn in turns):
            report.note(
                f"{missing} of the {len(turns)} completions of the first rows have no {TAG}: right for a model that "
                "does not think aloud; evaluate it with --force-think none --whole-responses"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the trainer says of a run that does not happen."""
    level, bars = logging.root.manager.disable, datasets.are_progress_bars_disabled()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
        if not bars:
            datasets.enable_progress_bars()


def train_rendering(recipe: Recipe, model: Model, row: dict[str, Any]) -> Rendering:
    """The chosen trace of a row, from a batch of the recipe's trainer around a tiny model of the same kind."""
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(_tiny(model.config)).save_pretrained(folder)
        args = copy.copy(recipe.args)
        args.output_dir, args.report_to, args.model_init_kwargs = f"{folder}/out", [], None
        args.per_device_train_batch_size = args.gradient_accumulation_steps = 1
        args.dataset_num_proc = args.run_name = None
        args.push_to_hub = False
        if (recipe.run.attn_implementation or "").startswith("flash_attention"):  # it runs only on GPUs
            args.padding_free = args.packing = False
        with _quiet(), usage_errors(lambda error: f"training refuses the row that was tried: {error}", ValueError):
            rows, _ = recipe.stage.prepare(
                datasets.Dataset.from_list([row]), model.tokenizer, args, recipe.run.dataset_name
            )
            trainer = recipe.stage.trainer(
                model=folder, args=args, train_dataset=rows, processing_class=model.tokenizer, peft_config=None
            )
        return _first_trace(next(iter(trainer.get_train_dataloader())))


def _tiny(config: PreTrainedConfig) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = 1, 16, 16
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = 2, 1, 8
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    return config


def _first_trace(batch: Any) -> Rendering:
    """A batch's chosen trace, or its first one. The batch is one of traces, of `SFTTrainer`, or of pairs."""
    if not isinstance(batch, list):
        ids = batch["input_ids"][0]
        scored = batch["labels"][0] != -100 if "labels" in batch else batch["completion_mask"][0].bool()
        real = batch["attention_mask"][0].bool() if "attention_mask" in batch else torch.ones_like(ids).bool()
        return Rendering(ids[real].tolist(), scored[real].tolist())
    micro_batch = max(batch, key=lambda micro_batch: micro_batch["is_chosen"].any())
    inputs, number = micro_batch["model_inputs"], int(micro_batch["is_chosen"].int().argmax())
    ids = inputs["input_ids"]
    scored = torch.zeros(ids.numel(), dtype=torch.bool)
    scored[micro_batch["positions"] + 1] = True  # token t is predicted at t - 1
    if "cu_seq_lens_q" in inputs:
        part = slice(*inputs["cu_seq_lens_q"][number : number + 2].tolist())
        return Rendering(ids.flatten()[part].tolist(), scored[part].tolist())
    real = inputs["attention_mask"][number].bool()
    return Rendering(ids[number][real].tolist(), scored.view_as(ids)[number][real].tolist())


def check_tokens(tokenizer: PreTrainedTokenizerBase, trained: Rendering, problem: str) -> list[str]:
    """What agrees between a trace as trained, not cut, and the prompt that evaluation makes of its problem.

    Raises:
        UsageError: training and evaluation would differ; shows the tokens at that place.
    """
    ids, start = trained.ids, trained.num_prompt
    thinks = TAG in tokenizer.decode(ids)
    prompt = make_prompt(tokenizer, problem, "bare")[1]
    evaluated = make_prompt(tokenizer, problem, "bare", "as-trained" if thinks else "none")[1]
    _refuse_doubled("training", tokenizer, ids)
    _refuse_doubled("evaluation", tokenizer, evaluated)
    at = first_difference(ids, evaluated)
    if at is not None:
        raise UsageError(
            f"tokens: training and evaluation differ at token {at}: training {around(tokenizer, ids, at)}, evaluation "
            f"{around(tokenizer, evaluated, at)}; change the chat template, or what traces begin with ({THINK!r})"
        )
    if start != len(prompt):
        at, what = min(start, len(prompt)), "scored" if start < len(prompt) else "masked"
        raise UsageError(
            f"tokens: the prompt has {len(prompt)} tokens, but scoring begins at token {start}: "
            f"{around(tokenizer, ids, at)} is {what}"
        )
    eos, last = tokenizer.eos_token_id, len(ids) - 1
    if not all(trained.scored[start:]):
        at = trained.scored.index(False, start)
        name = "eos" if ids[at] == eos else "the completion"
        raise UsageError(
            f"tokens: {name} is masked at token {at}: {around(tokenizer, ids, at)}; the model would not learn it"
        )
    if ids[last] != eos:
        raise UsageError(
            f"tokens: no eos at the end of the trace: {around(tokenizer, ids, last)}; the model would not learn to "
            f"stop with {tokenizer.decode([eos])!r}"
        )
    return [
        f"the {len(prompt)} tokens of the prompt and the next {len(evaluated) - len(prompt)} are the same",
        f"{'one' if thinks else 'no'} {TAG}, no second system block; "
        f"all {len(ids) - len(prompt)} tokens after the prompt are scored",
        f"the last scored token is eos, {tokenizer.decode([eos])!r}",
    ]


def _refuse_doubled(name: str, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> None:
    bos, text = tokenizer.bos_token_id, tokenizer.decode(ids)
    if bos is not None and ids[:2] == [bos, bos]:
        raise UsageError(f"tokens: {name} has two bos tokens {tokenizer.bos_token!r}; the chat template writes one")
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    blocks = re.split("|".join(map(re.escape, sorted(special, key=len, reverse=True))), text) if special else [text]
    systems = [block[:40] for block in blocks if block.startswith("system")]
    if len(systems) > 1:
        raise UsageError(
            f"tokens: {name} has {len(systems)} system blocks: {systems[0]!r}, {systems[1]!r}; the chat template must "
            "write one"
        )
    if (count := text.count(TAG)) > 1:
        shown = text if len(text) <= 120 else f"{text[:60]} ... {text[-60:]}"
        raise UsageError(
            f"tokens: {name} has {count} {TAG} in {shown!r}; there may be one, opened by the trace or by the chat "
            "template"
        )


def first_difference(trained: list[int], evaluated: list[int]) -> int | None:
    """The first token of a trace that differs from what evaluation starts with; None if there is none."""
    pairs = zip(trained, evaluated, strict=False)
    differing = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    return len(trained) if differing is None and len(trained) < len(evaluated) else differing


def around(tokenizer: PreTrainedTokenizerBase, ids: list[int], at: int) -> str:
    """The tokens around a position, with brackets at it: `'user' [' x'] 'y'`."""
    tokens = {i: repr(tokenizer.decode([ids[i]])) for i in range(max(0, at - 2), min(len(ids), at + 3))}
    return " ".join(f"[{token}]" if i == at else token for i, token in tokens.items()) or "(nothing)"
