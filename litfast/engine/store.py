"""Where a run stands, and its checkpoints: `last.pt`, `last-1.pt` under way, `N-NAME.pt` at a phase's end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from litfast.engine import checkpoint, durable
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
    left_out: list[int] = field(default_factory=list)  # global steps whose batches are not trained on
    skipped: int = 0  # steps of this phase at which a branch was left out

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

    Args:
        out: the run's folder.
        keep: how many of a phase under way stay, the newest in `last.pt`. They outlive the end of their phase
            until those of the next take their place, so that an end that is spoilt has one before it.
        writes: whether this is the first rank.

    Attributes:
        notes: what `latest` has to say; whoever reports it empties the list.
    """

    def __init__(self, out: Path | None, *, keep: int = 2, writes: bool = True) -> None:
        self.folder = None if out is None else out / "checkpoints"
        self.keep = keep
        self.notes: list[str] = []
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
                checkpoint.save(self.folder / "last.pt", state, keep=self.keep)

    def finish(self, at: Progress, phase: Phase, journal: int) -> None:
        """The end of a phase."""
        if self.folder is not None and self._writes:
            checkpoint.save(self.end(at.index, at.phase), _state(at, phase, journal))
            durable.shift(self.folder / "last.pt", self.keep)
            (self.folder / "last.pt").unlink(missing_ok=True)

    def tidy(self) -> None:
        """The run is over: the ends of its phases stay."""
        for path in self._under_way() if self._writes else ():
            path.unlink(missing_ok=True)

    def end(self, index: int, phase: str) -> Path:
        """Where the end of a phase is kept; phases count from 0."""
        assert self.folder is not None
        return self.folder / f"{index}-{phase}.pt"

    def latest(self) -> dict[str, Any] | None:
        """The newest checkpoint of the run that is whole, as are the ends of all phases before it.

        Those that are newer and cannot be used are set aside, and `notes` says so.

        Raises:
            ValueError: there are checkpoints, and none of them can be used.
        """
        refused: dict[Path, str] = {}
        ends = [] if self.folder is None else sorted(self.folder.glob("[0-9]*-*.pt"), key=_index)
        found: dict[str, Any] | None = None
        name, reached = "", 0  # how many phases have whole ends
        for path in ends:
            if refused:
                _orphaned(path, refused)
            elif (state := _whole(path, refused)) is not None:
                found, name, reached = state, path.name, _index(path) + 1
        for path in self._under_way():
            if (state := _whole(path, refused)) is None:
                continue
            if state["progress"]["index"] <= reached:
                if found is None or _step(state) > _step(found):
                    found, name = state, path.name
                break
            _orphaned(path, refused)
        if refused and found is None:
            raise ValueError(f"{next(iter(refused.values()))} (there is none before it)")
        for path, why in refused.items():
            path.rename(path.with_name(f"{path.name}.aside"))
            self.notes.append(
                f"{why}; {name}, at step {_step(found)}, is used, and {path.name}.aside keeps what was there"
            )
        return found

    def _under_way(self) -> list[Path]:
        """Checkpoints of phases under way, the newest first."""
        return [] if self.folder is None else sorted(self.folder.glob("last*.pt"), key=_age)

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


def _age(path: Path) -> int:
    return int(path.stem.partition("-")[2] or 0)


def _step(state: dict[str, Any] | None) -> int:
    return 0 if state is None else int(state["progress"]["global_step"])


def _whole(path: Path, refused: dict[Path, str]) -> dict[str, Any] | None:
    """A checkpoint, or None and its fault among the refused."""
    try:
        return checkpoint.load(path)
    except ValueError as error:
        refused[path] = str(error)
        return None


def _orphaned(path: Path, refused: dict[Path, str]) -> None:
    refused[path] = f"checkpoint: {path} must have a whole end of the phase before it, got none"
