"""Model folders: opens the tokenizer, checks the weights, and chooses the attention to load a model with."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from redi.runs.errors import UsageError, usage_errors
from redi.runs.files import STARTED, is_hub_id, reach_hub


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id, fit to train with.

    Raises:
        UsageError: it does not exist, or has no vocabulary, no chat template or no eos token.
    """
    if not Path(path).exists() and not is_hub_id(path):
        raise UsageError(f"model_name_or_path={path} does not exist and is not a Hub id (owner/name)")
    option = f"model_name_or_path={path}"
    if not Path(path).exists():
        reach_hub(path, option)
    tokenizer = open_tokenizer(path, option)
    if tokenizer.chat_template is None:
        raise UsageError(
            f"the tokenizer of {path} has no chat template; add a chat_template.jinja to the model folder"
        )
    if tokenizer.eos_token_id is None:
        raise UsageError(f"the tokenizer of {path} has no eos token; set eos_token in its tokenizer_config.json")
    return tokenizer


def open_tokenizer(path: str | Path, option: str) -> PreTrainedTokenizerBase:
    """Loads a tokenizer that has its vocabulary.

    Raises:
        UsageError: it cannot be loaded, has no vocabulary, or is an unfinished run; `option` is how the message
            names it.
    """
    refuse_unfinished(Path(path), option)
    with usage_errors(lambda error: f"{option} has no tokenizer that can be loaded: {error}", OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(path)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # transformers creates one even without files
        raise UsageError(f"{option} has no tokenizer in it; copy the tokenizer files of its base model there")
    return tokenizer


def refuse_unfinished(folder: Path, option: str) -> None:
    """Refuses the folder of a run that has not ended, whose checkpoints alone are models."""
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    if (folder / STARTED).is_file() or (checkpoints and not (folder / "config.json").is_file()):
        names = f"{folder}/{checkpoints[-1]}" if checkpoints else "none yet"
        raise UsageError(
            f"{option} is an unfinished run: finish it with the command that began it, or name one of its "
            f"checkpoints ({names})"
        )


def check_weights(folder: Path, option: str) -> None:
    """Checks that a model folder holds complete weights.

    Raises:
        UsageError: there are none, or they are damaged; `option` is how the message names the folder.
    """
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise UsageError(f"{option} has no weights (*.safetensors) in it")
    if damage := find_damage(folder):
        raise UsageError(f"{option}: {damage}")


def find_damage(folder: Path) -> str | None:
    """Which safetensors file of a folder or its subfolders is missing or cut off; reads only headers and sizes."""
    for index in folder.glob("*.index.json"):  # of weights in several files
        for name in set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()):
            if not (folder / name).is_file():
                return f"{name} is missing, but {index.name} lists it"
    for file in folder.rglob("*.safetensors"):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name} is damaged or cut off ({error})"
    return None


def leaves_out_cap(config: PreTrainedConfig, attention: str) -> bool:
    """Whether an attention implementation ignores a model's cap on attention logits (Gemma-2 has one).

    transformers 5.19 chooses SDPA for such a model, which silently ignores the cap.
    """
    return attention == "sdpa" and getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def attention_of(path: str, wanted: str | None) -> str | None:
    """The attention to load a model with: `wanted`, or eager if the default (None), SDPA, would ignore its cap.

    Raises:
        UsageError: `wanted` ignores the model's cap.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError):  # loading the model will report it
        return wanted
    if not leaves_out_cap(config, wanted or "sdpa"):
        return wanted
    if wanted is None:
        return "eager"
    raise UsageError(
        f"attn_implementation={wanted} ignores the cap on attention logits that {path} has; use flash_attention_2 "
        "or eager"
    )
