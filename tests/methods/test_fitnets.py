from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine.step import Step
from litfast.methods import fitnets
from litfast.models import Input, SectionedModel, create
from litfast.phase import Phase, Schedule

SCHEDULE = Schedule(epochs=2, lr=0.002, optimizer="rmsprop", momentum=0.0, weight_decay=0.0)
OPTIONS: dict[str, Any] = {"hint": SCHEDULE, "distill": SCHEDULE, "input": Input((3, 8, 8))}
CPU = torch.device("cpu")

Ready = Callable[[Iterator[Phase]], Phase]
Seen = Callable[[Phase, Batch], Any]
Gradients = Callable[..., dict[str, Tensor | None]]


@pytest.fixture
def thin() -> SectionedModel:
    """A student deeper and thinner than the teacher, a ResNet-14: widths 4, 8 and 16."""
    torch.manual_seed(1)
    return create("resnet20", classes=4, width=4).double().eval()


@pytest.fixture
def second() -> Callable[..., Phase]:
    """The phase "distill", its predecessor left as it began."""

    def phase(*args: Any, **options: Any) -> Phase:
        phases = fitnets(*args, **OPTIONS, **options)
        next(phases)
        return next(phases)

    return phase


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """The model's children whose parameters or buffers are no longer the same, bit for bit."""
    now = model.state_dict()
    return {key.split(".")[0] for key in now if not torch.equal(now[key], before[key])}


def regressor_of(phase: Phase) -> nn.Module:
    (branch,) = phase.branches
    assert branch.state is not None
    return branch.state


def upto(model: SectionedModel, sections: int, x: Tensor) -> Tensor:
    x = torch.relu(model.model.bn1(model.model.conv1(x)))
    for layer in ("layer1", "layer2", "layer3")[:sections]:
        x = getattr(model.model, layer)(x)
    return x


