"""Which way of running the steps is fastest here: measured on copies, before training starts."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch

from litfast.data.loader import Loader
from litfast.engine import modes
from litfast.engine.prepare import prepared
from litfast.engine.step import Runner
from litfast.phase import Phase

Way = tuple[str, str]  # mode, branches
EAGER: Way = ("eager", "serial")
# Seconds a phase before the first step, roughly: a way is tried where a fifth of the training would repay it.
START_UP = {"eager": 0.0, "compile": 60.0, "graph": 5.0, "compile-graph": 65.0}
WORTH = 0.2
GAIN = 0.97  # a way must be this much faster than eager to be taken: timings have noise
GLANCE, TRIAL = (1, 1), (3, 5)  # steps before the clock starts, steps on the clock


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The way taken, the seconds that the steps of the whole run take by it and by others, and one line."""

    mode: str
    branches: str
    seconds: dict[str, float]
    said: str


def ways(mode: str, branches: str, device: torch.device) -> list[Way]:
    """What "auto" may choose from, eager first; a name that was given stays."""
    cuda = device.type == "cuda"
    possible = [name for name in modes.MODES if cuda or not modes.captures(name)]
    found_modes = possible if mode == "auto" else [mode]
    found = [branches] if branches != "auto" else ["serial", *(["parallel"] if cuda else [])]
    # off a graph, forking costs the host as much as it spares the device
    return [(m, b) for m in found_modes for b in found if b in (branches, "serial") or modes.captures(m)]


def choose(
    walk: Callable[[], Iterable[Phase]],
    data: Loader,
    *,
    device: torch.device,
    candidates: Sequence[Way],
    options: dict[str, Any],
) -> Choice:
    """Time a few steps of every phase by each candidate that the run is long enough to repay.

    Args:
        walk: the phases of the run on copies of its models, made afresh at each call. They are trained for
            some steps, so nothing of them may be used afterwards. Random state is given back.
        candidates: what `ways` says. The first is taken where no other is worth a trial.
        options: of Step.
    """
    first, *others = candidates
    if not others:
        return Choice(mode=first[0], branches=first[1], seconds={}, said="")
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        phases, whole = _measure(walk(), data, device, first, options, GLANCE)
        worth = [way for way in others if phases * START_UP[way[0]] <= WORTH * whole]
        seconds = {
            way: _measure(walk(), data, device, way, options, TRIAL)[1] for way in [first, *worth] if worth
        } or {first: whole}
    best = min(seconds, key=lambda way: seconds[way])
    if seconds[best] > GAIN * seconds[first]:
        best = first
    named = {_name(way): round(value, 3) for way, value in seconds.items() if math.isfinite(value)}
    listed = ", ".join(
        f"{name} {value:{'.3g' if value < 100 else ',.0f'}} s" for name, value in named.items()
    )
    skipped = [_name(way) for way in others if way not in seconds]
    why = f"; too short a run to try {', '.join(skipped)}" if skipped else ""
    said = f"auto: {_name(best)} (all steps of the run: {listed}{why})"
    return Choice(mode=best[0], branches=best[1], seconds=named, said=said)


def _measure(
    phases: Iterable[Phase],
    data: Loader,
    device: torch.device,
    way: Way,
    options: dict[str, Any],
    length: tuple[int, int],
) -> tuple[int, float]:
    """The number of phases that train, and the seconds of all their steps; infinite where a way fails."""
    count, total = 0, 0.0
    mode, branches = way
    for phase in phases:
        with prepared(phase, device):
            if not phase.epochs:
                continue
            step, runner = modes.make(
                phase, device, mode=mode, branches=branches, rows=sum(length), **options
            )
            median = _median(runner, data, device, *length)
            count += 1
            total += math.inf if step.notes else median * data.steps * phase.epochs
    return count, total


def _median(runner: Runner, data: Loader, device: torch.device, warm: int, timed: int) -> float:
    """Seconds of a step; the device is waited for before and after each."""
    times = []
    for at, batch in enumerate(islice(cycle(data.batches(0)), warm + timed)):
        _wait(device)
        started = time.perf_counter()
        runner(batch, step=at, progress=0.0)
        _wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[warm:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(way: Way) -> str:
    mode, branches = way
    return mode if branches == "serial" else f"{mode} with parallel branches"
