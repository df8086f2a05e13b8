"""Makes a base model fit for long traces: positions, rotary base, chat template, eos and pad; its weights as they are.

python scripts/prepare_base_model.py --model Qwen/Qwen2.5-Math-1.5B --output models/Qwen2.5-Math-1.5B
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import new_folder
from redi.runs.hub import is_hub_id
from redi.runs.manifest import is_finished, write_manifest
from redi.text.base_model import (
    LONG,
    WEIGHTS,
    check_in_vocabulary,
    check_template,
    choose_pad,
    rope_theta,
    verify,
    widen,
    write_model,
)

FILES = [*WEIGHTS, "*.json", "*.jinja", "merges.txt", "tokenizer.model"]
# For a tokenizer without a chat template: the one whose turns open with a token that it has.
TEMPLATES = {"<|im_start|>": "qwen2.5-math", "<start_of_turn>": "gemma"}


@entry_point
def main(argv: list[str]) -> None:
    started, options = time.time(), parse(argv)
    config = {name: value for name, value in vars(options).items() if name not in ("output", "overwrite")}
    inputs = {"model": options.model}
    if not options.overwrite and is_finished(options.output, config, inputs):
        print(f"{options.output}: already done")
        return
    with new_folder(options.output, options.overwrite) as folder:
        source, commit = locate(options.model, options.revision)
        changes = prepare(source, folder, options)
        changes["commit"] = commit
        write_manifest(folder, config=config, inputs=inputs, counts=changes, started=started)
    print("\n".join(describe(changes)))
    print(f"wrote {options.output}; reloaded, {changes['parameters']:,} parameters")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="PATH_OR_HUB_ID", help="folder, or owner/name")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id; main by default")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the new model folder")
    positions, theta = LONG.values()
    parser.add_argument(
        "--max-position-embeddings",
        type=int,
        metavar="N",
        help=f"{positions} for Qwen2.5-Math base models; others keep theirs if not given",
    )
    parser.add_argument(
        "--rope-theta",
        type=float,
        metavar="X",
        help=f"{theta:.0f} for Qwen2.5-Math base models; others keep theirs if not given",
    )
    parser.add_argument(
        "--chat-template",
        metavar="NAME_OR_JINJA",
        help="of configs/chat_templates, or a file; if not given the tokenizer's own, else its family's",
    )
    parser.add_argument("--eos-token", metavar="TOKEN", help="ends every completion; the tokenizer's own if not given")
    parser.add_argument("--pad-token", metavar="TOKEN", help="a spare token of the vocabulary if not given, else eos")
    parser.add_argument("--overwrite", action="store_true", help="prepare again, and replace --output")
    options = parser.parse_args(argv)
    for name in ("max_position_embeddings", "rope_theta"):
        if (value := getattr(options, name)) is not None and value <= 0:
            raise UsageError(f"--{name.replace('_', '-')} {value} must be positive")
    return options


def locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder of a model, downloaded if it is a Hub id, and the commit of the latter."""
    path = Path(model)
    if path.is_dir():
        if revision is not None:
            raise UsageError(f"--revision {revision} is for a Hub id, and --model {model} is a folder: remove it")
        return path, None
    if not is_hub_id(model):
        raise UsageError(f"--model {model} is no folder, and no Hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise UsageError(
            f"--model {model} is no folder, and cannot be had from the Hub: {error}; check the name, the revision and "
            "the connection"
        ) from error
    return folder, folder.name


def prepare(source: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Writes the prepared model into `folder`, loads it again, and returns what was changed: name -> [old, new]."""
    from transformers import AutoTokenizer

    from redi.text.prompts import read_chat_template

    if not (source / "config.json").is_file():
        raise UsageError(f"--model {source} has no config.json; give a model folder")
    before = json.loads((source / "config.json").read_text(encoding="utf-8"))
    after = widen(before, options.max_position_embeddings, options.rope_theta)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {source} has no tokenizer that can be loaded: {error}") from error
    tokens_before = {"eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token}
    vocabulary = tokenizer.get_vocab()
    vocab_size = before.get("vocab_size", len(vocabulary))
    if options.eos_token is not None:
        check_in_vocabulary("--eos-token", options.eos_token, vocabulary, vocab_size)
        tokenizer.eos_token = options.eos_token
    if tokenizer.eos_token is None:
        raise UsageError(f"--model {source}: its tokenizer has no eos token; pass --eos-token")
    tokenizer.pad_token = choose_pad(tokenizer, vocab_size, options.pad_token)
    template = options.chat_template
    if template is None and tokenizer.chat_template is None:
        template = next((name for token, name in TEMPLATES.items() if token in vocabulary), None)
        if template is None:
            raise UsageError(f"--model {source}: its tokenizer has no chat template; pass --chat-template")
    if template is not None:
        tokenizer.chat_template = read_chat_template(template)
    check_template(tokenizer)
    write_model(source, folder, after, tokenizer)
    found = verify(folder, tokenizer, after)
    return {
        "max_position_embeddings": [each.get("max_position_embeddings") for each in (before, after)],
        "rope_theta": [rope_theta(before), rope_theta(after)],
        "eos_token": [tokens_before["eos_token"], tokenizer.eos_token],
        "pad_token": [tokens_before["pad_token"], tokenizer.pad_token],
        "chat_template": ["own", template or "own"],
        "parameters": found["parameters"],
    }


def describe(changes: dict[str, Any]) -> list[str]:
    """A line for everything that was, or was not, changed."""
    pairs = {name: value for name, value in changes.items() if isinstance(value, list)}
    lines = [f"  {name:<24} {old if old == new else f'{old} -> {new}'}" for name, (old, new) in pairs.items()]
    if changes["pad_token"][1] == changes["eos_token"][1]:
        lines.append("  (no spare token to pad with, so pad is eos; it is masked by length, so the eos is trained)")
    return lines


if __name__ == "__main__":
    main()
