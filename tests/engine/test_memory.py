from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

import litfast
from litfast.data.loader import Batch
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.models.inference import Inference
from litfast.phase import Schedule

from .peak_memory import PeakMemory

CPU = torch.device("cpu")
KB = 1024


def test_a_tensor_counts_from_the_op_that_makes_it_until_it_is_freed() -> None:
    before = torch.ones(256)
    with PeakMemory() as memory:
        first = before * 2  # 1 KB
        second = torch.zeros(512)  # 2 KB
        assert memory.bytes == 3 * KB
        del first
        assert memory.bytes == 2 * KB
        third = second[:3].view(3)  # a view: nothing new
        second.add_(1)
        before.add_(1)
        assert memory.bytes == 2 * KB
        del second
        assert memory.bytes == 2 * KB  # the view keeps it
        del third
        assert memory.bytes == 0
    assert memory.peak == 3 * KB


def test_what_autograd_keeps_is_live_until_the_backward_frees_it() -> None:
    weight = nn.Parameter(torch.ones(256))
    with PeakMemory() as memory:
        loss = weight.sin().exp().sum()
        assert memory.bytes >= KB  # exp keeps its result; no Python name does
        loss.backward()
        del loss
        assert memory.bytes == KB  # the gradient
    assert memory.peak >= 2 * KB


def step_peak(beta: float, *, program: bool) -> int:
    """Peak bytes that one step of ResNet-56 -> 20 holds besides models, optimizer state and batch."""
    torch.manual_seed(0)
    teacher, student = (litfast.create(name, classes=10) for name in ("resnet56", "resnet20"))
    schedule = Schedule(epochs=1, lr=0.1)
    observer = Inference(teacher.eval()) if program else teacher
    lit = litfast.methods.lit
    phase = next(lit(teacher, student, sections=schedule, finetune=schedule, beta=beta, observer=observer))
    batch = Batch(torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU)
        step(batch, step=0, progress=0.0)  # makes the optimizer's state
        gc.collect()
        with PeakMemory() as memory:
            step(batch, step=1, progress=0.0)
    return memory.peak


@pytest.mark.parametrize("program", [True, False], ids=["program", "as it is"])
def test_independent_sections_take_at_most_0_6_of_the_joint_steps_memory(program: bool) -> None:
    apart, joint = step_peak(0.0, program=program), step_peak(0.75, program=program)
    print(f"peak of a step at batch 16: {apart:,} bytes apart, {joint:,} joint: {apart / joint:.3f}")
    assert apart <= 0.6 * joint


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_bring_the_peak_down(accumulate: int) -> None:
    torch.manual_seed(0)
    student = litfast.create("resnet20", classes=10)
    (phase,) = litfast.methods.scratch(student, train=Schedule(epochs=1, lr=0.1))
    batch = Batch(torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))
    peaks = []
    with prepared(phase, CPU):
        for parts in (1, accumulate):
            with PeakMemory() as memory:
                Step(phase, precision="fp32", device=CPU, accumulate=parts)(batch, step=0, progress=0.0)
            peaks.append(memory.peak)
    assert peaks[1] < peaks[0] * 1.3 / accumulate  # gradients and optimizer state are whole in both
