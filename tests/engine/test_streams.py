"""Branches on streams of their own, with streams and events that only write down what they were told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.data.loader import Batch
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.engine.streams import Forked, Serial
from litfast.methods import lit
from litfast.models import create
from litfast.models.inference import Inference
from litfast.phase import Branch, Losses, Phase, Schedule

CPU = torch.device("cpu")
BATCH = Batch(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))


class FakeCuda:
    """The five names of `torch.cuda` that streams use; `said` is what happened, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._made = 0
        self._current = _Stream("main", self)

    def Stream(self) -> _Stream:
        self._made += 1
        return _Stream(f"s{self._made}", self)

    def Event(self) -> _Event:
        return _Event()

    def current_stream(self) -> _Stream:
        return self._current

    @contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        before, self._current = self._current, stream
        yield
        self._current = before

    def note(self, what: str) -> None:
        self.said.append(f"{self._current.name}: {what}")


class _Stream:
    def __init__(self, name: str, cuda: FakeCuda) -> None:
        self.name = name
        self._cuda = cuda

    def wait_event(self, event: _Event) -> None:
        self._cuda.said.append(f"{self.name} waits for {event.after}")


class _Event:
    after = "nothing"

    def record(self, stream: _Stream) -> None:
        self.after = stream._cuda.said[-1] if stream._cuda.said else "the start"


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def sections(cuda: FakeCuda, *, early: bool, chained: bool = False) -> Phase:
    """A teacher of two sections and a branch for each; everything says what it does and where."""
    teacher = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    student = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    def observe(batch: Batch) -> list[Tensor]:
        irs = [batch.images]
        for i, section in enumerate(teacher):
            cuda.note(f"teacher {i}")
            irs.append(section(irs[-1]))
        cuda.note("head")
        return irs

    def branch(i: int) -> Branch:
        def loss(irs: list[Tensor]) -> Losses:
            cuda.note(f"branch {i}")
            return {"loss": (student[i](irs[i]) - irs[i + 1]).square().mean()}

        return Branch(
            name=f"b{i}",
            params=tuple(student[i].parameters()),
            loss=loss,
            schedule=Schedule(epochs=1, lr=0.1),
            needs=teacher[i] if early else None,
            after=("b0",) if chained and i else (),
        )

    return Phase(
        name="play",
        model=student,
        observe=observe,
        branches=(branch(0), branch(1)),
        trains=tuple(student),
        frozen=(teacher,),
    )


def said(cuda: FakeCuda, phase: Phase) -> list[str]:
    with prepared(phase, CPU):
        Step(phase, precision="fp32", device=CPU, streams=Forked(phase, cuda))(BATCH, step=0, progress=0.0)
    return cuda.said


OBSERVED = ["main: teacher 0", "main: teacher 1", "main: head"]


def test_branches_fork_when_all_is_observed_and_join_at_the_end(cuda: FakeCuda) -> None:
    assert said(cuda, sections(cuda, early=False)) == [
        *OBSERVED,
        "s1 waits for main: head",
        "s1: branch 0",
        "s2 waits for main: head",
        "s2: branch 1",
        "main waits for s1: branch 0",
        "main waits for s2: branch 1",
    ]


def test_a_branch_starts_after_the_teachers_section_that_it_needs(cuda: FakeCuda) -> None:
    waits = [line for line in said(cuda, sections(cuda, early=True)) if "waits" in line]
    assert waits[:2] == ["s1 waits for main: teacher 0", "s2 waits for main: teacher 1"]


def test_a_branch_after_another_waits_for_its_update(cuda: FakeCuda) -> None:
    lines = said(cuda, sections(cuda, early=True, chained=True))
    at = lines.index("s2 waits for s1: branch 0")
    assert lines.index("s1: branch 0") < at < lines.index("s2: branch 1")


def test_a_module_that_did_not_run_is_not_waited_for(cuda: FakeCuda) -> None:
    phase = sections(cuda, early=True)
    other = Phase(
        name="play",
        model=phase.model,
        observe=lambda batch: [batch.images] * 3,  # another program of the teacher
        branches=phase.branches,
        trains=phase.trains,
    )
    cuda.note("before")
    waits = [line for line in said(cuda, other) if "waits" in line]
    assert waits[:2] == ["s1 waits for main: before", "s2 waits for main: before"]


def test_no_hook_is_left_on_the_teacher(cuda: FakeCuda) -> None:
    phase = sections(cuda, early=True)
    said(cuda, phase)
    assert not any(module._forward_hooks for module in phase.frozen[0].modules())


@pytest.mark.parametrize("streams", [lambda phase: Forked(phase, FakeCuda()), lambda phase: Serial()])
def test_wherever_the_branches_run_the_step_is_the_same(streams: Callable[[Phase], Any]) -> None:
    def trained(streams: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        phase = sections(FakeCuda(), early=True)
        with prepared(phase, CPU):
            step = Step(phase, precision="fp32", device=CPU, streams=streams(phase))
            for at in range(3):
                step(BATCH, step=at, progress=0.0)
        return phase.model.state_dict()

    ours, plain = trained(streams), trained(lambda phase: None)
    assert all(torch.equal(value, plain[name]) for name, value in ours.items())


@pytest.mark.parametrize("program", [True, False], ids=["program", "as it is"])
@pytest.mark.parametrize(
    ("bn_stats", "awaited"),
    [("ir", ["section 0", "section 1", "section 2"]), ("both", ["section 2"] * 3)],
)
def test_a_section_of_lit_starts_when_its_teachers_has_run(
    cuda: FakeCuda, program: bool, bn_stats: str, awaited: list[str]
) -> None:
    teacher, student = (create(name, classes=4) for name in ("resnet14", "resnet8"))
    observer = Inference(teacher.eval()) if program else teacher
    schedule = Schedule(epochs=1, lr=0.1)
    options = {"beta": 0.0, "bn_stats": bn_stats, "observer": observer}
    phase = next(lit(teacher, student, sections=schedule, finetune=schedule, **options))
    for i, section in enumerate(observer.sections):
        section.register_forward_hook(lambda *_, i=i: cuda.note(f"section {i}"))
    batch = Batch(torch.randn(4, 3, 8, 8), torch.arange(4))
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU, streams=Forked(phase, cuda))
        step(batch, step=0, progress=0.0)  # makes and checks the program
        cuda.said.clear()
        step(batch, step=1, progress=0.0)
    waits = [line for line in cuda.said if line.startswith("s")]
    assert waits == [f"s{i + 1} waits for main: {what}" for i, what in enumerate(awaited)]


def test_compiled_code_runs_no_hooks_so_every_branch_waits_for_all(cuda: FakeCuda) -> None:
    phase = sections(cuda, early=True)
    with prepared(phase, CPU):
        streams = Forked(phase, cuda, early=False)
        Step(phase, precision="fp32", device=CPU, streams=streams)(BATCH, step=0, progress=0.0)
    assert {"s1 waits for main: head", "s2 waits for main: head"} <= set(cuda.said)
