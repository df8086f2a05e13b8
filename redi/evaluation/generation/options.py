"""How answers are sampled: the options of generation, as `evaluate.py` and `sample_teacher.py` take them."""

import argparse
import math
from dataclasses import dataclass, fields

from redi.evaluation.benchmarks import KNOWN
from redi.runs.errors import UsageError
from redi.text.prompts import FORCE_THINK, STYLES

MIN_TEMPERATURE = 1e-5  # logits divided by less overflow; vLLM too takes less as greedy


@dataclass(frozen=True)
class SamplingOptions:
    """How answers are sampled. None means a default, or an option that the back end does not have."""

    backend: str
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    prompt: str
    force_think: str = "none"
    chat_template: str | None = None
    revision: str | None = None
    seed: int | None = None
    dtype: str | None = None
    batch_size: int | None = None
    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    base_url: str | None = None
    served_model_name: str | None = None
    api: str | None = None
    concurrency: int | None = None

    def __post_init__(self):
        for name in ("n", "max_tokens", "batch_size", "tensor_parallel_size", "data_parallel_size", "concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{option_name(name)} {value} must be at least 1")
        if self.temperature and not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise UsageError(f"--temperature {self.temperature} must be 0 (greedy) or at least {MIN_TEMPERATURE}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p} must be above 0 and at most 1")
        for name, backends in BACKEND_OPTIONS.items():
            if getattr(self, name) is not None and self.backend not in backends:
                raise UsageError(f"{option_name(name)} is for --backend {' or '.join(backends)}")
        if self.api == "chat":
            for name in ("force_think", "chat_template", "revision"):
                if getattr(self, name) not in (None, "none"):
                    raise UsageError(
                        f"{option_name(name)} {getattr(self, name)} cannot be used with --api chat, where the server "
                        "renders the prompt; use --api completions"
                    )


BACKEND_OPTIONS = {
    "dtype": ("vllm", "transformers"),
    "batch_size": ("transformers",),
    "tensor_parallel_size": ("vllm",),
    "data_parallel_size": ("vllm",),
    "base_url": ("openai",),
    "served_model_name": ("openai",),
    "api": ("openai",),
    "concurrency": ("openai",),
}


def option_name(field: str) -> str:
    """A field as the command line spells it: `max_tokens` is `--max-tokens`."""
    return f"--{field.replace('_', '-')}"


def sampling_options(options: argparse.Namespace) -> SamplingOptions:
    """The sampling options of a parsed command line."""
    return SamplingOptions(**{field.name: getattr(options, field.name) for field in fields(SamplingOptions)})


def add_benchmark_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="NAME_OR_JSONL",
        help=f"a .jsonl file with id, problem and answer, or a name: {', '.join(KNOWN)}",
    )


def add_protocol_options(parser: argparse.ArgumentParser) -> None:
    """What decides the samples of a model. A protocol may set these and `--benchmark`."""
    parser.add_argument("--n", type=int, default=16, help="samples per problem; a larger n adds to earlier samples")
    parser.add_argument("--temperature", type=float, default=0.6, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=0.95, help="nucleus; there is no top-k")
    parser.add_argument("--max-tokens", type=int, default=32768, help="most new tokens; the model may have less room")
    parser.add_argument("--prompt", choices=STYLES, default="paper", help="bare is the problem alone")
    parser.add_argument(
        "--force-think",
        nargs="?",
        choices=FORCE_THINK,
        const="as-trained",
        default="none",
        help="begin the answer with <think>, after the template's newline (as-trained) or without it (as-published)",
    )
    parser.add_argument("--chat-template", metavar="NAME_OR_JINJA", help="used instead of the model's own")
    parser.add_argument("--seed", type=int, help="default 42; openai: sent to the server only if given")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """What samples, and on which hardware."""
    parser.add_argument("--backend", choices=("vllm", "transformers", "openai"), default="vllm", help="what samples")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="bfloat16 on CUDA, else float32")
    parser.add_argument("--batch-size", type=int, metavar="N", help="transformers: answers sampled together")
    parser.add_argument("--tensor-parallel-size", type=int, metavar="N", help="vllm: GPUs that share one model")
    parser.add_argument(
        "--data-parallel-size", type=int, metavar="N", help="vllm: engines; by default as many as the GPUs allow"
    )
    parser.add_argument("--base-url", metavar="URL", help="openai: the server, such as http://localhost:8000/v1")
    parser.add_argument("--served-model-name", metavar="NAME", help="openai: the server's name for the model")
    parser.add_argument(
        "--api",
        choices=("completions", "chat"),
        help="openai: send token ids (completions; vLLM and SGLang), or messages (chat; any server)",
    )
    parser.add_argument("--concurrency", type=int, metavar="N", help="openai: requests at a time, default 64")
    parser.add_argument(
        "--shard", metavar="I/N", help="sample only part I of N; a run without --shard gathers the parts"
    )


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`"2/4"` as (2, 4); None for None."""
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {text} must be i/n with i from 1 to n, such as 1/4")
    return int(index), int(count)
