"""One process at a time in a run's folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = ".lock"

_held: dict[Path, int] = {}  # folder -> descriptor of its lock file


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, no other process may hold `folder`, which is made; this one may take it again.

    The kernel gives the lock up when its process ends, however it does, so that a killed one is in nobody's
    way. On a file system without locks nobody is refused.

    Raises:
        ValueError: another process is at work there.
    """
    place = folder.resolve()
    if place in _held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    _held[place] = _locked(folder / NAME)
    try:
        yield
    finally:
        with suppress(OSError):  # the whole folder may be gone
            (folder / NAME).unlink()
        os.close(_held.pop(place))


def _locked(path: Path) -> int:
    """The lock file, opened and locked; it is one that nobody has removed in the meantime."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            rule = "be used by one process at a time"
            raise ValueError(f"run: {path.parent} must {rule}, got {who} at work in it") from None
        except OSError:
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                return descriptor
        os.close(descriptor)


def _leave() -> None:
    """In a fork, such as a loader's worker: the lock must not outlive the process that took it."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave)
