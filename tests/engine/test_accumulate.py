"""A batch in parts: the step of the whole batch in the memory of a part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine.plan import plan
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.phase import Losses, Phase

CPU = torch.device("cpu")


@pytest.fixture
def batch(data: ResidentLoader) -> Batch:
    images, target = next(iter(data.batches(0)))
    return Batch(images.double(), target)


def trained(
    phase: Callable[..., Phase], batch: Batch, **options: Any
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 4)).double()

    def loss(seen: Batch) -> Losses:
        logits = model(seen.images)
        correct = (logits.argmax(-1) == seen.target).sum()
        return {"loss": cross_entropy(logits, seen.target), "correct": correct}

    ours = phase(model, loss=loss, lr=0.1, clip=options.pop("clip", None))
    with prepared(ours, CPU):
        step = Step(ours, precision="fp32", device=CPU, **options)
        for at in range(3):
            metrics = step(batch, step=at, progress=0.0)
    return model, metrics


@pytest.mark.parametrize("accumulate", [2, 4, 16])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_parts_of_a_batch_make_the_step_of_the_whole_batch(
    accumulate: int, clip: float | None, phase: Callable[..., Phase], batch: Batch
) -> None:
    whole, said = trained(phase, batch, clip=clip)
    parts, also = trained(phase, batch, clip=clip, accumulate=accumulate)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(also["toy.loss"], said["toy.loss"], rtol=1e-12, atol=0)
    assert also["toy.correct"] == said["toy.correct"]


def test_a_part_saves_its_share_of_the_activations(lit: Any, data: ResidentLoader) -> None:
    def saved(accumulate: int) -> int:
        phases = lit(beta=0.5).phases
        return next(plan(phases, data, device=CPU, precision="fp32", accumulate=accumulate)).activation_bytes

    assert saved(4) == pytest.approx(saved(1) / 4, rel=0.05)


@pytest.mark.parametrize("accumulate", [3, 0])
def test_parts_that_do_not_divide_the_batch_are_refused(accumulate: int, data: ResidentLoader) -> None:
    message = f"train: accumulate must divide the batch of 16, got {accumulate}"
    with pytest.raises(ValueError, match=message):
        litfast.train([], data, accumulate=accumulate)
