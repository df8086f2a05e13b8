"""The options of generation, as `evaluate.py generate` and `sample_teacher.py` have them, and protocols that set them.

A protocol is a YAML file of options, in the command line's spelling with underscores. Its values are read as if they
stood on the command line before all others, so that each is checked in the same way, and overridden by a later one.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from redi.evaluation.benchmarks import KNOWN
from redi.evaluation.generation.requests import Settings
from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, nearest
from redi.runs.files import CONFIGS
from redi.text.prompts import FORCE_THINK, STYLES

PROTOCOL_FOLDER = CONFIGS / "eval"


def add_benchmark_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="NAME_OR_JSONL",
        help=f"a .jsonl file of id, problem, answer, or a name: {', '.join(KNOWN)}",
    )


def add_protocol_options(parser: argparse.ArgumentParser) -> None:
    """What decides the samples of a model: the options that a protocol may set, with `--benchmark`."""
    parser.add_argument("--n", type=int, default=16, help="samples a problem; more than before adds to them")
    parser.add_argument("--temperature", type=float, default=0.6, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=0.95, help="nucleus; there is no top-k")
    parser.add_argument("--max-tokens", type=int, default=32768, help="new tokens, cut to what the model has room for")
    parser.add_argument("--prompt", choices=STYLES, default="paper", help="bare is the problem alone")
    parser.add_argument(
        "--force-think",
        nargs="?",
        choices=FORCE_THINK,
        const="as-trained",
        default="none",
        help="begin the answer with <think>, after the template's newline (as-trained) or without (as-published)",
    )
    parser.add_argument("--chat-template", metavar="NAME_OR_JINJA", help="instead of the model's own")
    parser.add_argument("--seed", type=int, help="42 if not given; openai: sent to the server only if given")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """What samples, and on what."""
    parser.add_argument("--backend", choices=("vllm", "transformers", "openai"), default="vllm", help="what samples")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="bfloat16 on CUDA, else float32")
    parser.add_argument("--batch-size", type=int, metavar="N", help="transformers: answers sampled together")
    parser.add_argument("--tensor-parallel-size", type=int, metavar="N", help="vllm: GPUs that share one model")
    parser.add_argument(
        "--data-parallel-size",
        type=int,
        metavar="N",
        help="vllm: engines, each with its own GPUs; if not given, all visible",
    )
    parser.add_argument("--base-url", metavar="URL", help="openai: the server, such as http://localhost:8000/v1")
    parser.add_argument("--served-model-name", metavar="NAME", help="openai: the server's name for --model")
    parser.add_argument(
        "--api",
        choices=("completions", "chat"),
        help="openai: send token ids (completions, for vLLM and SGLang), or messages (chat, for any server)",
    )
    parser.add_argument("--concurrency", type=int, metavar="N", help="openai: requests at a time; 64 if not given")
    parser.add_argument(
        "--shard", metavar="I/N", help="sample only the I-th of N parts; without it, parts are gathered"
    )


def add_generate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--protocol",
        metavar="NAME_OR_YAML",
        help=f"a file of options, or a name: {', '.join(_names())}; other options override it",
    )
    add_protocol_options(parser)
    add_engine_options(parser)


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings(**{name: getattr(options, name) for name in Settings.__dataclass_fields__})


def expand_protocol(argv: list[str]) -> list[str]:
    """The command line with the options of its `--protocol`, if it names one, put before the others.

    Raises:
        UsageError: there is no such protocol, or it has an unknown key or a bad value.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--protocol", nargs="?")
    name = finder.parse_known_args(argv)[0].protocol
    return argv if name is None else [*_as_arguments(name), *argv]


def describe_protocol(options: argparse.Namespace) -> str | None:
    """The protocol's name and which of its options were changed; None without one."""
    if options.protocol is None:
        return None
    path = _path(options.protocol)
    changed = [name for name, value in vars(_parse(path, _read(path))).items() if getattr(options, name) != value]
    changed = [name for name in changed if name in _read(path) and name != "benchmark"]
    return path.stem + (f" (changed: {', '.join(changed)})" if changed else "")


def _names() -> list[str]:
    return sorted(path.stem for path in PROTOCOL_FOLDER.glob("*.yaml"))


def _path(name_or_path: str) -> Path:
    path = PROTOCOL_FOLDER / f"{name_or_path}.yaml" if name_or_path in _names() else Path(name_or_path)
    if not path.is_file():
        raise UsageError(
            f"--protocol {name_or_path} is neither a file nor a known name ({', '.join(_names())})"
            f"{nearest(name_or_path, _names())}"
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"--protocol {path} is not valid YAML: {error}") from error
    if not isinstance(values, dict) or any(value is None for value in values.values()):
        raise UsageError(f"--protocol {path} must hold `key: value` lines")
    return values


def _as_arguments(name: str) -> list[str]:
    path = _path(name)
    values = _read(path)
    _parse(path, values)
    return [argument for key, value in values.items() for argument in _argument(key, value)]


def _argument(key: str, value: Any) -> list[str]:
    option = f"--{key.replace('_', '-')}"
    return [option, *map(str, value)] if isinstance(value, list) else [f"{option}={value}"]


def _parse(path: Path, values: dict[str, Any]) -> argparse.Namespace:
    parser = StrictParser(add_help=False)
    add_benchmark_option(parser)
    add_protocol_options(parser)
    known = [action.dest for action in parser._actions]
    for key in values:
        if key not in known:
            raise UsageError(f"--protocol {path}: unknown key '{key}'{nearest(str(key), known)}; it may set {known}")
    try:
        return parser.parse_args([argument for key, value in values.items() for argument in _argument(key, value)])
    except UsageError as error:
        raise UsageError(f"--protocol {path}: {error}") from error
