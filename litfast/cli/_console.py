"""What all commands share: consoles, exit codes, one line an error, tables of a teacher and its student."""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console

from litfast.engine import ranks
from litfast.errors import first_line

PIPE_WIDTH = 120  # where nobody watches there is no terminal to ask for its width
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_WIDTH)

FAILED, USAGE = 1, 2
EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, MemoryError)  # one line says enough
P = ParamSpec("P")
R = TypeVar("R")


def command(function: Callable[P, R]) -> Callable[P, R]:
    """A command whose expected errors are one line on stderr and an exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except EXPECTED as error:
            fail(error, FAILED)

    return run


@contextmanager
def usage() -> Iterator[None]:
    """Errors in here are the caller's words: exit 2."""
    try:
        yield
    except (ValueError, TypeError) as error:
        fail(error, USAGE)


def fail(error: BaseException, code: int) -> NoReturn:
    """One line on stderr, of several ranks that of the first to fail, then out."""
    err.quiet = not ranks.current().speaks()
    say(f"litfast: {first_line(error)}", err, "red")
    raise typer.Exit(code)


def say(text: str, console: Console = out, style: str | None = None) -> None:
    """Plain text as it is: brackets are no markup, long lines are not broken."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """The one document of a command under --json."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def numbers(what: str, text: str, separator: str) -> list[int]:
    """The whole numbers in an option's text; `what` begins the message where it holds others."""
    try:
        return [int(part) for part in text.split(separator)]
    except ValueError:
        raise ValueError(f"{what} must be whole numbers separated by {separator!r}, got {text!r}") from None


class Stop:
    """Ctrl-C or SIGTERM noted, for the loop to stop at the next step; a Ctrl-C after that stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def code(self) -> int:
        return 128 + (self.signal or 0)  # 130 for SIGINT, 143 for SIGTERM

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def count(number: float) -> str:
    """1,727,962 -> 1.73 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"
