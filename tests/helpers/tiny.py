"""The tests' one tiny tokenizer, its ChatML template, tiny models and pairs. No Hub, no pretrained weights."""

import torch

# Renders what Qwen2.5-Math's template renders: a default system block once, and "<|im_end|>\n" after every turn.
CHATML = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(extra_tokens: tuple[str, ...] = ()):
    """A byte-level BPE that reads any text. As in Qwen2.5-Math base, eos is also the pad token and ends no turn.

    Args:
        extra_tokens: special tokens after the first 300, for example `("<think>", "</think>")`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["What is 2 + 2? the answer is 4 step by step <think> </think>"] * 4, trainer)
    tokenizer.add_special_tokens(list(extra_tokens))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


def make_model(vocab_size: int = 300, seed: int = 0, architecture: str = "Qwen2", **options):
    """A causal language model of two layers with random weights. `options` replace those of its config."""
    import transformers

    torch.manual_seed(seed)
    defaults = dict(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.2,  # the default 0.02 leaves log-probabilities nearly uniform: a weak oracle
        eos_token_id=0,
    )
    config = getattr(transformers, f"{architecture}Config")(**defaults | options)
    return getattr(transformers, f"{architecture}ForCausalLM")(config)


def make_pairs(n: int = 8) -> list[dict]:
    """Pairs of different lengths in TRL's shape: `prompt` a list of messages, each completion an assistant turn."""
    rows = []
    for i in range(n):
        steps = " ".join(f"step {k} is {i + k}." for k in range(1 + i % 4))
        rows.append(
            {
                "prompt": [{"role": "user", "content": f"What is {i} + {i}?"}],
                "chosen": [{"role": "assistant", "content": f"<think>\n{steps}\n</think>\n\\boxed{{{2 * i}}}"}],
                "rejected": [{"role": "assistant", "content": f"<think>\nno {'so ' * (5 - i % 5)}</think>\n{i}"}],
            }
        )
    return rows
