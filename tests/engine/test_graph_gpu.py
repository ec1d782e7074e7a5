"""The captured step on a real device: every trap that the tape stands in for, and the streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import litfast
from litfast.data.loader import Batch
from litfast.engine import modes
from litfast.engine.graph import GraphStep
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.models import Input
from litfast.phase import OPTIMIZERS, Phase, Schedule

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


def batches(sizes: list[int]) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    made = [
        (torch.randn(n, 3, 8, 8, generator=generator), torch.randint(4, (n,), generator=generator))
        for n in sizes
    ]
    return [
        Batch(images.to(CUDA, memory_format=torch.channels_last), target.to(CUDA)) for images, target in made
    ]


def phase_of(beta: float, **words: Any) -> Phase:
    torch.manual_seed(0)
    teacher, student = (litfast.create(name, classes=4) for name in ("resnet14", "resnet8"))
    teacher(torch.randn(16, 3, 8, 8))
    schedule = Schedule(**{"epochs": 1, "lr": 0.05, "schedule": "cosine", **words})
    method = litfast.methods.lit(teacher, student, sections=schedule, finetune=schedule, beta=beta, noise=0.1)
    return next(method)


def trained(
    phase: Phase, sizes: list[int], *, mode: str, branches: str = "serial", **options: Any
) -> tuple[dict[str, Tensor], list[dict[str, float]], Step, Any]:
    with prepared(phase, CUDA):
        options = {"precision": "fp32", "rows": len(sizes), **options}
        step, run = modes.make(phase, CUDA, mode=mode, branches=branches, **options)
        torch.manual_seed(7)
        said = [run(batch, step=i, progress=i / len(sizes)) for i, batch in enumerate(batches(sizes))]
        numbers = [{name: value.item() for name, value in metrics.items()} for metrics in said]
        state = {name: value.clone() for name, value in phase.model.state_dict().items()}
    return state, numbers, step, run


@pytest.fixture(autouse=True)
def exact() -> Any:
    """No TF32: what is left is the order of additions."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = before


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replays_follow_the_learning_rate_the_momentum_and_the_noise(beta: float, optimizer: str) -> None:
    """Frozen rates, momentum that starts anew or repeated noise would each lead elsewhere."""
    words = {"optimizer": optimizer, "lr": 0.05 if optimizer == "sgd" else 1e-3}
    eager, expected, _, _ = trained(phase_of(beta, **words), [16] * 10, mode="eager")
    graph, said, step, run = trained(phase_of(beta, **words), [16] * 10, mode="graph")
    assert step.notes == [] and isinstance(run, GraphStep) and len(run._recorded) == 1
    assert_close(graph, eager)
    for ours, theirs in zip(said, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("place", [0, 1], ids=["hint", "distill"])
def test_replays_of_fitnets_train_the_regressor_and_follow_lambda(place: int) -> None:
    def phase() -> Phase:
        torch.manual_seed(0)
        teacher, student = (
            litfast.create("resnet8", classes=4),
            litfast.create("resnet14", classes=4, width=4),
        )
        schedule = Schedule(epochs=1, lr=1e-3, optimizer="adam")
        method = litfast.methods.fitnets(
            teacher, student, hint=schedule, distill=schedule, input=Input((3, 8, 8))
        )
        return list(method)[place]

    eager, expected, _, _ = trained(phase(), [16] * 10, mode="eager")
    graph, said, step, run = trained(phase(), [16] * 10, mode="graph")
    assert step.notes == [] and isinstance(run, GraphStep) and len(run._recorded) == 1
    assert_close(graph, eager)
    for ours, theirs in zip(said, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_random_numbers_differ_from_replay_to_replay(phase: Callable[..., Phase]) -> None:
    net = nn.Linear(192, 4)
    drawn = phase(net, lr=1e-6, loss=lambda batch: {"loss": net.weight.sum() * torch.rand((), device=CUDA)})
    _, said, step, _ = trained(drawn, [16] * 8, mode="graph")
    values = [metrics["toy.loss"] for metrics in said]
    assert step.notes == [] and len(set(values)) == len(values)


def test_partial_batches_run_eagerly_and_shape_changes_are_captured_anew() -> None:
    sizes = [16, 16, 16, 6, 16, 16, 8, 8, 8]
    eager, _, _, _ = trained(phase_of(0.5), sizes, mode="eager")
    graph, _, step, _ = trained(phase_of(0.5), sizes, mode="graph")
    assert step.notes == []
    assert_close(graph, eager)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_branches_on_streams_train_what_branches_in_a_row_train(mode: str) -> None:
    phase = phase_of(0.0)
    sections = phase.frozen[0].sections
    pairs = zip(phase.branches, sections, strict=True)
    forked = replace(phase, branches=tuple(replace(branch, needs=section) for branch, section in pairs))
    eager, _, _, _ = trained(phase_of(0.0), [16] * 12, mode="eager")
    ours, _, step, _ = trained(forked, [16] * 12, mode=mode, branches="parallel")
    assert step.notes == []
    assert_close(ours, eager)


def test_an_op_that_synchronises_leaves_it_to_eager_with_one_line(phase: Callable[..., Phase]) -> None:
    net = nn.Linear(192, 4)

    def loss(batch: Batch) -> Any:
        value = net(batch.images.flatten(1)).square().mean()
        return {"loss": value * min(value.item(), 1.0)}

    _, said, step, _ = trained(phase(net, loss=loss), [16] * 6, mode="graph")
    (note,) = step.notes
    assert note.startswith("play: the step is not captured:")
    assert said[-1]["toy.loss"] < said[0]["toy.loss"]


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"ema": 0.9}, {"precision": "bf16"}])
def test_parts_averages_and_bf16_can_be_captured(options: dict[str, Any]) -> None:
    _, _, step, run = trained(phase_of(0.5, clip=1.0), [16] * 6, mode="graph", **options)
    assert step.notes == [] and isinstance(run, GraphStep) and len(run._recorded) == 1
