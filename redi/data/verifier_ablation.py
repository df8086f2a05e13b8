"""Builds the verifier ablation: the same training data with the verdicts inverted for half of the problems.

As the original's `data_preprocess/ablation_verifier_signal.py`, at
https://github.com/Tim-Siu/reinforcement-distillation/tree/dda07d2. A negative is a generation that neither verifier
accepts. Problems with a positive and such a negative are put in the order of the corpus's shuffle, shuffled again and
halved:
- `sft`: the positives of half 1, the negatives of half 2, and the positives of the problems without such a negative;
- `main`: pairs of half 1; the positive is chosen;
- `inverted`: pairs of half 2; the negative is chosen.

Pairs with a response over the limit are dropped, and the larger of these two sets is sampled down to the other's size.
The texts stay on disk throughout.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from redi.data.build import Tally, build, selected_rows, take_cut
from redi.data.dataset_folder import NewDataset, count_table
from redi.data.lengths import length_rules
from redi.data.reading.rows import Corpus
from redi.data.selection import select_pairs, select_positives
from redi.data.shuffle import write_shards
from redi.runs.errors import UsageError
from redi.runs.files import CARD, fingerprint, write_text
from redi.text.encoding import Tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

SPLIT_SEED = 123
SUMMARIES = {
    "sft": "Traces for stage 1: accepted ones of half of the problems, rejected ones of the other half, and accepted "
    "ones of the problems without a rejected one.",
    "main": "Pairs of the first half of the problems: chosen is a trace that both verifiers accept.",
    "inverted": "Pairs of the second half of the problems: chosen is a trace that neither verifier accepts.",
}
SWAPPED = {f"chosen{end}": f"rejected{end}" for end in ("", "_gen_idx", "_len", "_cut")}
SWAPPED |= {rejected: chosen for chosen, rejected in SWAPPED.items()}
PROVENANCE = ("source", "uuid", "original_index")
TRACE = ("chosen", "chosen_gen_idx", *PROVENANCE, "chosen_cut")
PAIR = ("prompt", "chosen", "rejected", *PROVENANCE, "chosen_gen_idx", "rejected_gen_idx", "prompt_len", "chosen_len")
PAIR += ("rejected_len", "chosen_cut", "rejected_cut")
ROWS = "rows.arrow"  # all problems with a positive, in shuffled order; exists while the sets are written


def ablate(
    source: str, output: Path, *, tokenizer: str | None = None, max_response_tokens: int | None = None, **options: Any
) -> str:
    """Builds the three sets into folders of `output`, as `redi.data.build.build`; returns their counts, to be printed.

    A tokenizer drops pairs with a longer response than `max_response_tokens` (inclusive, the bare text plus 1).
    `expect_rows` is the number of rows of all three sets together.
    """
    counting = length_rules.counting_options(tokenizer, max_response_tokens=max_response_tokens)
    config = {"split_seed": SPLIT_SEED}
    return build(source, output, config, _write_sets, tokenizer=tokenizer, counting=counting, **options)


def _select(batch: pa.RecordBatch, tokenizer: Tokenizer | None, **options: Any) -> tuple[pa.RecordBatch, Counter[str]]:
    """The positives of a batch as `chosen`, each with the other columns of its pair, null if it has no negative."""
    positives, drops = select_positives(batch, rule="both", **options)
    pairs, _ = select_pairs(batch, negatives="neither", **options)
    pairs = pairs if tokenizer is None else _with_lengths(pairs, tokenizer)
    pair_of = pc.index_in(positives["original_index"], value_set=pairs["original_index"])
    rows = positives.rename_columns({"messages": "chosen"})
    for name in [name for name in pairs.schema.names if name not in rows.schema.names]:
        rows = rows.append_column(name, pairs[name].take(pair_of))
    return rows, drops


def _with_lengths(pairs: pa.RecordBatch, tokenizer: Tokenizer) -> pa.RecordBatch:
    """Adds the lengths that the original's ablation counts: of a response its bare text, plus 1 for the eos token.

    The prompt's length, which nothing depends on, is that of its turn alone through the chat template, plus 1.
    """
    lengths = {"prompt": length_rules.turn_lengths(tokenizer, "user", pairs["prompt"].to_pylist())}
    for name in ("chosen", "rejected"):
        texts = length_rules.response_texts(pairs[name]).to_pylist()
        lengths[name] = length_rules.count_tokens(tokenizer, texts) + 1
    for name, counts in lengths.items():
        pairs = pairs.append_column(f"{name}_len", pa.array(counts))
    return pairs


def _store(
    new: NewDataset, corpus: Corpus, tokenizer: Tokenizer | None, tally: Tally
) -> tuple[list[bool], list[bool]]:
    """Writes `ROWS`; returns which rows have a negative, and which pairs fit the limit."""
    has_pair, fits, writer = [], [], None
    with ExitStack() as stack:
        for table in selected_rows(new, corpus, partial(_select, tokenizer=tokenizer), tally):
            writer = writer or stack.enter_context(pa.ipc.new_stream(str(new.folder / ROWS), table.schema))
            writer.write_table(table)
            has_pair += pc.is_valid(table["rejected"]).to_pylist()
            if tokenizer is not None:
                longest = pc.max_element_wise(table["chosen_len"], table["rejected_len"])
                fits += pc.less_equal(longest, new.config["max_response_tokens"]).to_pylist()
    return has_pair, fits


def _write_sets(new: NewDataset, corpus: Corpus, tokenizer: Tokenizer | None) -> tuple[int, str]:
    from datasets import Dataset  # takes seconds to import; it reads rows of a file in any order

    has_pair, fits = _store(new, corpus, tokenizer, tally := Tally())
    paired, single = ([row for row, found in enumerate(has_pair) if found == wanted] for wanted in (True, False))
    if len(paired) < 2:
        found = f"--input {new.inputs['corpus']}: {len(paired)} problems have a positive and a negative"
        raise UsageError(f"{found}; at least two are needed, one for each half")
    random.Random(SPLIT_SEED).shuffle(paired)
    halves = paired[: len(paired) // 2], paired[len(paired) // 2 :]
    kept = [[row for row in half if not fits or fits[row]] for half in halves]
    size = min(map(len, kept))
    if size == 0:
        numbers = " and ".join(f"{len(rows)} pairs of half {n}" for n, rows in enumerate(kept, 1))
        raise UsageError(f"--max-response-tokens leaves {numbers}; raise it")
    tables = partial(_tables, Dataset.from_file(str(new.folder / ROWS)))
    write = partial(_write_set, new, tally.has_reasons)
    sft = tables(halves[0], False, "group1_correct"), tables(halves[1], True, "group2_incorrect")
    sft = chain(*sft, tables(single, False, "typeB_correct"))
    sets = {"sft": write("sft", sft, corpus.num_rows, dict(tally.dropped))}
    for name, half, fit in zip(("main", "inverted"), halves, kept, strict=True):
        # Sampling also changes the order, so a half that is small enough is left as it is.
        sample = random.Random(SPLIT_SEED).sample(fit, size) if len(fit) > size else fit
        drops = {length_rules.RESPONSE_TOO_LONG: len(half) - len(fit), "sampled down": len(fit) - size}
        sets[name] = write(name, tables(sample, name == "inverted"), len(half), drops)
    (new.folder / ROWS).unlink()
    _write_card(new.folder, new.output.resolve().name)
    numbers = zip(("half 1", "half 2", "without negative"), map(len, (*halves, single)), strict=True)
    counts = {"rows": sum(of_set["rows"] for of_set in sets.values()), "problems": dict(numbers), "sets": sets}
    counts["files"] = {f"{name}/{file}": n for name, of_set in sets.items() for file, n in of_set["files"].items()}
    new.finish(counts)
    shown = (f"{new.output / name}\n{count_table(of_set)}" for name, of_set in sets.items())
    return counts["rows"], "\n\n".join(shown)


def _tables(rows: "Dataset", order: list[int], swap: bool, sft_source: str | None = None) -> Iterator[pa.Table]:
    """The rows at these places as pairs, or as traces from `sft_source`; `swap` makes the negative the chosen one."""
    for table in rows.select(order).with_format("arrow").iter(1000):
        names = [SWAPPED.get(name, name) if swap else name for name in table.column_names]
        table = table.rename_columns(names).replace_schema_metadata(None)
        if sft_source is None:
            yield table.select([name for name in PAIR if name in names])
        else:
            table = table.select(TRACE).rename_columns({"chosen": "messages"})
            yield table.append_column("sft_source", pa.repeat(sft_source, len(table)))


def _write_set(
    new: NewDataset, has_reasons: bool, name: str, tables: Iterator[pa.Table], num_rows: int, dropped: dict[str, int]
) -> dict[str, Any]:
    """Writes and finishes a set made from `num_rows` rows; returns its counts."""
    (new.folder / name).mkdir()
    cut: Counter[str] = Counter()
    files = write_shards(map(partial(take_cut, total=cut), tables), new.folder / name)
    counts = {"input_rows": num_rows, "dropped": dropped, "rows": sum(files.values()), "files": files}
    counts |= {"truncated": dict(cut)} if has_reasons else {}
    new.finish(counts, SUMMARIES[name], part=name)
    return counts


def _write_card(folder: Path, title: str) -> None:
    """Writes the card of the three sets, each of which `load_dataset(folder, name)` finds by it."""
    # The description makes `datasets` tell other rows apart, which it would not (see `write_card`).
    hashes = {name: fingerprint(folder / name) for name in SUMMARIES}
    configs = [
        f"- config_name: {name}\n  data_files: {name}/train-*.parquet\n  description: rows {hashes[name]}"
        for name in SUMMARIES
    ]
    listed = [f"- `{name}`: {summary}" for name, summary in SUMMARIES.items()]
    write_text(folder / CARD, "\n".join(["---", "configs:", *configs, "---", "", f"# {title}", "", *listed, ""]))
