"""A dict whose KeyError names what it knows and the nearest name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn, TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """Names to objects of one `kind`; an unknown name is answered with the nearest known one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, name: str) -> NoReturn:
        raise UnknownNameError(unknown(self.kind, name, self))


class UnknownNameError(ValueError, KeyError):
    """A name that nobody registered; both a ValueError (for users) and a KeyError (for a dict)."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line: what kind of name, what came, the nearest known name, all known names."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{kind} must be one of {', '.join(names)}, got {name!r}{hint}"
