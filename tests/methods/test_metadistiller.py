"""MetaDistiller: the losses as written, the meta-gradient beside finite differences, what a run leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, log_softmax, softmax

from litfast.data.loader import Batch
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.methods import metadistiller
from litfast.models import Input, SectionedModel, create, sectioned
from litfast.models.auxiliary import SelfTaught
from litfast.phase import Phase, Schedule

CPU = torch.device("cpu")
SCHEDULE = Schedule(epochs=2, lr=0.05)
IMAGE = Input((3, 8, 8))
ETA, ALPHA, TAU, WEIGHTS = 0.2, 0.3, 2.0, (1.0, 0.5)
OPTIONS: dict[str, Any] = {"eta": ETA, "alpha": ALPHA, "tau": TAU, "weights": WEIGHTS, "width": 3}

Ready = Callable[[Iterator[Phase]], Phase]


def small(name: str = "resnet8") -> SectionedModel:
    torch.manual_seed(0)
    options = {"width": 4, "cardinality": 2} if name.startswith("resnext") else {}
    return create(name, classes=4, blocks=[1, 1, 1], **options).double()


def phase_of(student: SectionedModel, **options: Any) -> Phase:
    torch.manual_seed(1)
    return next(metadistiller(student, train=SCHEDULE, input=IMAGE, **{**OPTIONS, **options}))


def model_of(phase: Phase) -> SelfTaught:
    """The phase's model, its generator past its start, where only the last layers have a gradient."""
    assert isinstance(phase.model, SelfTaught)
    with torch.no_grad():
        for linear in phase.model.generator.linears:
            nn.init.normal_(linear.weight)  # type: ignore[arg-type]
            nn.init.normal_(linear.bias)  # type: ignore[arg-type]
    return phase.model


def taught(z: list[Tensor], q: list[Tensor], target: Tensor) -> Tensor:
    """L(theta, q), by hand."""
    total = cross_entropy(z[-1], target)
    for i, weight in enumerate(WEIGHTS):
        soft = -(softmax(q[i] / TAU, 1) * log_softmax(z[i] / TAU, 1)).sum(1).mean()
        total = total + weight * (ALPHA * cross_entropy(z[i], target) + (1 - ALPHA) * TAU**2 * soft)
    return total


def passed(model: SelfTaught, theta: dict[str, Tensor], images: Tensor) -> Any:
    """All exits at theta in train mode, on a copy of the buffers."""
    return functional_call(deepcopy(model.exits), theta, (images,))


def by_hand(model: SelfTaught, batch: Batch, *, reach: float | None) -> tuple[Tensor, list[Tensor]]:
    """L_out and its gradient as written; `reach` None: exact, by autograd on the mixed derivative."""
    a, b = (Batch(*half) for half in zip(*(tensor.chunk(2) for tensor in batch), strict=True))
    theta = {n: p.detach().clone().requires_grad_() for n, p in model.exits.named_parameters()}
    phi = list(model.generator.parameters())
    seen = passed(model, theta, a.images)
    q = model.generator([ir.detach() for ir in seen.irs], seen.logits[-1].detach())
    g = torch.autograd.grad(taught(seen.logits, q, a.target), list(theta.values()), create_graph=True)
    moved = {n: (p - ETA * s).detach().requires_grad_() for (n, p), s in zip(theta.items(), g, strict=True)}
    out = cross_entropy(passed(model, moved, b.images).logits[-1], b.target)
    v = torch.autograd.grad(out, list(moved.values()), allow_unused=True)  # heads have none
    v = tuple(torch.zeros_like(p) if s is None else s for s, p in zip(v, moved.values(), strict=True))
    if reach is None:
        mixed = sum((s * way).sum() for s, way in zip(g, v, strict=True))
        return out.detach(), [-ETA * d for d in torch.autograd.grad(mixed, phi)]
    norm = torch.cat([way.flatten() for way in v]).norm()
    far = {n: p.detach() + reach * way / norm for (n, p), way in zip(theta.items(), v, strict=True)}
    near = {n: p.detach() - reach * way / norm for (n, p), way in zip(theta.items(), v, strict=True)}
    ends = [taught(passed(model, end, a.images).logits, q, a.target) for end in (far, near)]
    slope = (ends[0] - ends[1]) / (2 * reach)
    return out.detach(), [-ETA * norm * d for d in torch.autograd.grad(slope, phi)]


def apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """|found - expected| / |expected|, each list as one vector."""
    f, e = (torch.cat([part.flatten() for part in parts]) for parts in (found, expected))
    return ((f - e).norm() / e.norm()).item()


@pytest.mark.parametrize("name", ["resnet8", "resnext20"])
def test_the_meta_gradient_is_that_of_central_differences(name: str, batch: Batch, ready: Ready) -> None:
    """Along a random direction in each parameter of the generator, in fp64: off by less than 1e-5."""
    phase = ready(iter([phase_of(small(name))]))
    phi = dict(model_of(phase).generator.named_parameters())
    loss = phase.branches[0].loss
    slopes = torch.autograd.grad(loss(batch)["loss"], list(phi.values()))
    found, expected = [], []
    for parameter, slope in zip(phi.values(), slopes, strict=True):
        direction, value = torch.randn_like(parameter), parameter.detach().clone()
        ends = []
        for way in (1e-4, -1e-4):
            with torch.no_grad():
                parameter.copy_(value + way * direction)
            ends.append(loss(batch)["loss"].detach())
        with torch.no_grad():
            parameter.copy_(value)
        found.append((slope * direction).sum())
        expected.append((ends[0] - ends[1]) / 2e-4)
    assert all(abs(value) > 1e-7 for value in expected)
    assert apart(found, expected) < 1e-5


