"""Values of options, before they are parsed: expands environment variables and `~`, and refuses secrets."""

import contextlib
import json
import os
import re
from typing import Any

from redi.runs.errors import UsageError

SECRET_OPTIONS = {"hub_token", "token", "use_auth_token", "push_to_hub_token", "api_key", "password", "secret"}
# `scheme://user:password@host`, a token in a query, and a token of the Hugging Face Hub.
_SECRET = re.compile(r"\w://[^/\s@]+@|[?&]\w*(token|key|password|secret)=|\bhf_[A-Za-z0-9]{30}", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(TOKEN|KEY|PASSWORD|SECRET)$")
_VARIABLE = re.compile(r"\$\{(\w*)\}|^\$([A-Za-z_]\w*)(?=/|$)")
_REMEDY = "remove it, and set the environment variable HF_TOKEN (for an OpenAI-compatible server OPENAI_API_KEY)"


def check_value(option: str, value: Any) -> Any:
    """`value` with each `${NAME}`, a leading `$NAME` and a leading `~` expanded, also within lists and mappings.

    An unknown variable or home folder is a `UsageError`; so is a secret, which a run would write to its manifest.
    """
    name = option.removeprefix("--").replace("-", "_")
    if name.split(".")[-1] in SECRET_OPTIONS and isinstance(value, str):
        raise UsageError(f"{option} is a secret, and runs write down their options: {_REMEDY}")
    if isinstance(value, dict):
        return {key: check_value(f"{option}.{key}", item) for key, item in value.items()}
    if isinstance(value, list):
        return [check_value(option, item) for item in value]
    if not isinstance(value, str):
        return value
    mapping = None
    if value.startswith("{"):
        with contextlib.suppress(ValueError):
            mapping = json.loads(value)  # how a mapping is given on the command line
    if mapping is not None:
        return json.dumps(check_value(option, mapping))
    expanded = _expand(option, value)
    secrets = [text for key, text in os.environ.items() if _SECRET_VARIABLE.search(key) and len(text) >= 8]
    if _SECRET.search(expanded) or any(secret in expanded for secret in secrets):
        raise UsageError(f"{option} holds a password or token, and runs write down their options: {_REMEDY}")
    return expanded


def check_arguments(argv: list[str]) -> list[str]:
    """A command line, `--key value` or `--key=value`, whose values have passed `check_value`."""
    checked, option = [], ""
    for argument in argv:
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            checked.append(option + equals + check_value(option, value))
        else:
            checked.append(check_value(option, argument))
    return checked


def _expand(option: str, text: str) -> str:
    def value_of(match: re.Match[str]) -> str:
        value = os.environ.get(match[1] or match[2])
        if not value:
            raise UsageError(f"{option}={text}: the environment variable {match[1] or match[2]} is not set")
        return value

    expanded = _VARIABLE.sub(value_of, text)
    if re.match(r"~[\w.-]*(/|$)", expanded):
        expanded = os.path.expanduser(expanded)
        if expanded.startswith("~") and "/" in expanded:
            raise UsageError(f"{option}={text}: the home folder {expanded.split('/')[0]} is not known")
    if "${" in expanded:
        raise UsageError(f"{option}={text}: only ${{NAME}} is understood")
    return expanded
