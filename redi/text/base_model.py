"""Prepares a base model for long traces: positions, chat template, eos and pad. The weights are copied unchanged."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redi.runs.errors import UsageError, usage_errors
from redi.runs.files import is_hub_id, reach_hub
from redi.text.encoding import render
from redi.text.prompts import read_chat_template, stop_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# https://huggingface.co/papers/2505.24850: how Qwen2.5-Math gets 32,768 positions instead of its 4,096.
LONG = {"max_position_embeddings": 32768, "rope_theta": 300000.0}
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
FILES = [*WEIGHTS, "*.json", "*.jinja", "merges.txt", "tokenizer.model"]
# Tokens that models of several families reserve for padding, or leave unused; none is ever part of a text.
SPARE_TOKENS = ("<|fim_pad|>", "<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<unk>")
# The chat template for a tokenizer without one: that whose turns open with a token of its vocabulary.
TEMPLATES = {"<|im_start|>": "qwen2.5-math", "<start_of_turn>": "gemma"}
PROBE = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "<think>\n2 and 2 make 4.\n</think>\nIt is \\boxed{4}."},
]


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a `config.json` that describes the language model: of a multimodal model its `text_config`."""
    return config.get("text_config") or config


def rope_theta(config: dict[str, Any]) -> float | None:
    """The rotary base in a `config.json`, spelled as in transformers 5 (`rope_parameters`, which wins) or before."""
    config = text_config(config)
    return (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta"))


def widen(config: dict[str, Any], max_position_embeddings: int | None, theta: float | None) -> dict[str, Any]:
    """A `config.json` with other positions. None means `LONG` for Qwen2.5-Math, and no change for any other model.

    Raises:
        UsageError: the model has several kinds of rotary embedding, so one base is ambiguous.
    """
    # The only Qwen2.5 with 4,096 positions is Qwen2.5-Math.
    kind = (config["model_type"], config.get("max_position_embeddings"), rope_theta(config))
    defaults = LONG if kind == ("qwen2", 4096, 10000) else {}
    wide = json.loads(json.dumps(config))
    text = text_config(wide)
    positions = max_position_embeddings or defaults.get("max_position_embeddings")
    if positions is not None:
        text["max_position_embeddings"] = positions
    theta = theta or defaults.get("rope_theta")
    if theta is None:
        return wide
    rope = text.get("rope_parameters")
    if any(isinstance(value, dict) for value in (rope or {}).values()):
        raise UsageError("--rope-theta: this model has a base per kind of layer; edit its config.json by hand")
    if rope is not None:
        rope["rope_theta"] = theta
    if rope is None or "rope_theta" in text:
        text["rope_theta"] = theta
    return wide


def set_tokens(
    tokenizer: "PreTrainedTokenizerBase", vocab_size: int, eos: str | None, pad: str | None, source: Path
) -> None:
    """Sets the eos token, and the one to pad with: a spare one of the `vocab_size` embeddings if the own one is eos.

    This project masks padding by length, so eos as pad is harmless here. Other software masks by `ids != pad`, and
    then never trains the eos.

    Raises:
        UsageError: a chosen token is not in the vocabulary, or there is no eos token.
    """
    usable = {token for token, index in tokenizer.get_vocab().items() if index < vocab_size}
    for option, token in (("--eos-token", eos), ("--pad-token", pad)):
        if token is not None and token not in usable:
            raise UsageError(f"{option} {token} is not in the model's vocabulary; choose a token that is")
    tokenizer.eos_token = eos or tokenizer.eos_token
    if tokenizer.eos_token is None:
        raise UsageError(f"--model {source}: its tokenizer has no eos token; pass --eos-token")
    spare = (token for token in (tokenizer.pad_token, *SPARE_TOKENS) if token in usable - {tokenizer.eos_token})
    tokenizer.pad_token = pad or next(spare, tokenizer.eos_token)


def check_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuses a template that changes a conversation, opens a thought twice or none, or has two system blocks."""
    with usage_errors(lambda error: f"--chat-template: {error}", ValueError):
        prompt, completion = render(tokenizer, PROBE[:1], PROBE[1:])
    if (prompt + completion).count("<think>") != 1 or prompt.count("system") > 1:
        raise UsageError(
            f"--chat-template: a conversation is rendered as {prompt + completion!r}, but must have one <think> and "
            "not two system blocks; choose another template, such as chatml"
        )


def locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder of a model, downloaded if it is a Hub id, and its commit there; a `UsageError` if there is none."""
    path = Path(model)
    if path.is_dir():
        if revision is not None:
            raise UsageError(f"--revision {revision} is for a Hub id, and --model {model} is a folder: remove it")
        return path, None
    if not is_hub_id(model):
        raise UsageError(f"--model {model} is not a folder, and not a Hub id (owner/name)")
    reach_hub(model, f"--model {model}")
    from huggingface_hub import snapshot_download

    failed = f"--model {model} is not a folder, and cannot be downloaded from the Hub"
    remedy = "check the name, the revision and the connection"
    with usage_errors(lambda error: f"{failed}: {error}; {remedy}", OSError, ValueError):  # the Hub's are OSErrors
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=FILES))
    return folder, folder.name


