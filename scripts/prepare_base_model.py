"""Prepares a base model for long traces: positions, rotary base, chat template, eos and pad; not its weights.

python scripts/prepare_base_model.py --model Qwen/Qwen2.5-Math-1.5B --output models/Qwen2.5-Math-1.5B
"""

import argparse
import time
from pathlib import Path

from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import new_folder
from redi.runs.manifest import is_finished, write_manifest
from redi.text.base_model import LONG, describe, locate, prepare


@entry_point
def main(argv: list[str]) -> None:
    started, options = time.time(), parse(argv)
    config = {name: value for name, value in vars(options).items() if name not in ("output", "overwrite")}
    inputs = {"model": options.model}
    if not options.overwrite and is_finished(options.output, config, inputs):
        print(f"{options.output}: already done")
        return
    with new_folder(options.output, options.overwrite, inputs.values()) as folder:
        source, commit = locate(options.model, options.revision)
        changes = prepare(
            source,
            folder,
            max_position_embeddings=options.max_position_embeddings,
            theta=options.rope_theta,
            chat_template=options.chat_template,
            eos_token=options.eos_token,
            pad_token=options.pad_token,
        )
        counts = changes | {"commit": commit}
        write_manifest(folder, config=config, inputs=inputs, counts=counts, started=started)
    print("\n".join(describe(changes)))
    print(f"wrote {options.output}; reloaded, {changes['parameters']:,} parameters")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="PATH_OR_HUB_ID", help="folder, or owner/name")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id; by default main")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the new model folder")
    positions, theta = LONG.values()
    own = "for Qwen2.5-Math base models; other models keep theirs by default"
    parser.add_argument("--max-position-embeddings", type=int, metavar="N", help=f"{positions} {own}")
    parser.add_argument("--rope-theta", type=float, metavar="X", help=f"{theta:.0f} {own}")
    parser.add_argument(
        "--chat-template",
        metavar="NAME_OR_JINJA",
        help="of configs/chat_templates, or a file; by default the tokenizer's own, else its family's",
    )
    parser.add_argument("--eos-token", metavar="TOKEN", help="ends every completion; by default the tokenizer's own")
    parser.add_argument("--pad-token", metavar="TOKEN", help="by default a spare token of the vocabulary, else eos")
    parser.add_argument("--overwrite", action="store_true", help="prepare again, and replace --output")
    options = parser.parse_args(argv)
    for name in ("max_position_embeddings", "rope_theta"):
        if (value := getattr(options, name)) is not None and value <= 0:
            raise UsageError(f"--{name.replace('_', '-')} {value} must be positive")
    return options


if __name__ == "__main__":
    main()
