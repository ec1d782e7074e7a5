from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import litfast
from litfast.data.resident import ResidentLoader
from litfast.methods import ban, chain, check_chain, kd, lit
from litfast.models import SectionedModel, create
from litfast.models.inference import Inference
from litfast.phase import Schedule

SCHEDULE = Schedule(epochs=2, lr=0.05)
DEPTHS = ("resnet20", "resnet14", "resnet8", "resnet8")
PHASES = {
    lit: {"sections": SCHEDULE, "finetune": SCHEDULE},
    kd: {"distill": SCHEDULE},
    ban: {"distill": SCHEDULE},
}
State = dict[str, Tensor]


class Links:
    """A teacher and its three students, the same whenever they are made."""

    def __init__(self, make: Callable[[str, int], SectionedModel], names: tuple[str, ...] = DEPTHS) -> None:
        self.teacher, *self.students = (make(name, seed) for seed, name in enumerate(names))

    def phases(self, method: Any = lit, **options: Any) -> Any:
        return chain(method, self.teacher, self.students, **PHASES[method], **options)

    def states(self) -> list[State]:
        return [state(model) for model in (self.teacher, *self.students)]


def state(model: SectionedModel) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(ours: State, theirs: State) -> bool:
    return all(torch.equal(value, ours[key]) for key, value in theirs.items())


@pytest.fixture
def links(make: Callable[[str, int], SectionedModel]) -> Callable[..., Links]:
    return lambda *names: Links(make, *names)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (lit, ["sections-1", "finetune-1", "sections-2", "finetune-2", "sections-3", "finetune-3"]),
        (kd, ["distill-1", "distill-2", "distill-3"]),
        (ban, ["distill-1", "distill-2", "distill-3"]),
    ],
)
def test_each_student_is_taught_by_the_one_before_it(
    method: Any, names: list[str], links: Callable[..., Links]
) -> None:
    made = links()
    phases = list(made.phases(method))
    assert [phase.name for phase in phases] == names
    each = len(phases) // 3
    models = [made.teacher, *made.students]
    for link in range(3):
        for phase in phases[link * each : (link + 1) * each]:
            assert phase.model is models[link + 1] and phase.frozen == (models[link],)


def test_one_link_is_the_method_itself(
    teacher: SectionedModel, student: SectionedModel, data: ResidentLoader, links: Callable[..., Links]
) -> None:
    chained, plain = links(("resnet14", "resnet8")), links(("resnet14", "resnet8"))
    reports = list(litfast.train(chained.phases(), data))
    assert {report.phase for report in reports} == {"sections", "finetune"}
    for _ in litfast.train(lit(plain.teacher, plain.students[0], **PHASES[lit]), data):
        pass
    assert same(*(made.states()[1] for made in (chained, plain)))


def test_a_link_begins_when_the_one_before_it_is_trained_and_leaves_it_as_it_was(
    links: Callable[..., Links], data: ResidentLoader
) -> None:
    made = links()
    ends: dict[str, list[State]] = {"start": made.states()}
    for report in litfast.train(made.phases(beta=0.0), data):
        if report.kind == "phase":
            ends[report.phase] = made.states()
    first, second, last = ends["finetune-1"], ends["finetune-2"], ends["finetune-3"]
    assert same(second[1], first[1]) and same(last[1], first[1]) and same(last[2], second[2])
    assert same(last[0], ends["start"][0])
    assert not same(second[2], ends["start"][2]) and not same(last[3], ends["start"][3])
    for taught_by, student in (
        (first[1], second[2]),
        (second[2], last[3]),
    ):  # ends copied from the trained one
        stem = [key for key in student if key.startswith(("conv1", "bn1", "linear"))]
        assert stem and all(torch.equal(student[key], taught_by[key]) for key in stem)


@pytest.mark.parametrize("method", [lit, ban])
@pytest.mark.parametrize("stop", ["sections-2 distill-2", "finetune-2 distill-2"])
def test_a_run_interrupted_within_link_2_ends_bit_identical(
    method: Any, stop: str, links: Callable[..., Links], data: ResidentLoader, tmp_path: Path
) -> None:
    options = {"noise": 0.1} if method is lit else {"variant": "dkpp"}
    whole, last = links(), links()
    for _ in litfast.train(whole.phases(method, **options), data, out=tmp_path / "whole"):
        pass
    reports = litfast.train(links().phases(method, **options), data, out=tmp_path / "parts")
    for report in reports:
        if report.phase in stop.split() and (report.kind, report.epoch, report.step) == ("step", 1, 2):
            break
    reports.close()  # type: ignore[attr-defined]
    rest = list(litfast.train(last.phases(method, **options), data, out=tmp_path / "parts", resume=True))
    assert [report.phase for report in rest if report.restored] == [
        name
        for name in ("sections-1", "finetune-1", "sections-2", "distill-1")
        if name in _before(method, stop)
    ]
    assert all(same(*states) for states in zip(last.states(), whole.states(), strict=True))


def _before(method: Any, stop: str) -> list[str]:
    """The phases that were finished when the run stopped in `stop`."""
    if method is ban:
        return ["distill-1"]
    finished = ["sections-1", "finetune-1"]
    return finished if stop.startswith("sections") else [*finished, "sections-2"]


def test_generations_of_one_depth(links: Callable[..., Links], data: ResidentLoader) -> None:
    made = links(("resnet8",) * 4)
    start = made.states()
    for _ in litfast.train(made.phases(ban), data):
        pass
    assert same(made.states()[0], start[0])
    assert not any(same(*states) for states in zip(made.states()[1:], start[1:], strict=True))


def test_the_observer_of_a_link_is_made_of_its_own_trained_teacher(
    links: Callable[..., Links], data: ResidentLoader
) -> None:
    observed, plain = links(), links()
    made: list[tuple[SectionedModel, State]] = []

    def observe(model: SectionedModel) -> Inference:
        made.append((model, state(model)))
        return Inference(model)

    for _ in litfast.train(observed.phases(kd, observe=observe), data):
        pass
    for _ in litfast.train(plain.phases(kd), data):
        pass
    assert [model for model, _ in made] == [observed.teacher, *observed.students[:2]]
    assert all(same(state(model), before) for model, before in made)
    for ours, theirs in zip(observed.states(), plain.states(), strict=True):
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-6, atol=1e-8)


def test_no_student_and_one_model_twice_are_refused(teacher: SectionedModel, student: SectionedModel) -> None:
    for students in ([], [student, student], [teacher]):
        with pytest.raises(
            ValueError, match="chain: students must be at least one model, each another than the rest, got"
        ):
            next(chain(kd, teacher, students, distill=SCHEDULE))


def test_models_that_do_not_pair_up_are_told_by_their_link(
    teacher: SectionedModel, student: SectionedModel
) -> None:
    other = create("resnet8", classes=5).double()
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    check_chain(teacher, [student, create("resnet8", classes=4).double()], x)
    with pytest.raises(
        ValueError,
        match="check_chain: in link 2 of 2, student must have the teacher's 4 classes, got 5; create both",
    ):
        check_chain(teacher, [student, other], x)
    with pytest.raises(ValueError, match="check_pair: student must have the teacher's 4 classes, got 5"):
        check_chain(teacher, [other], x)
