"""Where a run stands, and its checkpoints: `last.pt` of a phase under way, `N-NAME.pt` of a finished one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from litfast.engine import checkpoint
from litfast.engine.patience import Waits
from litfast.engine.step import Step
from litfast.phase import Phase

Weights = dict[str, torch.Tensor]


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a phase stands, in plain values."""

    index: int = -1
    phase: str = ""
    epoch: int = 0
    step: int = 0
    first_epoch: int = 0  # epochs of the phases before this one: a loader counts epochs through the whole run
    global_step: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    last: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    waits: Waits = field(default_factory=dict)  # of branches that stop by themselves

    def next(self, phase: str) -> Progress:
        """The start of the phase after this one."""
        return Progress(
            index=self.index + 1,
            phase=phase,
            first_epoch=self.first_epoch + self.epoch,
            global_step=self.global_step,
        )


class Store:
    """The checkpoints of one run; with `out=None` nothing is kept and nothing is found.

    Of several ranks all read and the first one writes.
    """

    def __init__(self, out: Path | None, *, writes: bool = True) -> None:
        self.folder = None if out is None else out / "checkpoints"
        self._writes = writes and out is not None

    @property
    def is_empty(self) -> bool:
        return self.folder is None or not any(self.folder.glob("*.pt"))

    def save(
        self,
        at: Progress,
        phase: Phase,
        step: Step,
        best: Weights | None,
        journal: int,
        ranks: list[dict[str, Any]],
    ) -> None:
        """A phase under way, in place of the checkpoint before; `ranks` is what each has for itself."""
        if self.folder is not None:
            state = {
                **_state(at, phase, journal),
                "step": step.state(),  # of all ranks
                "best": best,
                "ranks": ranks,
            }
            if self._writes:
                checkpoint.save(self.folder / "last.pt", state)

    def finish(self, at: Progress, phase: Phase, journal: int) -> None:
        """The end of a phase."""
        if self.folder is not None and self._writes:
            checkpoint.save(self.end(at.index, at.phase), _state(at, phase, journal))
            (self.folder / "last.pt").unlink(missing_ok=True)

    def end(self, index: int, phase: str) -> Path:
        """Where the end of a phase is kept; phases count from 0."""
        assert self.folder is not None
        return self.folder / f"{index}-{phase}.pt"

    def latest(self) -> dict[str, Any] | None:
        """The newest checkpoint of the run, of a phase under way or finished."""
        ends = [] if self.folder is None else sorted(self.folder.glob("[0-9]*-*.pt"), key=_index)
        under_way = None if self.folder is None else self.folder / "last.pt"
        states = [
            checkpoint.load(path)
            for path in [*ends[-1:], *([under_way] if under_way and under_way.exists() else [])]
        ]
        return max(states, key=lambda state: state["progress"]["global_step"], default=None)

    def restore_finished(self, phase: Phase, index: int) -> Progress:
        """Load the end of a finished phase into its model."""
        path = self.end(index, phase.name)
        if not path.exists():
            raise ValueError(
                f"train: {self.folder} must hold checkpoints of this very method, got no {path.name}"
            )
        state = checkpoint.load(path)
        _load_model(phase, state, path)
        return Progress(**state["progress"])

    def restore(self, phase: Phase, step: Step, state: dict[str, Any]) -> tuple[Progress, Weights | None]:
        """Load a phase under way: model and optimizers."""
        assert self.folder is not None
        at = Progress(**state["progress"])
        if at.phase != phase.name:
            raise ValueError(
                f"train: the checkpoint must be of phase {phase.name!r}, got one of {at.phase!r}"
            )
        _load_model(phase, state, self.folder / "last.pt")
        step.load_state(state["step"])
        return at, state["best"]


def _state(at: Progress, phase: Phase, journal: int) -> dict[str, Any]:
    return {"progress": asdict(at), "model": phase.model.state_dict(), "journal": journal}


def _load_model(phase: Phase, state: dict[str, Any], path: Path) -> None:
    try:
        phase.model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"train: {path.name} must fit the model of phase {phase.name!r}, got: {reason}"
        ) from None


def _index(path: Path) -> int:
    return int(path.name.split("-")[0])
