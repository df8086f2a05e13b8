"""Sampling with vLLM: all problems at once, each written down when its last sample ends.

The seed is the engine's, since not every device supports one for each request. Which sample gets which random
numbers depends on what else is running, so two runs agree in distribution only, and so does a run that is resumed.
"""

from collections.abc import Iterator

import torch
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.sampling_params import RequestOutputKind

from redi.evaluation.checkpoint import Checkpoint
from redi.evaluation.plan import Batch, Sample, Settings


def sample(checkpoint: Checkpoint, batches: list[Batch], settings: Settings) -> Iterator[tuple[Batch, list[Sample]]]:
    """Samples all batches, each of which is all samples of one problem.

    Yields:
        A batch and its samples, as they are finished.
    """
    longest = max(len(batch[0][0].token_ids) for batch in batches)
    limit = min(checkpoint.max_positions, longest + settings.max_tokens)
    engine = LLM(
        model=checkpoint.path,
        seed=settings.seed,
        dtype=settings.dtype,
        max_model_len=limit,
        generation_config="vllm",  # not the model's own: its top_k or penalties are no part of the protocol
        enforce_eager=not torch.cuda.is_available(),  # compiling for a CPU takes minutes
    ).llm_engine
    for number, batch in enumerate(batches):
        token_ids = list(batch[0][0].token_ids)
        parameters = SamplingParams(
            n=1 if settings.temperature == 0 else len(batch),  # vLLM samples a greedy answer only once
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=-1,
            max_tokens=min(settings.max_tokens, limit - len(token_ids)),
            stop_token_ids=list(checkpoint.stop_token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(str(number), TokensPrompt(prompt_token_ids=token_ids), parameters)
    while engine.has_unfinished_requests():
        for output in engine.step():
            answers = sorted(output.outputs, key=lambda answer: answer.index)
            samples = checkpoint.decode([list(answer.token_ids) for answer in answers])
            batch = batches[int(output.request_id)]
            yield batch, samples * (len(batch) // len(samples))
