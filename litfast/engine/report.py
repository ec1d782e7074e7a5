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
        images_per_s: training throughput since the epoch (or the resumed run) began; 0 before the first step.
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
    images_per_s: float = 0.0
    val: Evaluation | None = None
    best_accuracy: float | None = None
    restored: bool = False
    notes: tuple[str, ...] = ()
