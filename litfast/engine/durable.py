"""Files that are written whole or not at all, and stay when the power goes."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path


def write(path: Path, content: bytes | memoryview, *, keep: int = 1) -> None:
    """Put `content` in the place of `path`: written aside, synced, renamed, the folder synced.

    The last `keep` of them stay, under the names that `generations` gives.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was there is intact.
    """
    aside = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        shift(path, keep)
        os.replace(aside, path)
        _sync(path.parent)
    except OSError:
        with suppress(OSError):  # of a folder that cannot be written, where nothing lies aside
            aside.unlink()
        raise


def generations(path: Path, keep: int) -> list[Path]:
    """The newest file and those before it: last.pt, last-1.pt, last-2.pt."""
    return [path, *(path.with_stem(f"{path.stem}-{age}") for age in range(1, keep))]


def shift(path: Path, keep: int) -> None:
    """Let every generation take the place of the one before it, so that `path` becomes free."""
    names = generations(path, keep)
    for newer, older in reversed(list(pairwise(names))):
        if newer.exists():
            os.replace(newer, older)


def _sync(folder: Path) -> None:
    """A rename is on the disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
