from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, one_hot, softmax

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.methods import ban
from litfast.methods._ban import confidence_weights, permuted
from litfast.models import SectionedModel
from litfast.models.inference import Inference
from litfast.phase import Phase, Schedule

SCHEDULE = Schedule(epochs=2, lr=0.1)
VARIANTS = ("ban", "ban+l", "cwtm", "dkpp")

Ready = Callable[[Iterator[Phase]], Phase]
Seen = Callable[[Phase, Batch], Any]
Gradients = Callable[..., dict[str, Tensor | None]]


class Sure:
    """An observer whose logits are those of one class alone, whatever the images."""

    def __init__(self, teacher: SectionedModel, target: Tensor) -> None:
        self.teacher, self.sections = teacher, teacher.sections
        self.logits = 1000 * one_hot(target, 4).double()

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.teacher.observe(x)[0], self.logits


def by_hand(variant: str, z: Tensor, taught: Tensor, target: Tensor) -> Tensor:
    """The definition, sample by sample, over those that are no padding."""
    kept = [s for s in range(len(target)) if target[s] >= 0]
    p, log_q = softmax(taught, 1), log_softmax(z, 1)
    soft = [-sum(p[s, k] * log_q[s, k] for k in range(4)) for s in kept]
    hard = [-log_q[s, target[s]] for s in kept]
    match variant:
        case "ban+l":
            return sum(soft) / len(kept) + sum(hard) / len(kept)
        case "cwtm":
            confidence = [p[s].max() for s in kept]
            return sum(c * h for c, h in zip(confidence, hard, strict=True)) / sum(confidence)
    return sum(soft) / len(kept)


@pytest.mark.parametrize("padding", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradient_are_the_definition(
    variant: str,
    padding: bool,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    target = torch.where(torch.arange(6) < 4, batch.target, -100) if padding else batch.target
    phase = ready(ban(teacher, student, distill=SCHEDULE, variant=variant))
    observation = seen(phase, Batch(batch.images, target))
    ours = gradients(phase, observation)
    losses = phase.branches[0].loss(observation)
    logits = student(batch.images)
    loss = by_hand(variant, logits, observation.logits, target)
    torch.testing.assert_close(losses["loss"], loss, rtol=1e-12, atol=1e-12)
    theirs = torch.autograd.grad(loss, list(student.parameters()))
    torch.testing.assert_close(list(ours.values()), list(theirs), rtol=1e-10, atol=1e-12)
    hard = cross_entropy(logits, target, ignore_index=-100)
    torch.testing.assert_close(losses["hard"], hard.detach(), rtol=1e-12, atol=0)
    assert losses["correct"].item() == (logits.argmax(1) == target).sum().item()
    assert [name for name, value in losses.items() if value.requires_grad] == ["loss"]


@pytest.mark.parametrize(("variant", "times"), [("ban", 1), ("ban+l", 2), ("cwtm", 1), ("dkpp", 1)])
def test_a_teacher_that_is_sure_of_the_labels_is_plain_cross_entropy(
    variant: str,
    times: int,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    observer = Sure(teacher, batch.target)
    phase = ready(ban(teacher, student, distill=SCHEDULE, variant=variant, observer=observer))
    observation = seen(phase, batch)
    ours = gradients(phase, observation)
    loss = times * cross_entropy(student(batch.images), batch.target)
    torch.testing.assert_close(phase.branches[0].loss(observation)["loss"], loss, rtol=1e-12, atol=0)
    theirs = torch.autograd.grad(loss, list(student.parameters()))
    torch.testing.assert_close(list(ours.values()), list(theirs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_confidence_weights_sum_to_one_and_follow_the_teachers_largest_probability(
    dtype: torch.dtype,
) -> None:
    logits = (5 * torch.randn(41, 10, generator=torch.Generator().manual_seed(0))).to(dtype)
    target = torch.zeros(41, dtype=torch.int64)
    target[7] = -100
    weights = confidence_weights(logits, target)
    confidence = softmax(logits.double(), 1).amax(1)
    confidence[7] = 0
    torch.testing.assert_close(weights.sum().item(), 1.0, rtol=1e-6, atol=0)
    torch.testing.assert_close(weights.double(), confidence / confidence.sum(), rtol=1e-5, atol=0)
    assert weights[7] == 0


def test_a_batch_of_padding_alone_has_no_loss_and_no_gradient(
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    nothing = Batch(batch.images, torch.full_like(batch.target, -100))
    for variant in VARIANTS:
        phase = ready(ban(teacher, student, distill=SCHEDULE, variant=variant))
        observation = seen(phase, nothing)
        assert phase.branches[0].loss(observation)["loss"] == 0
        assert not any(gradient.any() for gradient in gradients(phase, observation).values())


@pytest.mark.parametrize("shape", [(128, 10), (3, 5, 41), (7, 2), (4, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_permuting_keeps_the_argmax_and_the_multiset(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.manual_seed(1)
    found = permuted(logits)
    assert found.dtype == dtype
    assert torch.equal(found.sort(-1).values, logits.sort(-1).values)
    places = logits.argmax(-1, keepdim=True)
    assert torch.equal(found.gather(-1, places), logits.gather(-1, places))
    assert torch.equal(found.amax(-1), logits.amax(-1))


def test_every_order_of_the_others_is_equally_frequent_and_rows_are_drawn_one_by_one() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 9.0, 2.0, 3.0], dtype=torch.bfloat16).expand(24000, 4)
    orders = Counter(tuple(row) for row in permuted(logits)[:, [0, 2, 3]].tolist())
    assert len(orders) == 6
    assert all(abs(count - 4000) < 5 * (4000 * 5 / 6) ** 0.5 for count in orders.values())


def test_every_batch_is_permuted_anew_and_a_seed_repeats_it(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(ban(teacher, student, distill=SCHEDULE, variant="dkpp"))
    torch.manual_seed(3)
    first, second = (seen(phase, batch).logits for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(seen(phase, batch).logits, first)
    assert not torch.equal(first, second)
    assert torch.equal(first.argmax(1), teacher(batch.images).argmax(1))


def test_an_inference_program_may_run_the_teacher(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    for variant in VARIANTS:
        both = [
            ready(ban(teacher, student, distill=SCHEDULE, variant=variant, observer=observer))
            for observer in (None, Inference(teacher))
        ]
        losses = []
        for phase in both:
            torch.manual_seed(0)
            losses.append(phase.branches[0].loss(seen(phase, batch))["loss"])
        torch.testing.assert_close(*losses, rtol=1e-10, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_of_the_student_trains_and_the_teacher_is_bit_identical(
    variant: str, teacher: SectionedModel, student: SectionedModel, data: ResidentLoader
) -> None:
    before = deepcopy(teacher.state_dict()), deepcopy(student.state_dict())
    for _ in litfast.train(ban(teacher, student, distill=SCHEDULE, variant=variant), data):
        assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(value, before[0][key]) for key, value in teacher.state_dict().items())
    assert not any(torch.equal(value, before[1][key]) for key, value in student.state_dict().items())


def test_an_unknown_variant_names_the_nearest(teacher: SectionedModel, student: SectionedModel) -> None:
    with pytest.raises(
        ValueError, match=r"ban: variant must be one of ban, .* got 'dkp'; did you mean 'dkpp'"
    ):
        next(ban(teacher, student, distill=SCHEDULE, variant="dkp"))
