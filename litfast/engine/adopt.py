"""A run takes over the trained teacher of another one, so that it is trained only once."""

from __future__ import annotations

from pathlib import Path

from litfast.engine import checkpoint
from litfast.engine.store import Store


def adopt(run: Path, phase: str, other: Path) -> None:
    """Give `run` the end of the first phase of `other`: resumed, it loads that phase and trains the rest.

    The result is the one that `run` would have trained itself, to the bit, where the two agree in seed, data,
    engine and the model of that phase. A run that has checkpoints of its own keeps them.

    Args:
        run, other: run folders.
        phase: name of the first phase, finished in `other`.

    Raises:
        ValueError: no whole checkpoint of that phase in `other`.
    """
    if not Store(run).is_empty:
        return
    state = checkpoint.load(finished(other, phase))
    rows = (other / "metrics.jsonl").read_bytes()[: state["journal"]]
    (run / "metrics.jsonl").write_bytes(rows)
    checkpoint.save(finished(run, phase), state)


def finished(run: Path, phase: str) -> Path:
    """Where a run keeps the end of its first phase."""
    return Store(run).end(0, phase)