@pytest.mark.parametrize(
    ("hint", "guided", "kernel"), [(2, 2, 1), (3, 2, 3), ("layer2", "layer1", 5), ("layer3", 3, 1)]
)
def test_the_hint_loss_is_half_the_squared_distance_in_value_and_gradient(
    hint: str | int,
    guided: str | int,
    kernel: int,
    teacher: SectionedModel,
    thin: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    copy = deepcopy(thin).train()
    phase = ready(fitnets(teacher, thin, **OPTIONS, hint_section=hint, guided_section=guided))
    joint, observation = regressor_of(phase), seen(phase, batch)
    conv = joint[0]  # type: ignore[index]
    assert conv.kernel_size == (kernel, kernel)
    places = {"layer1": 1, "layer2": 2, "layer3": 3}
    ours = gradients(phase, observation)
    own = [parameter.grad for parameter in joint.parameters()]
    goal = upto(teacher, places.get(str(hint), hint), batch.images).detach()  # type: ignore[call-overload]
    learned = upto(copy, places.get(str(guided), guided), batch.images)  # type: ignore[call-overload]
    predicted = torch.relu(nn.functional.conv2d(learned, conv.weight, conv.bias))
    loss = 0.5 * (goal - predicted).square().sum() / len(batch.images)
    params = [*copy.parameters(), conv.weight, conv.bias]
    theirs = torch.autograd.grad(loss, params, allow_unused=True)
    torch.testing.assert_close(
        phase.branches[0].loss(observation)["loss"], loss, rtol=1e-10, atol=0, check_dtype=True
    )
    torch.testing.assert_close([*ours.values(), *own], list(theirs), rtol=1e-8, atol=1e-10)
    beyond = [g for name, g in ours.items() if name.startswith(("linear", "layer3"))]
    assert guided not in (1, 2, "layer1") or all(gradient is None for gradient in beyond)


@pytest.mark.parametrize("factor", [4.0, 2.5, 1.0])
def test_the_second_loss_is_ce_plus_lambda_soft_ce_without_tau_squared(
    factor: float,
    teacher: SectionedModel,
    thin: SectionedModel,
    batch: Batch,
    second: Callable[..., Phase],
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    phase = ready(iter([second(teacher, thin)]))
    (branch,) = phase.branches
    branch.coefficients[0].set(factor)
    observation, copy = seen(phase, batch), deepcopy(thin)
    losses, ours = branch.loss(observation), gradients(phase, observation)
    logits, taught = copy(batch.images), teacher(batch.images).detach()
    hard = cross_entropy(logits, batch.target)
    soft = -(softmax(taught / 3, 1) * log_softmax(logits / 3, 1)).sum(1).mean()
    loss = hard + factor * soft
    theirs = torch.autograd.grad(loss, list(copy.parameters()))
    assert losses["loss"].dtype == torch.float64
    found = [losses[name] for name in ("loss", "hard", "soft")]
    torch.testing.assert_close(found, [loss, hard, soft], rtol=1e-10, atol=0)
    torch.testing.assert_close(list(ours.values()), list(theirs), rtol=1e-8, atol=1e-10)


def test_lambda_is_four_at_the_beginning_and_one_at_the_end(
    teacher: SectionedModel, thin: SectionedModel, batch: Batch, second: Callable[..., Phase], ready: Ready
) -> None:
    phase = ready(iter([second(teacher, thin)]))
    step = Step(phase, precision="fp32", device=CPU)
    (falling,) = phase.branches[0].coefficients
    assert falling.value.item() == 4.0
    for progress, value in ((0.0, 4.0), (0.5, 3.25), (1.0, 2.5), (2.0, 1.0)):
        step(batch, step=0, progress=progress)
        assert falling.value.item() == value
    step.set_lr(step.active, 1.0, 0.5)
    assert falling.value.item() == 1.25  # a trial's second step, which a frozen lambda would betray


def test_lambda_is_an_option(
    teacher: SectionedModel, thin: SectionedModel, second: Callable[..., Phase]
) -> None:
    (falling,) = second(teacher, thin, lambda_first=2.0, lambda_last=0.0).branches[0].coefficients
    assert [falling.at(progress) for progress in (0, 1, 2)] == [2.0, 1.0, 0.0]


def test_the_first_phase_moves_the_student_up_to_the_guided_section_and_no_more(
    teacher: SectionedModel, thin: SectionedModel, data: ResidentLoader
) -> None:
    before, taught = deepcopy(thin.state_dict()), deepcopy(teacher.state_dict())
    for report in litfast.train(fitnets(teacher, thin, **OPTIONS), data):
        assert not any(module.training for module in teacher.modules())
        if report.kind == "phase" and report.phase == "hint":
            assert changed(thin, before) == {"conv1", "bn1", "layer1", "layer2"}
    assert changed(thin, before) == {"conv1", "bn1", "layer1", "layer2", "layer3", "linear"}
    assert changed(teacher, taught) == set()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_regressor_learns_and_is_in_no_checkpoint_of_the_students(
    teacher: SectionedModel, thin: SectionedModel, data: ResidentLoader, tmp_path: Path
) -> None:
    keys, moved = set(thin.state_dict()), []

    def watched() -> Iterator[Phase]:
        phases = fitnets(teacher, thin, **OPTIONS)
        first = next(phases)
        joint = regressor_of(first)
        before = deepcopy(joint.state_dict())
        yield first
        moved.extend(not torch.equal(value, before[key]) for key, value in joint.state_dict().items())
        assert not any(parameter.grad is not None for parameter in joint.parameters())
        yield from phases

    for _ in litfast.train(watched(), data, out=tmp_path):
        pass
    assert moved == [True, True]
    ends = sorted((tmp_path / "checkpoints").glob("*.pt"))
    assert [path.name for path in ends] == ["0-hint.pt", "1-distill.pt"]
    for path in ends:
        state = torch.load(path, weights_only=True)
        assert set(state) == {"progress", "model", "journal"} and set(state["model"]) == keys
    assert set(thin.state_dict()) == keys


def test_a_pair_of_equal_shapes_has_no_regressor(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(fitnets(teacher, student, **OPTIONS))
    (branch,) = phase.branches
    assert not list(regressor_of(phase).parameters())
    assert {id(p) for p in branch.params} < {id(p) for p in student.parameters()}
    observation = seen(phase, batch)
    gap = upto(student, 2, batch.images) - observation.irs[2]
    expected = 0.5 * gap.square().sum() / len(batch.images)
    torch.testing.assert_close(branch.loss(observation)["loss"], expected, rtol=1e-10, atol=0)


def test_only_a_regressor_asks_for_the_hints_non_linearity() -> None:
    class Cumulative(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).cumsum(1)

    def net(width: int) -> SectionedModel:
        layers = {"first": Cumulative(nn.Conv2d(3, width, 3)), "pool": nn.AdaptiveAvgPool2d(1)}
        rest = {"flat": nn.Flatten(), "head": nn.Linear(width, 4)}
        return litfast.sectioned(nn.Sequential(OrderedDict(layers | rest)), ["first"])

    assert next(fitnets(net(2), net(2), **OPTIONS)).name == "hint"
    with pytest.raises(ValueError, match=r"^nonlinearity: the end of the hint section must .* got cumsum"):
        next(fitnets(net(3), net(2), **OPTIONS))
    assert next(fitnets(net(3), net(2), **OPTIONS, nonlinearity="linear")).name == "hint"


def test_a_student_that_gives_the_hint_has_no_loss(
    teacher: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(fitnets(teacher, deepcopy(teacher), **OPTIONS))
    phase.model.eval()
    assert phase.branches[0].loss(seen(phase, batch))["loss"].item() == 0


def test_a_maxout_teacher_hints_a_fitnet_of_another_depth() -> None:
    torch.manual_seed(0)
    wide, deep = create("maxout", widths=[[6], [8], [8]]), create("fitnet1", widths=[[2, 2], [3, 3, 3], [4]])
    phase = next(fitnets(wide, deep, **OPTIONS))
    conv, maximum = regressor_of(phase)  # type: ignore[misc]
    assert conv.weight.shape == (16, 3, 1, 1) and maximum.pieces == 2
    other = next(fitnets(create("resnet8", classes=10), deep, **OPTIONS, guided_section=1))
    assert regressor_of(other)[0].weight.shape == (32, 2, 1, 1)  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hint_section": 1}, r"fitnets: guided section 'layer2' must be at least as large as the hint .*"),
        ({"hint_section": "layer4"}, r"fitnets: hint_section must be one of layer1, .* got 'layer4'; did .*"),
        ({"guided_section": 4}, "fitnets: guided_section must be from 1 to 3, got 4"),
        ({"guided_section": 0}, "fitnets: guided_section must be from 1 to 3, got 0"),
        ({"lambda_first": -1.0}, "fitnets: lambda_first must be 0 or more and finite, got -1.0"),
        ({"lambda_last": float("nan")}, "fitnets: lambda_last must be 0 or more and finite, got nan"),
        ({"nonlinearity": "rlu"}, r"nonlinearity: name must be one of elu, .* got 'rlu'; did you .*"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_training(
    options: dict[str, Any], message: str, teacher: SectionedModel, thin: SectionedModel
) -> None:
    with pytest.raises(ValueError, match=rf"^{message}$"):
        next(fitnets(teacher, thin, **OPTIONS, **options))
