"""Sampling from a server that speaks OpenAI's HTTP protocol, such as `vllm serve`.

There are two interfaces. `completions` sends the prompt's token ids, so the model reads exactly what the other back
ends give it, and sets stop tokens and everything else that a server might take from the model's folder. It needs vLLM
or SGLang, since these fields are not OpenAI's. `chat` sends the user's message with OpenAI's own fields alone, which
any such server understands; the server's template renders the prompt.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import Any

import openai

from redi.evaluation.generation.options import SamplingOptions
from redi.evaluation.generation.requests import Request, Sample, SamplingModel, seed_of
from redi.runs.errors import UsageError, usage_errors

CONCURRENCY = 64
MAX_RETRIES = 8  # the client waits 0.5, 1, 2, 4, 8, 8, ... seconds, or as long as the server says
TIMEOUT = openai.Timeout(3600, connect=10)  # seconds; an answer arrives as a whole, with its last token
_EXTRA = {
    "return_token_ids": True,
    "skip_special_tokens": False,  # for a server that returns text alone; </think> may be a special token
    "spaces_between_special_tokens": False,
    "top_k": -1,  # without these three, the server may take them from the model's generation_config.json
    "min_p": 0,
    "repetition_penalty": 1,
}


def with_defaults(options: SamplingOptions, *_: Any) -> SamplingOptions:
    """Fills in the options of this back end that were not given."""
    base_url = options.base_url or os.environ.get("OPENAI_BASE_URL")
    if not base_url:
        example = "such as http://localhost:8000/v1 of `vllm serve`"
        raise UsageError(f"--backend openai needs --base-url (or OPENAI_BASE_URL), {example}")
    api, concurrency = options.api or "completions", options.concurrency or CONCURRENCY
    return replace(options, base_url=base_url.rstrip("/"), api=api, concurrency=concurrency)


def _connection(base_url: str) -> dict[str, Any]:
    key = os.environ.get("OPENAI_API_KEY") or "none"  # a local server asks for none
    return {"base_url": base_url, "api_key": key, "timeout": TIMEOUT}


def check_server(model: SamplingModel, options: SamplingOptions) -> None:
    """Refuses a server that cannot be reached, refuses the key, or does not serve the model."""
    name, base_url = options.served_model_name or model.path, options.base_url
    with _plain_errors(base_url), openai.OpenAI(**_connection(base_url), max_retries=1) as client:
        try:
            served = [model.id for model in client.models.list()]
        except openai.NotFoundError:
            return  # a server without a list; it will report a model that it does not serve
    if name not in served:
        raise UsageError(f"{base_url} serves no '{name}'; name one with --served-model-name: {', '.join(served)}")


def sample(
    model: SamplingModel, requests: list[Request], options: SamplingOptions
) -> Iterator[tuple[list[Request], list[Sample]]]:
    """Sends the requests, `options.concurrency` of them at a time; yields each with its sample, as they finish."""
    client = openai.AsyncOpenAI(**_connection(options.base_url), max_retries=MAX_RETRIES)
    loop, waiting, sent = asyncio.new_event_loop(), iter(requests), {}
    try:
        with _plain_errors(options.base_url):
            while True:
                for request in islice(waiting, options.concurrency - len(sent)):
                    sent[loop.create_task(_ask(client, model, request, options))] = request
                if not sent:
                    return
                done, _ = loop.run_until_complete(asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED))
                for task in sorted(done, key=lambda task: task.exception() is not None):  # keep answers before raising
                    yield [sent.pop(task)], [task.result()]
    finally:  # an interrupt does not wait for the answers in flight
        for task in sent:
            task.cancel()
        loop.run_until_complete(_end(client, list(sent)))
        loop.close()


async def _end(client: openai.AsyncOpenAI, tasks: list[asyncio.Task]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


async def _ask(client: openai.AsyncOpenAI, model: SamplingModel, request: Request, options: SamplingOptions) -> Sample:
    prompt, is_chat = request.prompt, options.api == "chat"
    fields = {"model": options.served_model_name or model.path, "max_tokens": prompt.max_tokens}
    fields |= {"temperature": options.temperature, "top_p": options.top_p}
    fields |= {} if options.seed is None else {"seed": seed_of([request])}
    if is_chat:
        messages = [{"role": "user", "content": prompt.text}]
        answer = await client.chat.completions.create(messages=messages, **fields)
    else:
        extra = _EXTRA | {"stop_token_ids": list(model.stop_token_ids)}
        answer = await client.completions.create(prompt=list(prompt.token_ids), **fields, extra_body=extra)
    if not answer.choices or answer.usage is None:
        raise UsageError("the server sent no answer, or did not count its tokens (choices, usage)")
    choice = answer.choices[0]
    if is_chat:
        # Servers that split the thought from the answer use one of two field names, neither of which is OpenAI's.
        extra, response = choice.message.model_extra or {}, choice.message.content or ""
        if thought := extra.get("reasoning_content") or extra.get("reasoning"):
            response = f"<think>\n{thought.strip()}\n</think>\n\n{response}"
    elif (token_ids := (choice.model_extra or {}).get("token_ids")) is not None:
        return model.decode(token_ids)  # as for the other back ends
    else:
        response = choice.text
    return Sample(response, choice.finish_reason, answer.usage.completion_tokens)


def _plain_errors(base_url: str) -> AbstractContextManager:
    """Turns the client's errors into `UsageError`s."""

    def message(error: Exception) -> str:
        if isinstance(error, openai.APIConnectionError):
            what = f"{base_url} cannot be reached ({error.__cause__ or error}); is the server running, and --base-url"
            return f"{what} correct? What was sampled is kept."
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"{base_url} refuses the key; set OPENAI_API_KEY ({error.message})"
        kept = "what was sampled is kept, and the same command resumes"
        return f"{base_url} refuses a request ({error.message}); {kept}"

    return usage_errors(message, openai.APIConnectionError, openai.APIStatusError)
