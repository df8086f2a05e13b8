"""What a run starts from: its tokenizer, its rows, and the attention that its model is loaded with."""

from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from redi.runs.errors import UsageError


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id.

    Raises:
        UsageError: there is none, or it lacks its vocabulary, a chat template or an eos token.
    """
    if not Path(path).exists() and not _may_be_on_the_hub(path):
        raise UsageError(f"model_name_or_path={path} does not exist, and is no Hub id (owner/name)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"model_name_or_path={path} has no tokenizer that can be loaded: {error}") from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # transformers makes one without any files
        raise UsageError(
            f"model_name_or_path={path} has no tokenizer in it; copy its base model's tokenizer files there"
        )
    if tokenizer.chat_template is None:
        raise UsageError(
            f"the tokenizer of {path} has no chat template; put a chat_template.jinja into the model folder"
        )
    if tokenizer.eos_token_id is None:
        raise UsageError(f"the tokenizer of {path} has no eos token; set eos_token in its tokenizer_config.json")
    return tokenizer


def _may_be_on_the_hub(name: str) -> bool:
    """`owner/name`, and not a folder of the repository that is still to be made, whose name a stranger may have."""
    owner, _, rest = name.partition("/")
    return bool(rest) and "/" not in rest and owner not in ("data", "models", "runs") and not Path(owner).exists()


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
