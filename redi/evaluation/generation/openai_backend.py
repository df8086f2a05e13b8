"""Sampling from a server that speaks OpenAI's HTTP protocol, such as `vllm serve`.

Two interfaces. `completions` sends the prompt's token ids, so that the model reads exactly what the other back ends
give it, and names stop tokens and what else a server may fill in from the model's folder; that takes vLLM or SGLang,
whose fields beyond OpenAI's these are. `chat` sends the user's message and OpenAI's own fields alone, which any such
server understands: its own template renders the prompt.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import openai

from redi.evaluation.generation.model import Checkpoint
from redi.evaluation.generation.requests import Sample, Settings, Slot, slots_seed
from redi.runs.errors import UsageError

CONCURRENCY = 64
MAX_RETRIES = 8  # the client waits 0.5, 1, 2, 4, 8, 8, ... seconds, or as long as the server says
TIMEOUT = openai.Timeout(3600, connect=10)  # seconds; an answer comes in one piece, when its last token is there
APIS = ("completions", "chat")


def with_defaults(settings: Settings) -> Settings:
    """Fills in the options of this back end that were left open.

    Raises:
        UsageError: no server is named.
    """
    base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL")
    if not base_url:
        raise UsageError(
            "--backend openai needs --base-url (or OPENAI_BASE_URL), such as http://localhost:8000/v1 of `vllm serve`"
        )
    return replace(
        settings,
        base_url=base_url.rstrip("/"),
        api=settings.api or "completions",
        concurrency=settings.concurrency or CONCURRENCY,
    )


def check_server(checkpoint: Checkpoint, settings: Settings) -> None:
    """Asks the server for its models.

    Raises:
        UsageError: the server cannot be reached, refuses the key, or does not serve the model.
    """
    name, base_url = settings.served_model_name or checkpoint.path, settings.base_url
    with _plain_errors(base_url), openai.OpenAI(**_connection(base_url), max_retries=1) as client:
        try:
            served = [model.id for model in client.models.list()]
        except openai.NotFoundError:
            return  # a server without a list; it will say itself if it has not the model
    if name not in served:
        raise UsageError(f"{base_url} serves no '{name}'; name one with --served-model-name: {', '.join(served)}")


def _connection(base_url: str) -> dict[str, Any]:
    key = os.environ.get("OPENAI_API_KEY") or "none"  # a server of one's own asks for none
    return {"base_url": base_url, "api_key": key, "timeout": TIMEOUT}


def sample(
    checkpoint: Checkpoint, slots: list[Slot], settings: Settings
) -> Iterator[tuple[tuple[Slot, ...], list[Sample]]]:
    """Samples all slots, a request each, `settings.concurrency` of them at a time.

    Yields:
        A slot and its sample, as they are finished.

    Raises:
        UsageError: the server cannot be reached, or refuses the key or a request.
    """
    client = openai.AsyncOpenAI(**_connection(settings.base_url), max_retries=MAX_RETRIES)
    name = settings.served_model_name or checkpoint.path
    complete = _chat if settings.api == "chat" else _completion
    loop, waiting, sent = asyncio.new_event_loop(), iter(slots), {}
    try:
        with _plain_errors(settings.base_url):
            while True:
                for slot in islice(waiting, settings.concurrency - len(sent)):
                    sent[loop.create_task(complete(client, name, slot, checkpoint, settings))] = slot
                if not sent:
                    return
                done, _ = loop.run_until_complete(asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED))
                for task in sorted(done, key=lambda task: task.exception() is not None):  # what is worth keeping first
                    yield (sent.pop(task),), [task.result()]
    finally:  # an interrupt does not wait for the answers under way
        for task in sent:
            task.cancel()
        loop.run_until_complete(_end(client, list(sent)))
        loop.close()


async def _end(client: openai.AsyncOpenAI, tasks: list[asyncio.Task]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


async def _completion(
    client: openai.AsyncOpenAI, name: str, slot: Slot, checkpoint: Checkpoint, settings: Settings
) -> Sample:
    answer = await client.completions.create(
        model=name,
        prompt=list(slot[0].token_ids),
        **_options(slot, settings),
        extra_body={
            "stop_token_ids": list(checkpoint.stop_token_ids),
            "return_token_ids": True,
            "skip_special_tokens": False,  # in the text of a server that returns no token ids; </think> may be one
            "spaces_between_special_tokens": False,
            "top_k": -1,  # this and the rest would else come from the model's generation_config.json
            "min_p": 0,
            "repetition_penalty": 1,
        },
    )
    choice, num_tokens = _only_choice(answer)
    token_ids = (choice.model_extra or {}).get("token_ids")
    if token_ids is not None:  # then text is made of them as by the other back ends
        return checkpoint.decode([token_ids])[0]
    return Sample(choice.text, choice.finish_reason, num_tokens)


async def _chat(
    client: openai.AsyncOpenAI, name: str, slot: Slot, checkpoint: Checkpoint, settings: Settings
) -> Sample:
    messages = [{"role": "user", "content": slot[0].prompt}]
    answer = await client.chat.completions.create(model=name, messages=messages, **_options(slot, settings))
    choice, num_tokens = _only_choice(answer)
    # Servers that part the thought from the answer call it by one of two names, neither of which is OpenAI's.
    extra = choice.message.model_extra or {}
    thought, content = extra.get("reasoning_content") or extra.get("reasoning"), choice.message.content or ""
    response = f"<think>\n{thought.strip()}\n</think>\n\n{content}" if thought else content
    return Sample(response, choice.finish_reason, num_tokens)


def _options(slot: Slot, settings: Settings) -> dict[str, Any]:
    options = {"temperature": settings.temperature, "top_p": settings.top_p, "max_tokens": slot[0].max_tokens}
    if settings.seed is not None:
        options["seed"] = slots_seed([slot])
    return options


def _only_choice(answer: Any) -> tuple[Any, int]:
    """The answer that a server gave, and its tokens."""
    if not answer.choices or answer.usage is None:
        raise UsageError("the server sent no answer, or none whose tokens it counts (choices, usage)")
    return answer.choices[0], answer.usage.completion_tokens


@contextmanager
def _plain_errors(base_url: str) -> Iterator[None]:
    try:
        yield
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise UsageError(f"{base_url} refuses the key; set OPENAI_API_KEY ({error.message})") from error
    except openai.APIConnectionError as error:
        raise UsageError(
            f"{base_url} cannot be reached ({error.__cause__ or error}); is the server running, and --base-url right? "
            "What was sampled is kept."
        ) from error
    except openai.APIStatusError as error:
        raise UsageError(
            f"{base_url} refuses a request ({error.message}); what was sampled is kept, and the same command goes on"
        ) from error
