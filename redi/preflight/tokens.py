"""Renders one row as training and as evaluation do, and checks that the tokens agree and the right ones are scored."""

import re
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from redi.preflight.lengths import LENGTH_COLUMNS
from redi.preflight.recipe import Model, Recipe, Rows
from redi.preflight.report import Report
from redi.runs.errors import UsageError
from redi.text.prompts import THINK, make_prompt
from redi.text.training_rows import MASKED, read_row, tokenize_row

TAG = THINK.strip()
TRIED = 64  # rows; the shortest of them is rendered


@dataclass(frozen=True)
class Rendering:
    """A trace as it is trained: its tokens, and which of them are scored."""

    ids: list[int]
    scored: list[bool]

    @property
    def num_prompt(self) -> int:
        """Tokens before the first scored one; all tokens if none is scored."""
        return self.scored.index(True) if any(self.scored) else len(self.ids)


def check_row(report: Report, recipe: Recipe, model: Model, rows: Rows) -> None:
    """Shows a row as training and evaluation see it, at the end of its prompt; refuses what differs."""
    tokenizer, kind, limit = model.tokenizer, rows.kind, recipe.args.max_length
    first = rows.first(TRIED, [name for name in rows.table.schema.names if name not in LENGTH_COLUMNS])
    tried = [(row, tokenize_row(row, i, tokenizer, kind)) for i, row in enumerate(first)]
    tried = [(row, tokenized) for row, tokenized in tried if all(tokenized["lengths"])]
    if not tried:
        raise UsageError(f"each of the first {len(first)} rows has an empty completion: training drops them")
    row, tokenized = min(tried, key=lambda item: item[1]["lengths"][0])
    if limit is not None and tokenized["lengths"][0] >= limit:
        raise UsageError(
            f"max_length={limit} cuts even the shortest of the first {TRIED} rows, so the model would not learn its "
            "end and eos; raise it"
        )
    trained, prompt = rendering(tokenized), read_row(row, 0, kind)[0]
    problem = next(message["content"] for message in prompt if message["role"] == "user")
    evaluated = _evaluated(tokenizer, trained, problem)
    begin, end = max(0, trained.num_prompt - 3), trained.num_prompt
    for name, ids in (("training", trained.ids[: max(len(evaluated), end + 3)]), ("evaluation", evaluated)):
        shown = [repr(tokenizer.decode([token])) for token in ids[begin:]]
        shown.insert(end - begin, "|")  # the end of the prompt
        report.line(f"{name:11}{' '.join(shown)} ...")
    for text in check_tokens(tokenizer, trained, problem):
        report.ok(text)
    if not make_prompt(tokenizer, problem, "bare")[0].rstrip().endswith(TAG):
        turns = [turn[0]["content"] for row, _ in tried for turn in read_row(row, 0, kind)[1]]
        if missing := sum(TAG not in turn for turn in turns):
            report.note(
                f"{missing} of the {len(turns)} completions of the first rows have no {TAG}: right for a model that "
                "does not think aloud; evaluate it with --force-think none --whole-responses"
            )


def rendering(tokenized: dict[str, Any]) -> Rendering:
    """The first trace of a row that `tokenize_row` has tokenised; of a pair, the chosen one."""
    if "input_ids" in tokenized:
        return Rendering(tokenized["input_ids"], [label != MASKED for label in tokenized["labels"]])
    prompt, completion = tokenized["prompt_ids"], tokenized.get("chosen_ids") or tokenized["completion_ids"][0]
    return Rendering(prompt + completion, [False] * len(prompt) + [True] * len(completion))


def _evaluated(tokenizer: PreTrainedTokenizerBase, trained: Rendering, problem: str) -> list[int]:
    """The prompt that evaluation makes of a problem, with an opened thought if the trace has one."""
    force = "as-trained" if TAG in tokenizer.decode(trained.ids) else "none"
    return make_prompt(tokenizer, problem, "bare", force)[1]


def check_tokens(tokenizer: PreTrainedTokenizerBase, trained: Rendering, problem: str) -> list[str]:
    """What agrees between a trace as trained, not cut, and the prompt that evaluation makes of its problem.

    Raises:
        UsageError: training and evaluation would differ; shows the tokens at that place.
    """
    ids, start = trained.ids, trained.num_prompt
    prompt, evaluated = make_prompt(tokenizer, problem, "bare")[1], _evaluated(tokenizer, trained, problem)
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
        f"{'one' if TAG in tokenizer.decode(ids) else 'no'} {TAG}, no second system block; "
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
