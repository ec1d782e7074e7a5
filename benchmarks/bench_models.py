"""Latency of ResNet-56 and ResNet-20 on CIFAR images, by mode and precision, behind the correctness gate.

The suite watches each model over time. `litfast bench` interleaves the two: their ratio is quoted from there.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from litfast.bench import lane, modes
from litfast.models import Input, create

# torch.compile imports what torch itself calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONTENDERS = ("resnet56", "resnet20")
CELLS = [
    ("eager", "fp32", 1),
    ("eager", "bf16", 1),
    ("eager", "fp32", 128),
    ("eager", "bf16", 128),
    ("compile", "bf16", 128),
]


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize(("mode", "precision", "batch"), CELLS)
def test_latency(
    request: pytest.FixtureRequest, contender: str, mode: str, precision: str, batch: int
) -> None:
    torch.manual_seed(0)
    model = create(contender, classes=10, channels=3)
    samples = Input((3, 32, 32)).example(batch, device=DEVICE)
    modes.forget(mode)
    expected = lane.truth(contender, model, samples)
    ready = lane.build(contender, model, samples, expected, mode=mode, precision=precision)
    if ready.gate is None:
        pytest.skip(f"{mode} {precision}: {ready.reason}")
    assert ready.gate, ready.reason
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")  # unused, it would complain
    benchmark.group = f"{mode} {precision} batch {batch}"
    benchmark.extra_info.update(contender=contender, samples=batch)
    benchmark.extra_info.update(error=ready.error, tolerance=modes.tolerance(precision, samples.device))
    with torch.inference_mode():
        benchmark(call, ready)


def call(ready: lane.Lane) -> None:
    """One run, on a GPU until it is done."""
    assert ready.runner is not None, "only lanes that passed the gate are timed"
    ready.runner(ready.samples)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
