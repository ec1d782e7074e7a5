"""A command that all processes of a torchrun job run together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from litfast.cli import _console
from litfast.engine import ranks
from litfast.engine.rundir import MARK, RunDirectory

RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")  # torchrun --max-restarts, scontrol requeue


@contextmanager
def joined() -> Iterator[ranks.Ranks]:
    """The ranks of the job. The first one prints; an expected error is told by whoever meets it first."""
    with ranks.joined() as every:
        for console in (_console.out, _console.err):
            console.quiet = not every.is_first
        try:
            yield every
        except _console.EXPECTED as error:
            _console.fail(error, _console.FAILED)


def refuse(command: str) -> None:
    """For commands that start processes of their own."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        raise ValueError(f"{command}: it must be started as one process, got one of {world} ranks")


def left_behind(folder: Path, command: str) -> Path | None:
    """The newest unfinished run of this very command in a folder, where its job was restarted.

    Args:
        folder: a run's, or one of runs.
        command: as `run.json` has it.
    """
    if not any(int(os.environ.get(name, "0")) for name in RESTARTS):
        return None
    marks = [*folder.glob(MARK), *folder.glob(f"*/{MARK}")]
    runs = [RunDirectory(mark.parent) for mark in sorted(marks, key=lambda mark: mark.stat().st_mtime)]
    ours = [r for r in runs if r.status != "finished" and r.read(MARK).get("command") == command]
    return ours[-1].path if ours else None
