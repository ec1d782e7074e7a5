"""What a training says of itself while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from litfast.engine.evaluate import Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `train` yields: after every step, epoch and phase.

    Attributes:
        kind: "step", "epoch" or "phase".
        phase: name; `index` counts phases from 0.
        epoch, epochs: epochs finished and in all.
        step, steps: steps finished in this epoch and in an epoch.
        metrics: means over the epoch so far by "branch.metric"; empty where the device was not read.
        samples_per_s: throughput since the epoch (or the resumed run) began; 0 before the first step.
        data_wait: share of that time, 0..1, in which the step waited for the loader's next batch.
        val: evaluation on the validation loader (epoch and phase reports, where there is one).
        best_accuracy: best validation accuracy of the phase so far, percent.
        restored: the phase was finished before and loaded from its checkpoint.
        notes: what happened by itself and should be said, a line each.
    """

    kind: str
    phase: str
    index: int
    epoch: int
    epochs: int
    step: int
    steps: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples_per_s: float = 0.0
    data_wait: float = 0.0
    val: Evaluation | None = None
    best_accuracy: float | None = None
    restored: bool = False
    notes: tuple[str, ...] = ()

    @property
    def loader_samples_per_s(self) -> float | None:
        """What the loader alone would deliver; what it makes ahead, during steps, costs it no time here."""
        return self.samples_per_s / self.data_wait if self.data_wait else None

    @property
    def step_samples_per_s(self) -> float | None:
        """What the step would train if it waited for no data."""
        return self.samples_per_s / (1 - self.data_wait) if self.data_wait < 1 else None
