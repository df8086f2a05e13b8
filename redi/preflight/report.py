"""The report of a check: prints findings as they come and keeps the problems."""

from collections.abc import Callable
from typing import Any

from redi.runs.errors import UsageError


class Report:
    """Prints one finding a line, under titles, or with `only_notes` nothing but notes."""

    def __init__(self, write: Callable[[str], None] = print, only_notes: bool = False):
        self.write = write
        self.only_notes = only_notes
        self.problems: list[str] = []

    def title(self, text: str) -> None:
        if not self.only_notes:
            self.write(f"\n{text}")

    def line(self, text: str, mark: str = "") -> None:
        if not self.only_notes:
            self.write(f"  {mark:5} {text}")
        elif mark == "note":
            self.write(f"note: {text}")

    def value(self, name: str, text: str) -> None:
        self.line(f"{name:14} {text}")

    def ok(self, text: str) -> None:
        self.line(text, "ok")

    def note(self, text: str) -> None:
        self.line(text, "note")

    def fail(self, problem: str) -> None:
        self.problems.append(problem)
        self.line(problem, "FAIL")

    def attempt(self, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result, or None if it raises a `UsageError`, which becomes a problem."""
        try:
            return function(*args)
        except UsageError as error:
            self.fail(" ".join(str(error).split()))
            return None

    def refuse(self) -> None:
        """Raises a `UsageError` that names all problems, if there are any."""
        if self.problems:
            raise UsageError("; ".join(dict.fromkeys(self.problems)))
