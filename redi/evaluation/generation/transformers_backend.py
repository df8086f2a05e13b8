"""Sampling with transformers: slower than vLLM, but reproducible sample by sample, on a CPU too."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from redi.evaluation.generation.options import SamplingOptions
from redi.evaluation.generation.requests import Request, Sample, SamplingModel, seed_of
from redi.runs.model_folder import attention_of

TINY = 20_000_000  # parameters; up to this size one thread is as fast as several, and does not wait for busy cores
BLOCK = 64  # random numbers drawn at a time for each answer
MAX_BATCH_SIZE = 256


def with_defaults(options: SamplingOptions, model: SamplingModel, begun: dict[str, Any]) -> SamplingOptions:
    """Fills in the batch size: that of the run that is resumed, or what memory allows.

    That is the largest power of two, up to 256, whose key-value cache fits 40 % of the GPU, or 4 GiB on a CPU.
    """
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    bytes_per_token = 2 * text.num_hidden_layers * heads * head_dim * getattr(torch, options.dtype).itemsize
    gpu = torch.cuda.is_available()
    budget = 0.4 * torch.cuda.get_device_properties(0).total_memory if gpu else 4 << 30
    fits = int(budget // (bytes_per_token * min(options.max_tokens, model.max_positions)))
    default = min(MAX_BATCH_SIZE, 1 << max(0, fits.bit_length() - 1))
    return replace(options, batch_size=options.batch_size or begun.get("batch_size") or default)


def sample(
    model: SamplingModel, requests: list[Request], options: SamplingOptions
) -> Iterator[tuple[list[Request], list[Sample]]]:
    """Samples batch after batch; yields the requests of each and their samples."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    init = {"dtype": getattr(torch, options.dtype), "attn_implementation": attention_of(model.path, None)}
    network = AutoModelForCausalLM.from_pretrained(model.path, **init).to(device).eval()
    num_threads = torch.get_num_threads()
    if device == "cpu" and network.num_parameters() <= TINY:
        torch.set_num_threads(1)
    for start in range(0, len(requests), options.batch_size):
        batch = requests[start : start + options.batch_size]
        answers = generate_tokens(
            network,
            [request.prompt.token_ids for request in batch],
            model.stop_token_ids,
            [request.prompt.max_tokens for request in batch],
            options.temperature,
            options.top_p,
            [seed_of([request]) for request in batch],
        )
        yield batch, list(map(model.decode, answers))
    torch.set_num_threads(num_threads)
    del network
    torch.cuda.empty_cache()  # the process may live on, to grade or to wait for the next checkpoint


@torch.inference_mode()
def generate_tokens(
    model,
    prompts: list[tuple[int, ...]],
    stop_ids: tuple[int, ...],
    max_tokens: list[int],
    temperature: float,
    top_p: float,
    seeds: list[int],
) -> list[list[int]]:
    """Samples one answer to each of B prompts: its new token ids, up to and including the first stop token.

    This is not `model.generate`, which keeps finished answers in the batch until the last one ends, takes options that
    a call does not set (top_k, a repetition penalty) from the model's folder, and draws a batch's random numbers from
    one stream, so an answer would depend on its neighbours. `prompts`, `max_tokens` (most new tokens) and `seeds` have
    one entry per answer. Temperature 0 is greedy; `top_p` 1 is all tokens.
    """
    # Padded on the left, with a mask from the lengths, since pad may be eos.
    width = max(map(len, prompts))
    padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    tokens, mask = (torch.tensor(rows, device=model.device) for rows in (padded, mask))  # both (B, width)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    stops = torch.tensor(stop_ids, device=model.device)
    cache = DynamicCache(config=model.config)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which answer each row of the batch is
    ended = [False] * len(rows)
    for step in range(max(max_tokens)):
        if step % BLOCK == 0:
            block = draw([seeds[row] for row in rows], step // BLOCK).to(model.device)  # (rows, BLOCK)
        state = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "use_cache": True}
        logits = model(tokens, **state, logits_to_keep=1).logits[:, -1]  # (rows, V)
        chosen = choose(logits, temperature, top_p, block[:, step % BLOCK, None])  # (rows,)
        stopped = torch.isin(chosen, stops).tolist()
        for index, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if not ended[index]:
                answers[row].append(token)
                ended[index] = stopped[index] or step + 1 == max_tokens[row]
        left = ended.count(False)
        if not left:
            break
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if left <= 0.8 * len(rows):  # finished answers leave the batch, several at a time, since this copies the cache
            keep = torch.tensor([index for index, end in enumerate(ended) if not end], device=model.device)
            cache.batch_select_indices(keep)
            tokens, positions, mask, block = tokens[keep], positions[keep], mask[keep], block[keep]
            rows = [row for row, end in zip(rows, ended, strict=True) if not end]
            ended = [False] * len(rows)
    return answers


def draw(seeds: list[int], block: int) -> torch.Tensor:
    """The `block`-th BLOCK random numbers in [0, 1) of each seed's stream, (seeds, BLOCK)."""
    # The counter's highest word is the block: blocks do not overlap, and any can be drawn without those before it.
    streams = [np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, block])) for seed in seeds]
    return torch.from_numpy(np.stack([stream.random(BLOCK, dtype=np.float32) for stream in streams]))


def choose(logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor) -> torch.Tensor:
    """Chooses one token a row, (B,), from `logits`, (B, V): from the nucleus, or the most likely at temperature 0.

    The nucleus are the most likely tokens, as long as those before them hold less than `top_p`. `uniform`, (B, 1), are
    random numbers in [0, 1), each a position in its row's nucleus.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    values = (logits.float() / temperature).softmax(dim=-1)
    indices = None
    if top_p < 1:
        probabilities = values
        guess = 1024  # sorting a vocabulary of 150,000 costs more than the model's forward pass
        if values.shape[-1] > 4 * guess:
            values, indices = probabilities.topk(guess, dim=-1)
        if indices is None or (values.sum(dim=-1) < top_p).any():
            values, indices = probabilities.sort(dim=-1, descending=True)
    mass = values.cumsum(dim=-1)
    last = (mass - values < top_p).sum(dim=-1, keepdim=True) - 1  # the last token of the nucleus
    chosen = torch.searchsorted(mass, uniform * mass.gather(-1, last), right=True).minimum(last)
    return (chosen if indices is None else indices.gather(-1, chosen)).squeeze(-1)
