"""What the journal of a run looks like as curves: which numbers belong into one panel, over what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]  # of metrics.jsonl, one an epoch
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture of curves over epochs.

    Attributes:
        title: what it shows.
        unit: of the values, for the axis.
        series: points (epoch, value) by name.
        phases: where each begins, in epochs done before it, by name; empty where the panel is of one phase.
        levels: values to compare with, by name.
        epochs: how many the panel spans.
        from_zero: whether the axis of the values begins at 0.
    """

    title: str
    unit: str
    series: Mapping[str, Points]
    phases: Mapping[str, int] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    epochs: int
    from_zero: bool = False


def losses(rows: Sequence[Row]) -> list[Panel]:
    """A panel a phase with the loss of every branch, in LIT one a section.

    The parts of a loss (soft, hard, the IR term of a section ...) stand beside it where the phase has one
    branch, and in a panel of their own a branch where it has several. A part that equals its loss is
    left out.
    """
    panels = []
    for phase, of_phase in _by_phase(rows).items():
        names = [key for row in of_phase for key in row]
        branches = list(dict.fromkeys(key.removesuffix(".loss") for key in names if key.endswith(".loss")))
        parts = {branch: _parts(of_phase, branch) for branch in branches}
        series = {branch: _points(of_phase, f"{branch}.loss") for branch in branches}
        if len(branches) == 1:
            series |= parts[branches[0]]
        epochs = len(of_phase)
        panels.append(Panel(title=f"Loss in phase {phase}", unit="loss", series=series, epochs=epochs))
        if len(branches) > 1:
            panels += [
                Panel(title=f"Loss of {branch} in phase {phase}", unit="loss", series=series, epochs=epochs)
                for branch, series in parts.items()
                if len(series) > 1
            ]
    return panels


def merits(rows: Sequence[Row], levels: Mapping[str, Mapping[str, float]]) -> list[Panel]:
    """Accuracy over the whole run, of language models their perplexity too, where the journal has them.

    Args:
        levels: by metric ("accuracy", "perplexity") the values on the test split, by model.
    """
    panels = []
    for metric, unit in (("accuracy", "%"), ("perplexity", "")):
        keys = dict.fromkeys(key for row in rows for key in row)
        training = {key: f"{key.rpartition('.')[0]}, training" for key in keys if key.endswith(f".{metric}")}
        named = training | {f"val_{metric}": "validation"}
        series = {name: points for key, name in named.items() if (points := _points(rows, key))}
        if series:
            tested = {f"{name}, test": value for name, value in levels.get(metric, {}).items()}
            panels.append(
                Panel(
                    title=metric.capitalize(),
                    unit=unit,
                    series=series,
                    phases=_starts(rows),
                    levels=tested,
                    epochs=len(rows),
                )
            )
    return panels


def timing(rows: Sequence[Row]) -> list[Panel]:
    """Samples a second over the whole run, and the share of the time that a step waited for data."""
    waited = [{**row, "data_wait": 100 * row["data_wait"]} for row in rows if "data_wait" in row]
    return [
        Panel(
            title=title,
            unit=unit,
            series={title.lower(): points},
            phases=_starts(rows),
            epochs=len(rows),
            from_zero=True,
        )
        for title, unit, points in (
            ("Throughput", "samples/s", _points(rows, "samples_per_s")),
            ("Waiting for data", "% of the time", _points(waited, "data_wait")),
        )
        if points
    ]


def _parts(rows: Sequence[Row], branch: str) -> dict[str, Points]:
    """What a branch's loss is made of, by name."""
    start = f"{branch}."
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(start))
    found = {
        key.removeprefix(start).removeprefix("ir."): _points(rows, key)
        for key in keys
        if not key.endswith((".loss", ".accuracy"))
    }
    whole = _points(rows, f"{branch}.loss")
    return {name: points for name, points in found.items() if points != whole}


def _by_phase(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["phase"], []).append(row)
    return found


def _starts(rows: Sequence[Row]) -> dict[str, int]:
    starts: dict[str, int] = {}
    for done, row in enumerate(rows):
        starts.setdefault(row["phase"], done)
    return starts


def _points(rows: Sequence[Row], key: str) -> Points:
    """(epoch, value), counted from the first of the rows; what is not finite cannot be drawn."""
    pairs = [(at + 1, row[key]) for at, row in enumerate(rows) if key in row]
    return [(at, value) for at, value in pairs if math.isfinite(value)]
