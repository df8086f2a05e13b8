"""Model folders: tokenizer, weights, and the attention implementation to load a model with."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from redi.runs.errors import UsageError, usage_errors
from redi.runs.hub import is_hub_id


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id, fit to train with.

    Raises:
        UsageError: it does not exist, or lacks its vocabulary, a chat template or an eos token.
    """
    if not Path(path).exists() and not is_hub_id(path):
        raise UsageError(f"model_name_or_path={path} does not exist and is not a Hub id (owner/name)")
    tokenizer = open_tokenizer(path, f"model_name_or_path={path}")
    if tokenizer.chat_template is None:
        raise UsageError(
            f"the tokenizer of {path} has no chat template; put a chat_template.jinja into the model folder"
        )
    if tokenizer.eos_token_id is None:
        raise UsageError(f"the tokenizer of {path} has no eos token; set eos_token in its tokenizer_config.json")
    return tokenizer


def open_tokenizer(path: str | Path, option: str) -> PreTrainedTokenizerBase:
    """A tokenizer that has its vocabulary.

    Args:
        path: model folder or Hub id.
        option: how messages name it, such as `--tokenizer PATH`.

    Raises:
        UsageError: it cannot be loaded, or has no vocabulary.
    """
    with usage_errors(lambda error: f"{option} has no tokenizer that can be loaded: {error}", OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(path)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # transformers makes one without any files
        raise UsageError(f"{option} has no tokenizer in it; copy its base model's tokenizer files there")
    return tokenizer


def check_weights(folder: Path, option: str) -> None:
    """Checks that a model folder holds complete weights.

    Args:
        folder: of the model.
        option: how messages name it, such as `--model PATH`.

    Raises:
        UsageError: there are no weights, or `find_damage` finds something.
    """
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise UsageError(f"{option} has no weights (*.safetensors) in it")
    if damage := find_damage(folder):
        raise UsageError(f"{option}: {damage}")


def find_damage(folder: Path) -> str | None:
    """What is wrong with the safetensors files of a folder and its subfolders: one is missing or cut off.

    Reads the header of each file alone, and compares it with the file's size.
    """
    for index in folder.glob("*.index.json"):  # of weights in several files
        for name in set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()):
            if not (folder / name).is_file():
                return f"{name} is missing, which {index.name} names"
    for file in folder.rglob("*.safetensors"):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name} is damaged or cut off ({error})"
    return None


def leaves_out_cap(config: PreTrainedConfig, attention: str) -> bool:
    """Whether an attention implementation ignores the cap on attention logits that a model has (Gemma-2).

    transformers 5.19 takes SDPA for such a model, which knows no cap and says nothing.
    """
    return attention == "sdpa" and getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def attention_of(path: str, wanted: str | None) -> str | None:
    """The attention implementation to load a model with: the wanted one, or eager where transformers' choice, SDPA,
    would leave out a cap; None for transformers' choice.

    Raises:
        UsageError: what is wanted leaves out the model's cap.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError):  # which loading the model will say
        return wanted
    if not leaves_out_cap(config, wanted or "sdpa"):
        return wanted
    if wanted is None:
        return "eager"
    raise UsageError(
        f"attn_implementation={wanted} leaves out the cap on attention logits that {path} has; use flash_attention_2, "
        "or eager"
    )
