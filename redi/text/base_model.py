"""A base model made fit for long traces: room for them, a chat template, a pad token; its weights as they are."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redi.runs.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# https://huggingface.co/papers/2505.24850: what Qwen2.5-Math is given to read 32,768 tokens instead of its 4,096.
LONG = {"max_position_embeddings": 32768, "rope_theta": 300000.0}
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
# Tokens that models of several families keep for padding, or unused; none is ever part of a text.
SPARE_TOKENS = ("<|fim_pad|>", "<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<unk>")
PROBE = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "<think>\n2 and 2 make 4.\n</think>\nIt is \\boxed{4}."},
]


def is_qwen25_math(config: dict[str, Any]) -> bool:
    """Whether a `config.json` is that of a Qwen2.5-Math base model, which alone of its family has 4,096 positions."""
    return (config["model_type"], config.get("max_position_embeddings"), rope_theta(config)) == ("qwen2", 4096, 10000)


def rope_theta(config: dict[str, Any]) -> float | None:
    """Of a `config.json`, in the spelling of transformers 5 (`rope_parameters`, which wins) or of those before it."""
    return (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta"))


def widen(config: dict[str, Any], max_position_embeddings: int | None, theta: float | None) -> dict[str, Any]:
    """A `config.json` with other positions. None is `LONG` for Qwen2.5-Math, and no change for any other model.

    Raises:
        UsageError: the model has several sorts of rotary embedding, so that one base does not say which.
    """
    defaults = LONG if is_qwen25_math(config) else {}
    config = json.loads(json.dumps(config))
    positions = max_position_embeddings or defaults.get("max_position_embeddings")
    if positions is not None:
        config["max_position_embeddings"] = positions
    theta = theta or defaults.get("rope_theta")
    if theta is None:
        return config
    rope = config.get("rope_parameters")
    if rope is not None and any(isinstance(value, dict) for value in rope.values()):
        raise UsageError("--rope-theta: this model has a base per sort of layer; edit its config.json by hand")
    if rope is not None:
        rope["rope_theta"] = theta
    if rope is None or "rope_theta" in config:
        config["rope_theta"] = theta
    return config


def choose_pad(tokenizer: "PreTrainedTokenizerBase", vocab_size: int, wanted: str | None) -> str:
    """The token to pad with: the wanted one; the tokenizer's own unless it is eos; a spare one; eos.

    Padding is masked by length everywhere in this project, so that eos as pad is harmless here. Other software masks
    by `ids != pad`, and then never trains the eos.

    Args:
        tokenizer: with an eos token.
        vocab_size: rows of the embedding; a token beyond has none.
        wanted: the user's choice.

    Raises:
        UsageError: the wanted token is not in the vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    if wanted is not None:
        check_in_vocabulary("--pad-token", wanted, vocabulary, vocab_size)
        return wanted
    for token in (tokenizer.pad_token, *SPARE_TOKENS):
        if token in vocabulary and vocabulary[token] < vocab_size and token != tokenizer.eos_token:
            return token
    return tokenizer.eos_token


def check_in_vocabulary(option: str, token: str, vocabulary: dict[str, int], vocab_size: int) -> None:
    """Raises a `UsageError` naming the option where the model has no embedding for the token."""
    if vocabulary.get(token, vocab_size) >= vocab_size:
        raise UsageError(f"{option} {token} is not in the model's vocabulary; choose a token that is")


def check_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Renders a conversation as both stages do.

    Raises:
        UsageError: the template has no reading of it that training could use: the prompt is not continued, the
            thought is dropped or doubled, the system block is doubled, or the answer is not the last thing said.
    """
    from jinja2 import TemplateError

    from redi.text.encoding import render

    try:
        prompt, completion = render(tokenizer, PROBE[:1], PROBE[1:])
    except (TemplateError, ValueError) as error:
        raise UsageError(f"--chat-template: {error}") from error
    if PROBE[1]["content"] not in completion or (prompt + completion).count("<think>") != 1:
        raise UsageError(
            f"--chat-template: the assistant's turn is rendered as {prompt[-30:] + completion!r}, but must hold its "
            "text as it is and one <think>; choose another template, such as chatml"
        )
    if PROBE[0]["content"] not in prompt or prompt.count("system") > 1:
        raise UsageError(
            f"--chat-template: the prompt is rendered as {prompt!r}, without its text or with two systems"
        )


def write_model(
    source: Path,
    folder: Path,
    config: dict[str, Any],
    tokenizer: "PreTrainedTokenizerBase",
) -> None:
    """Copies the weights of `source` to `folder` and writes configuration and tokenizer beside them.

    Raises:
        UsageError: `source` has no safetensors files.
    """
    from transformers import GenerationConfig

    from redi.text.prompts import stop_token_ids

    files = [file for pattern in WEIGHTS for file in sorted(source.glob(pattern))]
    if not files:
        raise UsageError(f"--model {source} has no *.safetensors; save the model with transformers first")
    for file in files:
        shutil.copyfile(file, folder / file.name)
    config = config | {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    has_generation = (source / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(source) if has_generation else GenerationConfig()
    generation.eos_token_id = stop_token_ids(tokenizer, generation)
    generation.pad_token_id = tokenizer.pad_token_id
    # Qwen2.5-Math's is 2,048, which servers take for a limit: it would cut every thought.
    generation.max_length = generation.max_new_tokens = None
    generation.save_pretrained(folder)


def verify(folder: Path, tokenizer: "PreTrainedTokenizerBase", config: dict[str, Any]) -> dict[str, Any]:
    """Loads what was written, as training does, and compares it with what was meant.

    Args:
        folder: of the model.
        tokenizer: as it was saved.
        config: as it was saved.

    Returns:
        `parameters`, and `rope_theta` as the loaded model computes with it, None where it has no plain rotary
        embedding.

    Raises:
        UsageError: something differs, or the weights are not those of this configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reloaded = AutoTokenizer.from_pretrained(folder)
    texts = [each.apply_chat_template(PROBE, tokenize=False) for each in (tokenizer, reloaded)]
    rules = [json.loads(each.backend_tokenizer.to_str()) for each in (tokenizer, reloaded)]
    for rule in rules:
        del rule["added_tokens"]  # where pad becomes a special token
    specials = [(each.eos_token_id, each.pad_token_id) for each in (tokenizer, reloaded)]
    if texts[0] != texts[1] or rules[0] != rules[1] or specials[0] != specials[1]:
        raise UsageError("--model: its tokenizer does not survive being saved and loaded again")
    check_template(reloaded)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"--model: its weights cannot be loaded: {error}") from error
    if any(info.values()):
        raise UsageError(f"--model: its weights do not fit its config.json: {info}")
    found = {"parameters": model.num_parameters(), "rope_theta": None}
    rotary = [module for name, module in model.named_modules() if name.endswith("rotary_emb")]
    frequencies = getattr(rotary[0], "inv_freq", None) if rotary else None
    if frequencies is not None and getattr(rotary[0], "rope_type", "default") == "default":
        # inv_freq[i] = theta ** (-i / n), i = 0 .. n - 1
        theta = frequencies[-1].double() ** (-len(frequencies) / (len(frequencies) - 1))
        found["rope_theta"] = float(theta)
        if not torch.isclose(theta, torch.tensor(float(rope_theta(config)), dtype=torch.float64), rtol=1e-3):
            raise UsageError(f"--rope-theta {rope_theta(config)}: the loaded model computes with {theta:.0f}")
    return found