def prepare(
    source: Path,
    folder: Path,
    *,
    max_position_embeddings: int | None = None,
    theta: float | None = None,
    chat_template: str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
) -> dict[str, Any]:
    """Writes the prepared model of the folder `source` into an empty `folder` and loads it again.

    Positions and `theta`, the rotary base, are as in `widen`, the tokens as in `set_tokens`. `chat_template` is a file
    or a name of `configs/chat_templates`; by default the tokenizer's own, else that of `TEMPLATES`.

    Returns:
        What was changed: name -> [before, after], and `parameters`, their number.

    Raises:
        UsageError: the source is not a model that can be prepared, or an option does not fit it.
    """
    from transformers import AutoTokenizer

    if not (source / "config.json").is_file():
        raise UsageError(f"--model {source} has no config.json; give a model folder")
    before = json.loads((source / "config.json").read_text(encoding="utf-8"))
    after = widen(before, max_position_embeddings, theta)
    with usage_errors(lambda error: f"--model {source}: its tokenizer cannot be loaded: {error}", OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(source)
    old_tokens = [tokenizer.eos_token, tokenizer.pad_token]
    vocab_size = text_config(before).get("vocab_size", len(tokenizer.get_vocab()))
    set_tokens(tokenizer, vocab_size, eos_token, pad_token, source)
    template = chat_template
    if template is None and tokenizer.chat_template is None:
        template = next((name for token, name in TEMPLATES.items() if token in tokenizer.get_vocab()), None)
        if template is None:
            raise UsageError(f"--model {source}: its tokenizer has no chat template; pass --chat-template")
    if template is not None:
        tokenizer.chat_template = read_chat_template(template)
    check_template(tokenizer)
    write_model(source, folder, after, tokenizer)
    return {
        "max_position_embeddings": [text_config(each).get("max_position_embeddings") for each in (before, after)],
        "rope_theta": [rope_theta(before), rope_theta(after)],
        "eos_token": [old_tokens[0], tokenizer.eos_token],
        "pad_token": [old_tokens[1], tokenizer.pad_token],
        "chat_template": ["own", template or "own"],
        "parameters": verify(folder, tokenizer, after),
    }


def describe(changes: dict[str, Any]) -> list[str]:
    """A line for each entry of what `prepare` returned."""
    pairs = {name: value for name, value in changes.items() if isinstance(value, list)}
    lines = [f"  {name:<24} {old if old == new else f'{old} -> {new}'}" for name, (old, new) in pairs.items()]
    if changes["pad_token"][1] == changes["eos_token"][1]:
        lines.append("  (no spare token to pad with, so pad is eos; it is masked by length, so the eos is trained)")
    return lines


def write_model(source: Path, folder: Path, config: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> None:
    """Copies the weights of `source` to `folder`, and writes the configuration and the tokenizer."""
    from transformers import GenerationConfig

    files = [file for pattern in WEIGHTS for file in sorted(source.glob(pattern))]
    if not files:
        raise UsageError(f"--model {source} has no *.safetensors; save the model with transformers first")
    for file in files:
        shutil.copyfile(file, folder / file.name)
    config = json.loads(json.dumps(config))
    for part in (config, text_config(config)):
        part |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    has_generation = (source / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(source) if has_generation else GenerationConfig()
    generation.eos_token_id = stop_token_ids(tokenizer, generation)
    generation.pad_token_id = tokenizer.pad_token_id
    # Qwen2.5-Math's is 2,048, which servers treat as a limit: it would cut every thought.
    generation.max_length = generation.max_new_tokens = None
    generation.save_pretrained(folder)


def verify(folder: Path, tokenizer: "PreTrainedTokenizerBase", config: dict[str, Any]) -> int:
    """The parameters of what was written, loaded as training does; a `UsageError` if it is not what was intended."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reloaded = AutoTokenizer.from_pretrained(folder)
    texts = [each.apply_chat_template(PROBE, tokenize=False) for each in (tokenizer, reloaded)]
    rules = [json.loads(each.backend_tokenizer.to_str()) for each in (tokenizer, reloaded)]
    for rule in rules:
        del rule["added_tokens"]  # pad becomes a special token
    specials = [(each.eos_token_id, each.pad_token_id) for each in (tokenizer, reloaded)]
    if texts[0] != texts[1] or rules[0] != rules[1] or specials[0] != specials[1]:
        raise UsageError("--model: its tokenizer does not survive being saved and loaded again")
    check_template(reloaded)
    unread = (OSError, ValueError, RuntimeError)
    with usage_errors(lambda error: f"--model: its weights cannot be loaded: {error}", *unread):
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    if any(info.values()):
        raise UsageError(f"--model: its weights do not fit its config.json: {info}")
    positions = text_config(config).get("max_position_embeddings")
    if positions not in (None, model.config.get_text_config().max_position_embeddings):
        raise UsageError(f"--max-position-embeddings {positions} is not what the loaded model has")
    rotary = [module for name, module in model.named_modules() if name.endswith("rotary_emb")]
    frequencies = getattr(rotary[0], "inv_freq", None) if rotary else None
    wanted = rope_theta(config)
    if None not in (frequencies, wanted) and getattr(rotary[0], "rope_type", "default") == "default":
        # inv_freq[i] = theta ** (-i / n), i = 0 .. n - 1
        theta = frequencies[-1].double() ** (-len(frequencies) / (len(frequencies) - 1))
        if not torch.isclose(theta, torch.tensor(float(wanted), dtype=torch.float64), rtol=1e-3):
            raise UsageError(f"--rope-theta {wanted}: the loaded model computes with {theta:.0f}")
    return model.num_parameters()
