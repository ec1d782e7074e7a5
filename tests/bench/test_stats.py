"""Percentiles, spreads and ties on samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litfast.bench.stats import exact, front, milliseconds, percentile, speedup, summary, timed


def test_percentiles_of_a_known_sample() -> None:
    samples = [float(value) for value in range(101)]
    samples.reverse()
    assert [percentile(samples, q) for q in (0, 10, 50, 90, 99, 100)] == [0, 10, 50, 90, 99, 100]
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.5


@given(st.lists(st.floats(0.001, 1e3), min_size=1, max_size=40), st.floats(0, 100))
def test_percentiles_agree_with_numpy(samples: list[float], q: float) -> None:
    assert percentile(samples, q) == pytest.approx(float(np.percentile(samples, q)), rel=1e-9)


def test_a_percentile_of_nothing_or_beyond_100_is_refused() -> None:
    with pytest.raises(ValueError, match="samples must hold at least one value, got none"):
        percentile([], 50)
    with pytest.raises(ValueError, match="q must lie in 0 to 100, got 101"):
        percentile([1.0], 101)


def test_summary_of_a_known_sample() -> None:
    found = summary([float(value) for value in range(1, 102)], batch=128)
    assert (found["p50_ms"], found["p90_ms"], found["p99_ms"], found["mean_ms"]) == (51, 91, 100, 51)
    assert found["std_ms"] == pytest.approx(np.std(np.arange(1, 102)))
    assert found["samples_per_s"] == pytest.approx(128 / 0.051)
    assert found["spread"] == pytest.approx((91 - 11) / 51)


def test_a_speedup_is_the_ratio_of_medians_with_the_spread_of_the_rounds() -> None:
    found = speedup([4.0, 4.0, 8.0, 4.0, 4.0], [2.0, 2.0, 2.0, 2.0, 1.0])
    assert found.speedup == 2.0
    assert found.p10 == 2.0
    assert found.p90 == 4.0
    assert found.rounds == 5
    assert not found.tie


def test_a_slow_spell_that_hits_both_leaves_the_spread_of_the_ratio_alone() -> None:
    found = speedup([3.0, 30.0, 3.0, 300.0], [1.0, 10.0, 1.0, 100.0])
    assert (found.p10, found.p90) == (3.0, 3.0)


@pytest.mark.parametrize(
    ("contender", "tie"),
    [
        ([1.0, 1.0, 1.0, 1.0], True),  # equal
        ([0.9, 1.1, 0.95, 1.05], True),  # now the one, now the other
        ([0.9, 0.91, 0.92, 0.9], False),  # faster in every round, by little
        ([1.1, 1.12, 1.1, 1.11], False),  # slower in every round
    ],
)
def test_a_difference_below_the_spread_is_a_tie(contender: list[float], tie: bool) -> None:
    assert speedup([1.0, 1.0, 1.0, 1.0], contender).tie is tie


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the same rounds, got 2 and 1"):
        speedup([1.0, 2.0], [1.0])


def test_latencies_are_shown_with_three_digits() -> None:
    assert [milliseconds(value) for value in (None, 0.01234, 1.0, 98.76, 12345.6)] == [
        "-",
        "0.0123",
        "1",
        "98.8",
        "12,346",
    ]


def test_the_front_holds_what_nobody_beats() -> None:
    costs = [[exact(x), exact(y)] for x, y in [(1, 4), (2, 2), (4, 1), (3, 3), (2, 2), (4, 4)]]
    assert front(costs) == [True, True, True, False, True, False]
    assert front([]) == []


def test_a_latency_within_the_spread_beats_nobody() -> None:
    row = {"p50_ms": 1.59, "p90_ms": 1.7, "spread": 0.1}
    assert timed(row) == pytest.approx((1.541, 1.59, 1.7))
    good = [timed(row), exact(-89.7)]
    slightly_faster = [timed(row | {"p50_ms": 1.58}), exact(-67.6)]
    much_faster = [timed({"p50_ms": 0.8, "p90_ms": 0.9, "spread": 0.1}), exact(-67.6)]
    assert front([good, slightly_faster, much_faster]) == [True, False, True]
    assert front([good, slightly_faster]) == [True, False]
