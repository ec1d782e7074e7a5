"""Interleaved rounds: who is timed when, and what a row says."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from litfast.bench import interleave

CPU = torch.device("cpu")


class Fixture:
    """pytest-benchmark's fixture without its clock: as many rounds as asked for, each takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(self, target: Callable[[], Any], *, setup: Callable[[], None], rounds: int) -> None:
        for _ in range(rounds):
            setup()
            target()
            self.stats.stats.data.append(self.seconds)


def test_everybody_is_timed_once_a_round_and_the_others_take_turns() -> None:
    calls: list[str] = []

    def run(name: str) -> Callable[[], Any]:
        return lambda: calls.append(name) or []

    others = {name: run(name) for name in "abc"}
    rows = interleave.interleave(Fixture(1.0), run("ours"), others, device=CPU, seconds=1e-9)
    timed = calls[-4 * interleave.MIN_ROUNDS :]
    rounds = [tuple(timed[start : start + 4]) for start in range(0, len(timed), 4)]
    turns = [("a", "b", "c", "ours"), ("b", "c", "a", "ours"), ("c", "a", "b", "ours")]
    assert rounds == [*turns, *turns[:2]]
    assert [row["contender"] for row in rows] == ["a", "b", "c"]


def test_a_row_holds_the_ratio_within_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"slow": iter([2.0] * 20), "near": iter([0.4, 0.6] * 10), "ours": iter([0.5] * 20)}
    monkeypatch.setattr(interleave, "timed", lambda run, device: next(seconds[run()[0]]))
    others = {name: lambda name=name: [name] for name in ("slow", "near")}
    slow, near = interleave.interleave(Fixture(0.5), lambda: ["ours"], others, device=CPU, seconds=21)
    assert slow == {
        "contender": "slow",
        "rounds": 7,  # of 3 seconds each in 21
        **{"median_ms": 2000, "q1_ms": 2000, "q3_ms": 2000},
        **{"speedup": 4, "p10": 4, "p90": 4, "tie": False},
    }
    assert near["tie"] is True
