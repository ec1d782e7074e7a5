"""Trials leave no trace, and see what matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine.prepare import prepared
from litfast.engine.snapshot import Snapshot, changed
from litfast.engine.step import Step
from litfast.engine.trial import deviation, objection, reason
from litfast.phase import OPTIMIZERS, Phase

CPU = torch.device("cpu")


@pytest.fixture
def batch(data: ResidentLoader) -> Batch:
    return next(iter(data.batches(0)))


@pytest.mark.parametrize("steps", [0, 2], ids=["before the first step", "in the middle"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_step_goes_on_as_if_nothing_had_been(
    optimizer: str, steps: int, lit: Any, batch: Batch
) -> None:
    """Parameters, momentum, statistics, averages, random state; the optimizer's state may not even exist."""

    def trained(disturbed: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        run = lit(beta=0.5, noise=0.1, schedule={"optimizer": optimizer, "lr": 0.01})
        ours = next(run.phases)
        torch.manual_seed(3)
        with prepared(ours, CPU):
            step = Step(ours, precision="fp32", device=CPU, ema=0.9)
            for at in range(steps):
                step(batch, step=at, progress=0.0)
            if disturbed:
                snapshot = Snapshot(step)
                step(batch, step=7, progress=0.5)
                torch.rand(5)
                snapshot.restore()
            for at in range(2):
                step(batch, step=at, progress=0.0)
            return run.state(), [tensor.clone() for tensor in changed(step)]

    (ours, all_ours), (theirs, all_theirs) = trained(True), trained(False)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert len(all_ours) == len(all_theirs)
    assert all(torch.equal(a, b) for a, b in zip(all_ours, all_theirs, strict=True))


def objected(phase: Phase, batch: Batch, prepare: Callable[[Step], Any]) -> str | None:
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU)
        before = {name: value.clone() for name, value in phase.model.state_dict().items()}
        why = objection(step, batch, phase.branches, 0.0, lambda: prepare(step))
        after = phase.model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    return why


def test_the_same_work_is_not_objected_to(toy: nn.Module, phase: Callable[..., Phase], batch: Batch) -> None:
    ours = phase(toy)
    assert objected(ours, batch, lambda step: lambda: step.compute(batch, ours.branches)) is None


def test_work_that_forgets_its_momentum_is_objected_to(
    toy: nn.Module, phase: Callable[..., Phase], batch: Batch
) -> None:
    ours = phase(toy)

    def forgetful(step: Step) -> Any:
        def work() -> None:
            step.compute(batch, ours.branches)
            for slots in step.optimizers["toy"].state.values():
                slots["momentum_buffer"].zero_()

        return work

    assert "of the way off the eager ones" in str(objected(ours, batch, forgetful))


def test_work_that_moves_no_statistics_is_objected_to(phase: Callable[..., Phase], batch: Batch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 4))
    ours = phase(net)

    def still(step: Step) -> Any:
        def work() -> None:
            kept = [buffer.clone() for buffer in net.buffers()]
            step.compute(batch, ours.branches)
            for buffer, value in zip(net.buffers(), kept, strict=True):
                buffer.copy_(value)

        return work

    assert "after two steps its buffers are 100 %" in str(objected(ours, batch, still))


def test_work_that_does_nothing_or_explodes_is_objected_to(
    toy: nn.Module, phase: Callable[..., Phase], batch: Batch
) -> None:
    assert "its weights are 100 %" in str(objected(phase(toy), batch, lambda step: lambda: None))
    poison = lambda step: lambda: nn.init.constant_(toy.linear.weight, float("nan"))  # noqa: E731
    assert "its weights are nan %" in str(objected(phase(toy), batch, poison))


def test_what_a_failed_preparation_says_is_one_line_without_folders(
    toy: nn.Module, phase: Callable[..., Phase], batch: Batch
) -> None:
    def broken(step: Step) -> Any:
        step.compute(batch, step.active)
        raise RuntimeError("backend='inductor' raised:\nno compiler in /usr/local/bin/cc\nmore")

    assert objected(phase(toy), batch, broken) == "no compiler in cc"
    assert reason(ValueError()) == "ValueError"


def test_deviation_is_a_share_of_the_way() -> None:
    before, expected = [torch.zeros(2)], [torch.tensor([3.0, 4.0])]
    assert deviation(before, expected, [torch.tensor([3.0, 4.0])]) == 0
    assert deviation(before, expected, [torch.tensor([3.0, 4.5])]) == pytest.approx(0.1)
    assert deviation(before, before, expected) == float("inf")
    assert deviation(before, before, before) == 0


def test_deviation_takes_masks_and_counters() -> None:
    before, after = (
        [torch.tensor([True, False]), torch.tensor(3)],
        [torch.tensor([True, True]), torch.tensor(4)],
    )
    assert deviation(before, after, after) == 0
    assert deviation(before, after, before) == 1
