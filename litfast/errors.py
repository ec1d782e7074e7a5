"""What an error says, for the one line that a user reads."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of its message, without torch's C++ stack; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def typed(error: BaseException) -> str:
    """The same with its type in front: of code that is not ours the words alone say little."""
    name, said = type(error).__name__, first_line(error)
    return said if said == name else f"{name}: {said}"
