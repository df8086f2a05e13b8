"""The plain `datasets` loops that `bench_data.py` compares with; they do what the original does in the same way.

One row (a dict) at a time; a list of dicts; one `apply_chat_template` per turn.
"""

import os
import uuid
from pathlib import Path

from datasets import Dataset, disable_progress_bars, load_dataset
from transformers import PreTrainedTokenizerBase

disable_progress_bars()

EXCLUDED_SOURCE = "cn_k12"


def loop_select(corpus: Path, cache: Path, output: Path) -> None:
    """Raw corpus -> shuffled pairs, without a length filter."""
    dataset = load_dataset("parquet", data_files=str(corpus), split="train", cache_dir=str(cache))
    dataset = dataset.map(lambda row, index: {"original_index": index}, with_indices=True, num_proc=os.cpu_count())
    pairs = []
    for row in dataset.shuffle(seed=42):
        valid = row["problem_is_valid"]
        if not isinstance(valid, str) or valid.strip().lower() != "yes" or row["source"] == EXCLUDED_SOURCE:
            continue
        generations, correctness = row["generations"], row["correctness"]
        llama, math_verify = correctness["llama_verification"], correctness["math_verify_reparsed_answer"]
        if not row["problem"] or not generations or not len(generations) == len(llama) == len(math_verify):
            continue
        both = [bool(a and b) for a, b in zip(llama, math_verify, strict=True)]
        if not any(both) or all(both):
            continue
        chosen, rejected = both.index(True), both.index(False)
        user = {"role": "user", "content": row["problem"]}
        pairs.append(
            {
                "prompt": row["problem"],
                "chosen": [user, {"role": "assistant", "content": generations[chosen]}],
                "rejected": [user, {"role": "assistant", "content": generations[rejected]}],
                "source": row["source"],
                "uuid": str(uuid.uuid4()),
                "original_index": row["original_index"],
                "chosen_gen_idx": chosen,
                "rejected_gen_idx": rejected,
            }
        )
    Dataset.from_list(pairs).to_parquet(output)


def loop_length(
    pairs: Path, cache: Path, output: Path, tokenizer: PreTrainedTokenizerBase, limits: dict[str, int]
) -> None:
    """Pairs -> those within the limits, with their lengths."""
    dataset = load_dataset("parquet", data_files=str(pairs), split="train", cache_dir=str(cache))
    kept = []
    for row in dataset:
        lengths = {"prompt_len": turn_length(tokenizer, {"role": "user", "content": row["prompt"]})}
        same = row["chosen"] == row["rejected"]
        for name in ("chosen", "rejected"):
            lengths[f"{name}_len"] = 1 if same else turn_length(tokenizer, row[name][-1])
        response_len = max(lengths["chosen_len"], lengths["rejected_len"])
        if lengths["prompt_len"] <= limits["max_prompt_tokens"] and response_len <= limits["max_response_tokens"]:
            kept.append(row | lengths)
    Dataset.from_list(kept).to_parquet(output)


def turn_length(tokenizer: PreTrainedTokenizerBase, turn: dict[str, str]) -> int:
    return len(tokenizer.apply_chat_template([turn], tokenize=True, return_dict=False)) + 1


def loop_decontaminate(corpus: Path, cache: Path, output: Path, benchmarks: dict[str, list[str]]) -> None:
    """Raw corpus -> numbers of the problems that share 8 words with a question, by benchmark."""
    dataset = load_dataset("parquet", data_files=str(corpus), split="train", cache_dir=str(cache))
    dataset = dataset.select_columns(["problem"])  # a loop over complete rows would be slower still
    known = {name: {ngram for text in texts for ngram in ngrams(text)} for name, texts in benchmarks.items()}
    found = []
    for number, row in enumerate(dataset):
        problem = ngrams(row["problem"] or "")
        found += [{"row": number, "benchmark": name} for name, those in known.items() if problem & those]
    Dataset.from_list(found).to_parquet(output)


def ngrams(text: str) -> set[str]:
    words = text.lower().strip().split()
    return {" ".join(words[i : i + 8]) for i in range(len(words) - 7)}
