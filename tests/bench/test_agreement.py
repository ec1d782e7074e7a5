"""Our latency and that of torch.utils.benchmark, on a clock that only the model moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from litfast.bench import lane, latency, measure
from litfast.models import Input


class Clock:
    """Seconds that pass only when somebody spends them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Takes(nn.Module):
    """Takes 2 ms, every tenth call `hiccup` more."""

    def __init__(self, clock: Clock, hiccup: float) -> None:
        super().__init__()
        self.clock, self.hiccup, self.calls = clock, hiccup, 0

    def __deepcopy__(self, memo: object) -> Takes:
        return self

    def forward(self, samples: Tensor) -> Tensor:
        self.calls += 1
        self.clock.now += 0.002 + self.hiccup * (self.calls % 10 == 0)
        return samples


@pytest.mark.parametrize("hiccup", [0.0, 0.003])
def test_it_agrees_with_torchs_own_timer(hiccup: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(lane, "perf_counter", clock)
    monkeypatch.setattr(latency, "perf_counter", clock)
    model, samples = Takes(clock, hiccup), torch.zeros(1, 2)
    cells: dict[str, Any] = {"batches": (1,), "modes": ("eager",), "precisions": ("fp32",), "seconds": 0.4}
    (row,) = measure({"a": model}, input=Input((2,)), **cells)
    timer = Timer("model(samples)", globals={"model": model, "samples": samples}, timer=clock)
    # torch's knows no single calls: its times are means
    assert row.mean_ms == pytest.approx(1000 * timer.timeit(200).mean, rel=max(0.03, row.spread))
    assert row.p50_ms == pytest.approx(2)
    assert row.p95_ms == pytest.approx(2 + 1000 * hiccup)
