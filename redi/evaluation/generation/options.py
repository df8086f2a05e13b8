"""How answers are sampled: the options, and protocols, YAML files of options that set a command's defaults."""

import argparse
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from redi.evaluation.benchmarks import BENCHMARKS
from redi.runs.cli import StrictParser, positive_int
from redi.runs.errors import UsageError, nearest
from redi.runs.files import CONFIGS
from redi.runs.recipe import read_config
from redi.text.prompts import FORCE_THINK, STYLES

PROTOCOL_FOLDER = CONFIGS / "eval"
AMOUNT = ("benchmark", "n")  # how much is sampled; every other option of a protocol decides what the samples are
MIN_TEMPERATURE = 1e-5  # logits divided by less overflow; vLLM too takes less as greedy
_COUNT = {"type": positive_int, "metavar": "N"}
_APIS = "token ids (completions; vLLM and SGLang), or messages (chat; any server)"


def _option(default: Any, help_text: str, backend: str = "", **settings: Any) -> Any:
    """A field that the command line sets. `backend` has this option, if not all do."""
    help_text = f"{backend}: {help_text}" if backend else help_text
    return field(default=default, metadata={"backend": backend, "argument": {"help": help_text, **settings}})


def parse_shard(text: str) -> tuple[int, int]:
    """`"2/4"` as (2, 4); for `type=` of an option."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text} must be i/n with i from 1 to n, such as 1/4")
    return int(index), int(count)


@dataclass(frozen=True)
class SamplingOptions:
    """How answers are sampled. None means a default, or an option that the back end does not have.

    The fields before `backend` decide the samples of a model. A protocol may set these and `benchmark`.
    """

    n: int = _option(16, "samples per problem; a larger n adds to earlier samples", **_COUNT)
    temperature: float = _option(0.6, "0 is greedy", type=float)
    top_p: float = _option(0.95, "nucleus; there is no top-k", type=float)
    max_tokens: int = _option(32768, "most new tokens; the model may have less room", **_COUNT)
    prompt: str = _option("paper", "bare is the problem alone", choices=STYLES)
    force_think: str = _option(
        "none",
        "begin the answer with <think>, after the template's newline (as-trained) or without it (as-published)",
        **{"nargs": "?", "choices": FORCE_THINK, "const": "as-trained"},
    )
    chat_template: str | None = _option(None, "used instead of the model's own", metavar="NAME_OR_JINJA")
    seed: int | None = _option(None, "default 42; openai: sent to the server only if given", type=int)

    backend: str = _option("vllm", "what samples", choices=("vllm", "transformers", "openai"))
    revision: str | None = _option(None, "branch, tag or commit of a Hub id", metavar="REV")
    dtype: str | None = _option(
        None, "bfloat16 on CUDA, else float32", "vllm or transformers", choices=("bfloat16", "float16", "float32")
    )
    batch_size: int | None = _option(None, "answers sampled together", "transformers", **_COUNT)
    tensor_parallel_size: int | None = _option(None, "GPUs that share one model", "vllm", **_COUNT)
    data_parallel_size: int | None = _option(None, "engines; by default as many as the GPUs allow", "vllm", **_COUNT)
    base_url: str | None = _option(None, "the server, such as http://localhost:8000/v1", "openai", metavar="URL")
    served_model_name: str | None = _option(None, "the server's name for the model", "openai", metavar="NAME")
    api: str | None = _option(None, f"send {_APIS}", "openai", choices=("completions", "chat"))
    concurrency: int | None = _option(None, "requests at a time, default 64", "openai", **_COUNT)

    shard: tuple[int, int] | None = _option(
        None, "sample only part I of N; a run without --shard gathers the parts", type=parse_shard, metavar="I/N"
    )

    limit: int | None = None  # ask only the first problems of each benchmark
    protocol: str | None = None  # its description, to be recorded

    def __post_init__(self):
        if self.temperature and not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise UsageError(f"--temperature {self.temperature} must be 0 (greedy) or at least {MIN_TEMPERATURE}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p} must be above 0 and at most 1")
        for each in fields(self):
            backend = each.metadata.get("backend") or self.backend
            if getattr(self, each.name) is not None and self.backend not in backend:
                raise UsageError(f"{option_name(each.name)} is for --backend {backend}")
        for name in ("force_think", "chat_template", "revision") if self.api == "chat" else ():
            if getattr(self, name) not in (None, "none"):
                raise UsageError(
                    f"{option_name(name)} {getattr(self, name)} cannot be used with --api chat, where the server "
                    "renders the prompt; use --api completions"
                )


def option_name(name: str) -> str:
    """A field as the command line spells it: `max_tokens` is `--max-tokens`."""
    return f"--{name.replace('_', '-')}"


def add_benchmark_option(parser: argparse.ArgumentParser) -> None:
    help_text = f"a .jsonl file with id, problem and answer, or a name: {', '.join(BENCHMARKS)}"
    parser.add_argument("--benchmark", nargs="+", default=[], metavar="NAME_OR_JSONL", help=help_text)


def add_sampling_options(parser: argparse.ArgumentParser, only_protocol: bool = False) -> None:
    """Adds the options of `SamplingOptions`: all, or those that a protocol may set."""
    group = parser.add_argument_group("what is sampled")
    for each in fields(SamplingOptions):
        if each.name == "backend":
            if only_protocol:
                return
            group = parser.add_argument_group("what samples: the back end")
        if each.metadata:
            group.add_argument(option_name(each.name), default=each.default, **each.metadata["argument"])


def sampling_options(options: argparse.Namespace) -> SamplingOptions:
    """The sampling options of a parsed command line, which may have `limit` and `protocol`.

    `protocol` becomes its name, and which of the options that it sets were changed.
    """
    if getattr(options, "benchmark", None) == []:
        raise UsageError("--benchmark or a --protocol that names benchmarks is required")
    values = {each.name: getattr(options, each.name, None) for each in fields(SamplingOptions)}
    if protocol := values["protocol"]:
        changed = [name for name in changes(options) if name in read_protocol(protocol) and name != "benchmark"]
        values["protocol"] = protocol_file(protocol).stem + (f" (changed: {', '.join(changed)})" if changed else "")
    return SamplingOptions(**values)


def protocol_names() -> list[str]:
    return sorted(path.stem for path in PROTOCOL_FOLDER.glob("*.yaml"))


def protocol_file(name_or_path: str) -> Path:
    """The file of a protocol; refuses one that is neither a known name nor a file."""
    names = protocol_names()
    path = PROTOCOL_FOLDER / f"{name_or_path}.yaml" if name_or_path in names else Path(name_or_path)
    if not path.is_file():
        hint = f"({', '.join(names)}){nearest(name_or_path, names)}"
        raise UsageError(f"--protocol {name_or_path} is neither a file nor a known name {hint}")
    return path


def read_protocol(name_or_path: str) -> dict[str, Any]:
    """The options that a protocol sets; refuses an unknown protocol or key, and what the command line refuses."""
    path, arguments, names = protocol_file(name_or_path), [], []
    for key, value in read_config(path, "--protocol").items():
        names.append(str(key).replace("-", "_"))
        option = option_name(names[-1])
        arguments += [option, *map(str, value)] if isinstance(value, list) else [f"{option}={value}"]
    try:
        parsed = _parse(arguments)
    except UsageError as error:
        raise UsageError(f"--protocol {path}: {error}") from error
    return {name: getattr(parsed, name) for name in names}


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """The options that differ from those of `options.protocol`, with their values."""
    wanted = vars(_parse([])) | read_protocol(options.protocol)
    return {name: getattr(options, name) for name, value in wanted.items() if getattr(options, name) != value}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = StrictParser(add_help=False)
    add_benchmark_option(parser)
    add_sampling_options(parser, only_protocol=True)
    return parser.parse_args(arguments)