def test_second_order_is_the_mixed_derivative_and_first_order_its_difference(
    batch: Batch, ready: Ready
) -> None:
    found, expected, values = {}, {}, set()
    for exact, reach in ((True, None), (False, 0.01)):
        phase = ready(iter([phase_of(small(), second_order=exact)]))
        torch.manual_seed(2)
        model = model_of(phase)
        loss = phase.branches[0].loss(batch)["loss"]
        found[exact] = list(torch.autograd.grad(loss, list(model.generator.parameters())))
        value, expected[exact] = by_hand(model, batch, reach=reach)
        torch.testing.assert_close(loss.detach(), value, rtol=1e-12, atol=0)
        values.add(round(loss.item(), 10))
        assert apart(found[exact], expected[exact]) < 1e-9
    assert len(values) == 1
    assert 1e-9 < apart(found[False], found[True]) < 0.1


def test_the_students_loss_is_the_formula_with_detached_targets(batch: Batch, ready: Ready) -> None:
    phase = ready(iter([phase_of(small())]))
    model = model_of(phase)
    theta = dict(model.exits.named_parameters())
    seen = passed(model, theta, batch.images)
    q = model.generator([ir.detach() for ir in seen.irs], seen.logits[-1].detach())
    total = taught(seen.logits, [target.detach() for target in q], batch.target)
    losses = phase.branches[1].loss(batch)
    torch.testing.assert_close(losses["loss"], total, rtol=1e-12, atol=0)
    ours = torch.autograd.grad(losses["loss"], list(theta.values()))
    theirs = torch.autograd.grad(total, list(theta.values()))
    assert apart(list(ours), list(theirs)) < 1e-10
    assert list(losses) == ["loss", "hard", "auxiliary.layer1", "auxiliary.layer2", "correct"]
    assert [name for name, value in losses.items() if value.requires_grad] == ["loss"]
    parts = losses["hard"] + losses["auxiliary.layer1"] + losses["auxiliary.layer2"]
    torch.testing.assert_close(losses["loss"].detach(), parts, rtol=1e-12, atol=0)
    assert losses["correct"].item() == (seen.logits[-1].argmax(1) == batch.target).sum().item()


@pytest.mark.parametrize("second_order", [True, False])
def test_the_generators_branch_leaves_the_network_as_it_is_and_the_students_the_generator(
    second_order: bool, batch: Batch
) -> None:
    phase = phase_of(small(), second_order=second_order)
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU)
        generator, student = phase.branches
        for branch, stays in ((generator, "exits."), (student, "generator.")):
            before = deepcopy(phase.model.state_dict())
            step.set_lr([branch], 0.0)
            step.compute(batch, [branch])
            moved = {k for k, v in phase.model.state_dict().items() if not torch.equal(v, before[k])}
            assert moved and not any(key.startswith(stays) for key in moved)
        assert any(key.endswith("running_mean") for key in moved)  # batch norm moves with the student


def test_alpha_one_leaves_nothing_to_teach(batch: Batch, ready: Ready) -> None:
    phase = ready(iter([phase_of(small(), alpha=1.0)]))
    phi = list(model_of(phase).generator.parameters())
    slopes = torch.autograd.grad(phase.branches[0].loss(batch)["loss"], phi)
    assert not any(slope.any() for slope in slopes)


def test_padding_counts_nowhere(batch: Batch, ready: Ready) -> None:
    phase = ready(iter([phase_of(small())]))
    nothing = Batch(batch.images, torch.full_like(batch.target, -100))
    assert [branch.loss(nothing)["loss"].item() for branch in phase.branches] == [0, 0]


def dropping() -> SectionedModel:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 1), nn.Sequential(nn.Conv2d(2, 2, 1), nn.Dropout())
            self.out = nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.b(self.a(x)).mean((2, 3)))

    return sectioned(Dropping().double(), ["a", "b"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"alpha": 1.5}, r"metadistiller: alpha must lie between 0 and 1, got 1.5"),
        ({"tau": 0.0}, r"metadistiller: tau must be positive and finite, got 0.0"),
        ({"eta": float("inf")}, r"metadistiller: eta must be positive and finite, got inf"),
        ({"every": 0}, r"metadistiller: every must be at least 1, got 0"),
        ({"width": 0}, r"metadistiller: width must be at least 1, got 0"),
        ({"weights": (1.0,)}, r"metadistiller: weights must hold one number .* \(2\), got \[1.0\]"),
        ({"weights": (1.0, -1.0)}, r"metadistiller: weights must hold .*, got \[1.0, -1.0\]"),
        ({"generator_lr": 0.0}, r"Schedule: lr must be positive and finite, got 0.0"),
    ],
)
def test_an_option_out_of_its_range_gets_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        phase_of(small(), **options)


def test_first_order_refuses_dropout_and_a_half_of_nothing_is_refused(batch: Batch) -> None:
    options = {"second_order": False, "weights": (1.0,)}
    with pytest.raises(ValueError, match=r"^metadistiller: second_order must be true for .*, got false$"):
        phase_of(dropping(), **options)
    phase = phase_of(dropping(), weights=(1.0,))
    one = Batch(*(tensor[:1] for tensor in batch))
    with pytest.raises(ValueError, match=r"^metadistiller: batch must hold 2 or more samples .*, got 1$"):
        phase.branches[0].loss(one)


def test_texts_are_refused_in_one_line() -> None:
    student = create("vdcnn9", classes=4, alphabet=5)
    with pytest.raises(ValueError, match=r"^auxiliary: student section .* must give feature maps \[B, C"):
        next(metadistiller(student, train=SCHEDULE, input=Input((64,), alphabet=5)))
