"""Each option of LIT by what it changes, and what each one refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.methods import lit
from litfast.methods._kd import Seen as Observation
from litfast.models import SectionedModel
from litfast.phase import Phase, Schedule

SCHEDULE = Schedule(epochs=1, lr=0.1)
PHASES = {"sections": SCHEDULE, "finetune": SCHEDULE}

Make = Callable[[str, int], SectionedModel]
Ready = Callable[[Iterator[Phase]], Phase]
Seen = Callable[[Phase, Batch], Observation]
Gradients = Callable[..., dict[str, Tensor | None]]


def changed(model: SectionedModel, before: dict[str, Tensor]) -> set[str]:
    """The model's children whose parameters or buffers are no longer the same, bit for bit."""
    return {
        key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }


def run(phases: Iterator[Phase], data: ResidentLoader, stop_after: str = "") -> None:
    for report in litfast.train(phases, data):
        if report.kind == "phase" and report.phase == stop_after:
            break


@pytest.mark.parametrize("beta", [0.0, 0.75])
def test_after_the_sections_stem_and_head_are_bit_equal_to_the_teachers(
    beta: float, teacher: SectionedModel, student: SectionedModel, data: ResidentLoader
) -> None:
    start = deepcopy(student.state_dict())
    run(lit(teacher, student, **PHASES, beta=beta), data, stop_after="sections")
    theirs, ours = teacher.state_dict(), student.state_dict()
    ends = [key for key in ours if key.startswith(("conv1.", "bn1.", "linear."))]
    assert {"bn1.running_var", "bn1.num_batches_tracked", "linear.bias"} < set(ends)
    assert all(torch.equal(ours[key], theirs[key]) for key in ends)
    assert changed(student, start) == {"conv1", "bn1", "linear", "layer1", "layer2", "layer3"}


