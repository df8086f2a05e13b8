"""Sampling with transformers: slower than vLLM, but reproducible batch by batch, and at home on a CPU."""

from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from redi.evaluation.checkpoint import Checkpoint
from redi.evaluation.plan import Batch, Sample, Settings, batch_seed

TINY = 20_000_000  # parameters, up to which one thread is as fast as several, and does not wait for busy cores


def sample(checkpoint: Checkpoint, batches: list[Batch], settings: Settings) -> Iterator[tuple[Batch, list[Sample]]]:
    """Samples batch after batch.

    Yields:
        A batch and its samples, in the order of its slots.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = (
        AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=getattr(torch, settings.dtype)).to(device).eval()
    )
    num_threads = torch.get_num_threads()
    if device == "cpu" and model.num_parameters() <= TINY:
        torch.set_num_threads(1)
    for batch in batches:
        torch.manual_seed(batch_seed(settings.seed, batch))
        prompts = [request.token_ids for request, _ in batch]
        max_tokens = min(settings.max_tokens, checkpoint.max_positions - max(map(len, prompts)))
        answers = generate_tokens(
            model, prompts, checkpoint.stop_token_ids, max_tokens, settings.temperature, settings.top_p
        )
        yield batch, checkpoint.decode(answers)
    torch.set_num_threads(num_threads)


@torch.inference_mode()
def generate_tokens(
    model,
    prompts: list[tuple[int, ...]],
    stop_ids: tuple[int, ...],
    max_tokens: int,
    temperature: float,
    top_p: float,
) -> list[list[int]]:
    """Samples one answer to each prompt: its new token ids, up to and including the first stop token.

    This is not `model.generate`, which keeps finished answers in the batch until the last one ends, and fills in
    options that a call leaves open (top_k, a repetition penalty) from the model's folder.

    Args:
        model: a causal language model.
        prompts: (B) token ids; padded on the left here, with a mask from their lengths, as the pad token may be eos.
        stop_ids: tokens that end an answer.
        max_tokens: most new tokens.
        temperature: 0 is greedy.
        top_p: nucleus; 1 is all tokens.
    """
    tokens, mask = _pad(prompts, model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    stops = torch.tensor(stop_ids, device=model.device)
    cache = DynamicCache(config=model.config)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which answer each row of the batch is
    for step in range(max_tokens):
        logits = model(
            tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # (rows, V)
        chosen = choose(logits, temperature, top_p)  # (rows,)
        running = ~torch.isin(chosen, stops)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if row is not None:
                answers[row].append(token)
        rows = [row if runs else None for row, runs in zip(rows, running.tolist(), strict=True)]
        left = len(rows) - rows.count(None)
        if not left or step == max_tokens - 1:
            break
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if left <= 0.8 * len(rows):  # finished answers leave the batch, a few at a time since this copies the cache
            keep = torch.tensor([index for index, row in enumerate(rows) if row is not None], device=model.device)
            cache.batch_select_indices(keep)
            tokens, positions, mask = tokens[keep], positions[keep], mask[keep]
            rows = [row for row in rows if row is not None]
    return answers


def _pad(prompts: list[tuple[int, ...]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the left, and the mask of what is no padding; both (B, width)."""
    width = max(map(len, prompts))
    padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def choose(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Draws one token a row from the nucleus of probability `top_p`, or takes the likeliest at temperature 0.

    Args:
        logits: (B, V).
        temperature: divides the logits.
        top_p: the likeliest tokens are kept as long as those before them hold less than this.

    Returns:
        (B,) token ids.
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
    drawn = torch.rand_like(mass[:, :1]) * mass.gather(-1, last)
    chosen = torch.searchsorted(mass, drawn, right=True).minimum(last)
    return (chosen if indices is None else indices.gather(-1, chosen)).squeeze(-1)
