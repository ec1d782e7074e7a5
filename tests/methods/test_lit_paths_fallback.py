"""Where one pass would not be two: any model, noise, a stem of its own."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from litfast.data.loader import Batch
from litfast.methods import _paths, lit
from litfast.models import SectionedModel, sectioned
from litfast.models.inference import Inference

from .conftest import PHASES, Calls, Check, Ready, Seen

KD = {"alpha": 0.3, "tau": 4.0}


class Net(nn.Module):
    """A perceptron of three sections; `extra` stands inside of each."""

    def __init__(self, extra: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
        for name in ("a", "b", "c"):
            norm = nn.BatchNorm1d(6, momentum=0.3)
            self.add_module(name, nn.Sequential(nn.Linear(6, 6), norm, extra(), nn.ReLU()))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.c(self.b(self.a(self.stem(x)))))
        return logits


class Functional(nn.Module):
    """Dropout that no module shows."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.3, training=self.training)


class Coupled(nn.Module):
    """Every sample's output depends on the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.abs().amax(0)


class Scale(nn.Module):
    """A buffer of its own that each pass in train mode moves, and that the output reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.scale = self.scale * 1.5
        return x * self.scale


EXTRAS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    # what stands in a section, and how often each section then runs: with and without a twin batch
    "nothing": (nn.Identity, {"once": 1, "twin": 1}),
    "a norm of each sample": (lambda: nn.LayerNorm(6), {"once": 1, "twin": 1}),
    "a norm that tracks nothing": (
        lambda: nn.BatchNorm1d(6, track_running_stats=False),
        {"once": 1, "twin": 1},
    ),
    "dropout": (lambda: nn.Dropout(0.3), {"once": 2, "twin": 2}),
    "functional dropout": (Functional, {"once": 2, "twin": 2}),
    "a cumulative average": (lambda: nn.BatchNorm1d(6, momentum=None), {"once": 2, "twin": 2}),
    "a coupled batch": (Coupled, {"once": 1, "twin": 2}),
    "a buffer": (Scale, {"once": 2, "twin": 2}),
}


def pair(extra: Callable[[], nn.Module]) -> tuple[SectionedModel, SectionedModel, Batch]:
    torch.manual_seed(3)
    teacher, student = (sectioned(Net(extra).double(), ["a", "b", "c"]) for _ in range(2))
    return teacher.eval(), student, Batch(torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 4)


@pytest.mark.parametrize("extra", EXTRAS)
def test_any_model_is_served_and_runs_twice_where_once_would_differ(
    extra: str, twin: bool, ready: Ready, seen: Seen, calls: Calls, like_two_passes: Check
) -> None:
    module, runs = EXTRAS[extra]
    teacher, student, batch = pair(module)
    phase = ready(lit(teacher, student, **PHASES, **KD))
    observation, copy = seen(phase, batch), deepcopy(student)
    like_two_passes(phase, copy, observation, **KD, beta=0.75, bn_stats="both")
    counted = calls(student, ["a", "b", "c"])
    phase.branches[0].loss(observation)
    later = runs["twin"] if twin else 2
    assert counted == {"a": runs["once"], "b": later, "c": later}


def test_noise_makes_every_section_run_twice(
    twin: bool, ready: Ready, seen: Seen, calls: Calls, like_two_passes: Check
) -> None:
    teacher, student, batch = pair(nn.Identity)
    phase = ready(lit(teacher, student, **PHASES, **KD, noise=0.2))
    observation, copy = seen(phase, batch), deepcopy(student)
    like_two_passes(phase, copy, observation, **KD, beta=0.75, bn_stats="both", noise=0.2)
    counted = calls(student, ["a", "b", "c"])
    phase.branches[0].loss(observation)
    assert counted == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("how", ["in train mode", "taking a gradient", "another's"])
def test_a_stem_that_is_not_the_teachers_runs_and_its_section_twice(
    how: str, ready: Ready, seen: Seen, calls: Calls, like_two_passes: Check
) -> None:
    teacher, student, batch = pair(nn.Identity)
    stem = student.model.get_submodule("stem")
    assert isinstance(stem, nn.Sequential)
    if how == "another's":  # of equal keys and shapes
        stem[1] = nn.Sigmoid()
    phase = ready(lit(teacher, student, **PHASES, **KD))
    if how == "in train mode":
        stem.train()
    if how == "taking a gradient":
        stem.requires_grad_()
    observation, copy = seen(phase, batch), deepcopy(student)
    like_two_passes(phase, copy, observation, **KD, beta=0.75, bn_stats="both")
    counted = calls(student, ["stem", "a"])
    phase.branches[0].loss(observation)
    assert counted == {"stem": 1, "a": 2}


def test_large_tensors_make_no_twin(
    monkeypatch: pytest.MonkeyPatch, ready: Ready, seen: Seen, calls: Calls
) -> None:
    monkeypatch.setattr(_paths, "TWIN_DEVICES", ("cpu",))
    monkeypatch.setattr(_paths, "TWIN_ELEMENTS", 8 * 6 - 1)
    teacher, student, batch = pair(nn.Identity)
    phase = ready(lit(teacher, student, **PHASES, **KD))
    observation = seen(phase, batch)
    counted = calls(student, ["b"])
    phase.branches[0].loss(observation)
    assert counted == {"b": 2}


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("beta", [0.0, 0.75])
def test_a_bf16_teacher_serves_a_fp32_step(
    beta: float,
    noise: float,
    twin: bool,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Check,
    plain_step: Check,
) -> None:
    """Sections read its IRs in the student's dtype; the losses read them as they are."""
    teacher, student = teacher.float(), student.float()
    observer = Inference(teacher, precision="bf16")
    phase = ready(
        lit(teacher, student, **PHASES, **KD, beta=beta, noise=noise, bn_stats="ir", observer=observer)
    )
    copy, batch = deepcopy(student), Batch(batch.images.float(), batch.target)
    observation = seen(phase, batch)
    assert {ir.dtype for ir in observation.irs} == {torch.bfloat16}
    wide = observation._replace(irs=[ir.float() for ir in observation.irs], logits=observation.logits.float())
    torch.manual_seed(0)
    _, expected, _ = plain_step(copy, wide, **KD, beta=beta, noise=noise, bn_stats="ir")
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}
    for branch in phase.branches:
        found |= {name: g for name, g in gradients(phase, observation, branch).items() if g is not None}
    assert set(found) == {name for name, g in expected.items() if g is not None}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
