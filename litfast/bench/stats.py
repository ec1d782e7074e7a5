"""Percentiles of one contender and the ratio of two that were timed in the same rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

Range = tuple[float, float, float]  # p10, median, p90


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """How many times faster a contender is than the baseline, and how far that goes in single rounds."""

    speedup: float
    p10: float
    p90: float
    rounds: int

    @property
    def tie(self) -> bool:
        """The difference is below the spread: in some rounds the one was faster, in some the other."""
        return self.p10 <= 1.0 <= self.p90


def percentile(samples: Sequence[float], q: float) -> float:
    """The q-th percentile, linear between the two nearest ranks (numpy's default).

    Raises:
        ValueError: no samples, or q outside 0 to 100.
    """
    if not samples:
        raise ValueError("percentile: samples must hold at least one value, got none")
    if not 0 <= q <= 100:
        raise ValueError(f"percentile: q must lie in 0 to 100, got {q}")
    ordered = sorted(samples)
    rank = (len(ordered) - 1) * q / 100
    low, high = math.floor(rank), math.ceil(rank)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def summary(call_ms: Sequence[float], batch: int) -> dict[str, Any]:
    """Percentiles, mean and deviation over single calls, by the names of `latency.Row`."""
    p10, p50, p90, p95, p99 = (percentile(call_ms, q) for q in (10, 50, 90, 95, 99))
    mean = fmean(call_ms)
    return {
        "p50_ms": p50,
        "p90_ms": p90,
        "p95_ms": p95,
        "p99_ms": p99,
        "mean_ms": mean,
        "std_ms": pstdev(call_ms),
        "samples_per_s": 1000 * batch / p50,
        "spread": (p90 - p10) / p50,
    }


def speedup(baseline: Sequence[float], contender: Sequence[float]) -> Speedup:
    """speedup = median baseline / median contender; p10 and p90 are of the ratio within each round.

    Two timings of one round saw the same state of the machine (clock, neighbours), so the spread of their
    ratio is that of the difference, not that of the machine.

    Args:
        baseline, contender: one time a round, in the same order.
    """
    if len(baseline) != len(contender):
        got = f"{len(baseline)} and {len(contender)}"
        raise ValueError(f"speedup: baseline and contender must have the same rounds, got {got}")
    ratios = [slow / fast for slow, fast in zip(baseline, contender, strict=True)]
    return Speedup(
        speedup=percentile(baseline, 50) / percentile(contender, 50),
        p10=percentile(ratios, 10),
        p90=percentile(ratios, 90),
        rounds=len(ratios),
    )


def milliseconds(value: float | None) -> str:
    """A latency for people: three digits, "-" where nothing was timed."""
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def exact(value: float) -> Range:
    """A cost that is known to the last digit."""
    return (value, value, value)


def timed(row: Mapping[str, Any]) -> Range:
    """The latency of a measured row (`latency.Row.json`) as a cost."""
    return (row["p90_ms"] - row["spread"] * row["p50_ms"], row["p50_ms"], row["p90_ms"])


def front(costs: Sequence[Sequence[Range]]) -> list[bool]:
    """Which points are Pareto-best: no other beats them in one cost without being beaten in another.

    One cost beats another where its median lies below the other's p10, and the other's above its p90: a
    difference below the spread is a tie.

    Args:
        costs: one row a point, as (p10, median, p90); less is better in each column.
    """

    def beats(one: Range, other: Range) -> bool:
        return one[1] < other[0] and one[2] < other[1]

    return [
        not any(any(map(beats, theirs, mine)) and not any(map(beats, mine, theirs)) for theirs in costs)
        for mine in costs
    ]
