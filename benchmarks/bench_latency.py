"""The latency of `litfast bench` beside torch.utils.benchmark's of the very same call.

The two must agree within 3 % or the spread of the measurement, whichever is larger. They take turns, each as
often first as second, and the gap is that of the median ratio of two neighbours: a slow spell hits both.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.benchmark import Timer

from litfast.bench import lane
from litfast.bench.stats import percentile
from litfast.models import Input, create

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TURNS, SECONDS = 40, 0.1
AGREED = 0.03


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("mode", ["eager", "folded"])
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_our_latency_is_torchs(request: pytest.FixtureRequest, name: str, mode: str, batch: int) -> None:
    torch.manual_seed(0)
    model = create(name, classes=10, channels=3)
    samples = Input((3, 32, 32)).example(batch, device=DEVICE)
    expected = lane.truth(name, model, samples)
    ready = lane.build(name, model, samples, expected, mode=mode, precision="fp32")
    assert ready.gate, ready.reason
    ours, theirs = take_turns(ready)
    gap = abs(percentile([mine / yours for mine, yours in zip(ours, theirs, strict=True)], 50) - 1)
    spread = max(iqr(ours), iqr(theirs))
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")  # unused, it would complain
    benchmark.group = f"{mode} batch {batch}"
    benchmark.extra_info.update(
        contender=name,
        ours_ms=percentile(ours, 50),
        theirs_ms=percentile(theirs, 50),
        gap=gap,
        spread=spread,
        tolerance=max(AGREED, spread),
    )
    with torch.inference_mode():
        benchmark.pedantic(lane.block, (ready,), rounds=5)
    assert gap <= max(AGREED, spread), f"{gap:.1%} apart, the spread is {spread:.1%}"


@torch.inference_mode()
def take_turns(ready: lane.Lane) -> tuple[list[float], list[float]]:
    """Milliseconds of a call, a turn each: ours, and torch's (which has one thread unless it is told)."""
    lane.calibrate(ready)
    timer = Timer(
        "runner(samples)",
        globals={"runner": ready.runner, "samples": ready.samples},
        num_threads=torch.get_num_threads(),
    )
    ours: list[float] = []
    theirs: list[float] = []
    takers: list[tuple[list[float], Callable[[], float]]] = [
        (ours, lambda: percentile(lane.block(ready), 50)),
        (theirs, lambda: timer.blocked_autorange(min_run_time=SECONDS).median),
    ]
    for turn in range(TURNS):
        for times, take in takers if turn % 2 else reversed(takers):
            times.append(1000 * take())
    return ours, theirs


def iqr(times: list[float]) -> float:
    """The distance of the quartiles as a share of the median."""
    return (percentile(times, 75) - percentile(times, 25)) / percentile(times, 50)
