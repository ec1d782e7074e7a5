"""Contenders timed in the same rounds, by pytest-benchmark's fixture and beside it."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter, sleep
from typing import Any

import torch

from litfast.bench.stats import percentile, speedup

Run = Callable[[], Any]

MIN_ROUNDS, MAX_ROUNDS = 5, 1000


def interleave(
    benchmark: Any,
    ours: Run,
    others: Mapping[str, Run],
    *,
    device: torch.device,
    seconds: float,
    pause: float = 0.0,
) -> list[dict[str, Any]]:
    """Time everybody once a round, ours by the fixture; one row for each of the others.

    The others turn by one place each round, so that nobody always finds the caches of the same one before.
    `speedup` says how many times faster ours is; p10 and p90 are of the ratio within a round.

    Args:
        benchmark: pytest-benchmark's fixture.
        ours, others: all on `device`, ready to run.
        seconds: of all rounds together, but never fewer than MIN_ROUNDS.
        pause: seconds before each timing, for contenders that work on in the background (prefetch).
    """
    took: dict[str, list[float]] = {name: [] for name in others}
    turn = deque(others)

    def before() -> None:
        for name in turn:
            sleep(pause)
            took[name].append(timed(others[name], device))
        turn.rotate(-1)
        sleep(pause)

    warm: list[float] = []
    while len(warm) < 3 and sum(warm) < seconds:
        warm.append(timed(ours, device) + sum(timed(run, device) for run in others.values()))
    rounds = min(max(int(seconds / median(warm)), MIN_ROUNDS), MAX_ROUNDS)
    gc.disable()  # for the others; the fixture does it for ours alone
    try:
        benchmark.pedantic(lambda: settled(ours, device), setup=before, rounds=rounds)
    finally:
        gc.enable()
    times: list[float] = benchmark.stats.stats.data  # set by pedantic
    return [row(name, theirs, times) for name, theirs in took.items()]


def timed(run: Run, device: torch.device) -> float:
    """Seconds of one call, on a GPU until it is done."""
    started = perf_counter()
    settled(run, device)
    return perf_counter() - started


def settled(run: Run, device: torch.device) -> None:
    """One call, on a GPU until it is done; what it returns is freed afterwards."""
    kept = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    del kept


def row(contender: str, theirs: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """What a record says of one of the others: its times, and how many times faster ours is."""
    ratio = speedup(theirs, ours)
    quartiles = {f"q{n}_ms": 1000 * percentile(theirs, 25 * n) for n in (1, 3)}
    head = {"contender": contender, "rounds": ratio.rounds, "median_ms": 1000 * percentile(theirs, 50)}
    return {
        **head,
        **quartiles,
        "speedup": ratio.speedup,
        "p10": ratio.p10,
        "p90": ratio.p90,
        "tie": ratio.tie,
    }