@pytest.mark.parametrize(
    "options", [{"beta": 0.0}, {"beta": 0.75, "unfreeze": "all", "student_init": "teacher"}]
)
def test_the_teacher_is_bit_identical_after_the_whole_training(
    options: dict[str, Any], teacher: SectionedModel, student: SectionedModel, data: ResidentLoader
) -> None:
    before = deepcopy(teacher.state_dict())
    run(lit(teacher, student, **PHASES, **options), data)
    assert changed(teacher, before) == set()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_unfreeze_says_what_the_finetuning_moves(
    teacher: SectionedModel, student: SectionedModel, data: ResidentLoader
) -> None:
    moved = {}
    for unfreeze in ("sections", "all"):
        phases = lit(teacher, deepcopy(student), **PHASES, unfreeze=unfreeze)
        model = next(phases).model
        before = deepcopy(model.state_dict())
        run(phases, data)
        moved[unfreeze] = changed(model, before)
    assert moved["sections"] == {"layer1", "layer2", "layer3"}
    assert moved["all"] == {"conv1", "bn1", "layer1", "layer2", "layer3", "linear"}


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_subset_of_the_sections_trains_and_the_others_keep_their_start(
    beta: float, teacher: SectionedModel, student: SectionedModel, data: ResidentLoader
) -> None:
    phases = lit(teacher, student, **PHASES, beta=beta, train_sections=["layer2"])
    first = next(phases)
    before = deepcopy(student.state_dict())
    run(iter([first, *phases]), data)
    assert changed(student, before) == {"layer2"}


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_terms_and_weights_of_a_subset_follow_its_names(
    beta: float, teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    names, weights = ["layer3", "layer1"], [10.0, 0.5]
    phase = ready(lit(teacher, student, **PHASES, beta=beta, train_sections=names, weights=weights))
    observation = seen(phase, batch)
    losses = [branch.loss(observation) for branch in phase.branches]
    third = mse_loss(student.sections[2](observation.irs[2]), observation.irs[3])
    first = mse_loss(student.sections[0](observation.irs[0]), observation.irs[1])
    if beta == 0:
        assert [branch.name for branch in phase.branches] == names
        torch.testing.assert_close([loss["loss"] for loss in losses], [10 * third, 0.5 * first])
        torch.testing.assert_close([loss["ir"] for loss in losses], [third.detach(), first.detach()])
    else:
        torch.testing.assert_close([losses[0][f"ir.{n}"] for n in names], [third.detach(), first.detach()])
        distilled = 0.95 * losses[0]["hard"] + 0.05 * losses[0]["soft"]
        torch.testing.assert_close(losses[0]["loss"], 0.5 * (distilled + 10 * third + 0.5 * first))


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_ir_input_student_feeds_every_section_the_students_own_ir(
    beta: float,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    def phase(weights: list[float]) -> Phase:
        options = {"beta": beta, "ir_input": "student", "weights": weights}
        return ready(lit(teacher, student, **PHASES, **options))

    one = phase([1.0, 1.0, 1.0])
    observation = seen(one, batch)
    own, _ = student.observe(batch.images)
    losses = one.branches[0].loss(observation)
    for i in (1, 2, 3):
        expected = mse_loss(own[i], observation.irs[i]).detach()
        torch.testing.assert_close(losses[f"ir.layer{i}"], expected, rtol=1e-12, atol=0)

    plain, third = gradients(one, observation), gradients(phase([1.0, 1.0, 2.0]), observation)
    first_section = "layer1.0.conv1.weight"
    assert not torch.allclose(plain[first_section], third[first_section])  # the third term reaches section 1


def test_noise_is_added_to_the_ir_input_alone_and_drawn_from_the_global_generator(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(lit(teacher, student, **PHASES, beta=0.0, noise=0.3))
    observation = seen(phase, batch)
    torch.manual_seed(5)
    ours = [branch.loss(observation)["loss"] for branch in phase.branches]
    torch.manual_seed(5)
    for i, section in enumerate(student.sections):
        noisy = observation.irs[i] + 0.3 * torch.randn_like(observation.irs[i])
        torch.testing.assert_close(
            ours[i], mse_loss(section(noisy), observation.irs[i + 1]), rtol=1e-12, atol=0
        )
    again = [branch.loss(observation)["loss"] for branch in phase.branches]
    assert all(first.item() != second.item() for first, second in zip(ours, again, strict=True))


def test_student_init_teacher_copies_the_first_the_middle_and_the_last_block(make: Make) -> None:
    teacher, student = make("resnet56", 0), make("resnet20", 1)
    next(lit(teacher, student, **PHASES, student_init="teacher"))
    for section in ("layer1", "layer2", "layer3"):
        theirs, ours = (
            dict(model.model.get_submodule(section).named_children()) for model in (teacher, student)
        )
        for place, source in zip(("0", "1", "2"), ("0", "4", "8"), strict=True):
            copied = ours[place].state_dict()
            assert all(torch.equal(copied[key], value) for key, value in theirs[source].state_dict().items())


def test_student_init_random_leaves_the_sections_as_they_came(
    teacher: SectionedModel, student: SectionedModel
) -> None:
    before = deepcopy(student.state_dict())
    next(lit(teacher, student, **PHASES))
    assert changed(student, before) == {"conv1", "bn1", "linear"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"student_init": "techer"},
            "lit: student_init must be one of .* got 'techer'; did you mean 'teacher'?",
        ),
        ({"ir_input": "both"}, "lit: ir_input must be one of student, teacher, got 'both'"),
        ({"bn_stats": "irs"}, "lit: bn_stats must be one of both, ir, own, got 'irs'; did you mean 'ir'?"),
        ({"unfreeze": "none"}, "lit: unfreeze must be one of all, sections, got 'none'"),
        ({"noise": -0.1}, "lit: noise must be 0 or more, got -0.1"),
        ({"noise": 0.1, "ir_input": "student"}, "lit: noise must be 0 with ir_input 'student'"),
        ({"train_sections": ["layer4"]}, "lit: train_sections must be one of layer1, .* got 'layer4'"),
        ({"train_sections": []}, "lit: train_sections must name at least one section, each once, got []"),
        (
            {"train_sections": ["layer1", "layer1"]},
            "lit: train_sections must name at least one section, each once",
        ),
        ({"weights": [1.0]}, r"lit: weights must hold one number a trained section \(3\), got \[1.0\]"),
        ({"weights": [1.0] * 4, "beta": 0.0}, r"lit: weights must hold one number a trained section \(3\)"),
    ],
)
def test_a_wrong_option_is_refused_before_the_first_phase(
    options: dict[str, Any], message: str, teacher: SectionedModel, student: SectionedModel
) -> None:
    before = deepcopy(student.state_dict())
    with pytest.raises(ValueError, match=message.replace("?", r"\?").replace("[]", r"\[\]")):
        next(lit(teacher, student, **PHASES, **options))
    assert changed(student, before) == set()


def test_models_that_do_not_pair_up_are_refused_before_the_first_phase(
    make: Make, teacher: SectionedModel
) -> None:
    torch.manual_seed(0)
    stranger = litfast.create("resnet8", classes=5).double()
    with pytest.raises(
        ValueError, match=r"copy_ends: student head must have the teacher's keys and shapes, got "
    ):
        next(lit(teacher, stranger, **PHASES))
