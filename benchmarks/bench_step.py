"""A step of LIT's phase "sections" as one would write it, and as litfast runs it, rung by rung.

It is measured on CIFAR ResNets, on VDCNNs and on the bottleneck of StarGAN's generator.

Contenders: "plain", the loop of the published LIT code in plain torch, fp32, contiguous; "plain bf16", the
same under bf16 autocast and channels-last; "plain compile", the one of these two that has the case's
precision, its loss function under torch.compile; "plain graph", the whole plain step captured as it is. Then
litfast's ladder, on which a rung adds one thing to the one before: the engine's eager step with the fused
losses, channels-last; the teacher as an inference program; no work done twice; the step compiled; captured;
its branches on streams. The last rung that runs here is `ours`. A contender that does not
end its first step where "plain" does turns the case red: nothing of it is timed.

With beta = 0 nobody runs the student's own path: `bn_stats = "ir"`.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from step_models import FAMILIES, Start, laid_out
from step_models import make as made
from torch import Tensor, nn
from torch.nn import functional as F

from litfast import methods
from litfast.bench import memory
from litfast.bench.interleave import Run, interleave
from litfast.build import fast_bf16
from litfast.data.loader import Batch
from litfast.engine import modes, trial
from litfast.engine.prepare import prepared
from litfast.engine.step import autocast
from litfast.models.inference import Inference
from litfast.phase import Phase, Schedule

# torch.compile imports what torch itself calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ALPHA, TAU, SCALE = 0.95, 6.0, 0.5  # the published CIFAR run's
SCHEDULE = Schedule(epochs=1, lr=0.1, momentum=0.9, weight_decay=1e-4)
SECONDS = 4.0  # a case: all contenders together
NO_BF16 = "no bf16 units on this machine"
WARM_UP = 0 if DEVICE.type == "cpu" else 3  # steps before the gate: a graph is captured in the second
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# How far a step may end from the plain one, as a share of its way. Rounding moves a few activations across a
# ReLU's corner, which turns their whole gradient on or off: parameters of a ResNet-20 at B = 128 end 5e-3
# apart, those of "plain compile" 2e-3; in fp64, where the tests compare them, 1e-10. Statistics and loss have
# no corner. CUDA convolutions may use TF32 in fp32.
FORWARD = {"fp32": 1e-2 if DEVICE.type == "cuda" else 1e-4, "bf16": 0.1}
TOLERANCE = {"parameters": trial.TOLERANCE, "statistics": FORWARD, "loss": FORWARD}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Models of one family by depth."""

    family: str = "resnet"
    teacher: int
    student: int
    batch: int
    beta: float
    precision: str = "fp32"

    def __str__(self) -> str:
        models = f"{FAMILIES[self.family].title}-{self.teacher} -> {self.student}"
        return f"{models} B={self.batch} beta {self.beta:g} {self.precision}"

    @property
    def size(self) -> tuple[str, int, int, float]:
        return self.family, self.teacher, self.batch, self.beta

    @property
    def joint(self) -> bool:
        return self.beta > 0


# Family, teacher, batch, beta. A step of the deep pairs takes seconds on two cores, a compilation one to two
# minutes.
ON_CPU = (
    ("resnet", 110, 128, 0.75),
    ("resnet", 56, 32, 0.75),
    ("resnet", 56, 128, 0.75),
    ("resnet", 56, 128, 0),
    ("vdcnn", 17, 8, 0.05),
    ("vdcnn", 17, 8, 0),
    ("stargan", 6, 4, 0),
)
WITH_BF16_UNITS = (("vdcnn", 29, 128, 0.05), ("vdcnn", 29, 128, 0))
COMPILED_ON_CPU = ON_CPU[2]
COMPILED_ONCE = "on a CPU for ResNet-56 -> 20 at B=128, joint, alone: a minute or more of compiling"
NO_CUDA = "needs a CUDA device"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """`run` is one step and gives its loss; it trains `student` by `optimizers`."""

    run: Run
    student: nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]


@dataclass(frozen=True, kw_only=True)
class Rung:
    name: str
    folded: bool = True
    eliminated: bool = True
    mode: str = "eager"
    branches: str = "serial"


LADDER = (
    Rung(name="fused ops", folded=False, eliminated=False),
    Rung(name="+ folded teacher", eliminated=False),
    Rung(name="+ work elimination"),
    Rung(name="+ compile", mode="compile"),
    Rung(name="+ graph", mode="compile-graph"),
    Rung(name="+ branches", mode="compile-graph", branches="parallel"),
)

Maker = Callable[[], Contender]


def cases() -> Iterator[Case]:
    for precision in PRECISIONS:
        for teacher in (110, 56):
            for batch in (32, 128, 1024):
                for beta in (0.75, 0):
                    yield Case(teacher=teacher, student=20, batch=batch, beta=beta, precision=precision)
        for teacher, batch, beta in product((29, 17), (8, 128), (0.05, 0)):
            yield Case(
                family="vdcnn", teacher=teacher, student=9, batch=batch, beta=beta, precision=precision
            )
        for batch in (4, 16):
            yield Case(family="stargan", teacher=6, student=2, batch=batch, beta=0, precision=precision)


@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_step(request: pytest.FixtureRequest, case: Case) -> None:
    if refused := not_here(case):
        pytest.skip(refused)
    try:
        with ExitStack() as stack:
            measure(request, case, stack)
    finally:  # the next case finds memory and compiler as this one did
        torch.compiler.reset()
        gc.collect()


def not_here(case: Case) -> str | None:
    """Why this machine does not measure the case."""
    if case.precision == "bf16" and not fast_bf16(str(DEVICE)):
        return NO_BF16
    if DEVICE.type != "cpu" or case.size in ON_CPU:
        return None
    if case.size in WITH_BF16_UNITS:
        return None if fast_bf16(str(DEVICE)) else f"half a minute a step on a CPU: {NO_BF16}"
    return "on a GPU only: minutes on a CPU"


def measure(request: pytest.FixtureRequest, case: Case, stack: ExitStack) -> None:
    """The gate, memory and kernels, then rounds of all contenders."""
    runs, absent = present(makers(make(case), case, stack), case)
    facts = {name: cost(run) for name, run in runs.items()}
    ours = [rung.name for rung in LADDER if rung.name in runs][-1]
    others = {name: run for name, run in runs.items() if name != ours}
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")  # unused, it would complain
    benchmark.group = str(case)
    rows = interleave(benchmark, runs[ours], others, device=DEVICE, seconds=SECONDS)
    median: float = benchmark.stats.stats.median  # type: ignore[union-attr]  # set by pedantic
    benchmark.extra_info.update(contender=ours, samples_per_s=case.batch / median, **facts[ours])
    benchmark.extra_info.update(absent=absent)
    for row in rows:
        row.update(samples_per_s=1000 * case.batch / row["median_ms"], **facts[row["contender"]])
    benchmark.extra_info["against"] = rows


def make(case: Case) -> Start:
    """The start of a case."""
    return made(FAMILIES[case.family], case.teacher, case.student, case.batch, DEVICE)


def makers(start: Start, case: Case, stack: ExitStack) -> dict[str, Maker | str]:
    """By name, how each contender is made, "plain" first; or why it does not run here."""
    cuda = DEVICE.type == "cuda"
    found: dict[str, Maker | str] = {"plain": partial(plain, start, case, precision="fp32")}
    if case.precision == "bf16":
        found["plain bf16"] = partial(plain, start, case, precision="bf16")
    else:
        found["plain bf16"] = "in the bf16 case" if fast_bf16(str(DEVICE)) else NO_BF16
    found["plain compile"] = partial(plain, start, case, around=compiled)
    if not cuda and case.size != COMPILED_ON_CPU:
        found["plain compile"] = COMPILED_ONCE
    captured = lambda: replayed(plain(start, case, precision="fp32"))  # noqa: E731
    found["plain graph"] = captured if cuda else NO_CUDA
    for rung in LADDER:
        found[rung.name] = unclimbed(rung, case) or partial(litfast, start, case, rung, stack)
    return found


def unclimbed(rung: Rung, case: Case) -> str | None:
    """Why a rung is left out."""
    if rung.name == "+ work elimination" and not case.joint:
        return "with beta = 0 nothing is done twice"
    if rung.branches == "parallel" and case.joint:
        return "a joint loss has one branch"
    if DEVICE.type == "cuda" or rung.mode == "eager":
        return None
    if modes.captures(rung.mode):
        return NO_CUDA
    return "on a GPU only: on two cores it took a minute to compile and was no faster"


def plain(
    start: Start,
    case: Case,
    *,
    precision: str | None = None,
    around: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = lambda loss: loss,
) -> Contender:
    """The published step: teacher, student end to end, every section on the teacher's IR, one SGD update.

    Stem and head are frozen, in eval mode. `around` is put around the loss function.
    """
    precision = precision or case.precision
    layout = torch.channels_last if precision == "bf16" else torch.contiguous_format
    teacher, student = (copy.deepcopy(model.model).to(memory_format=layout) for model in pair(start))
    images, target = laid_out(start.images, layout), start.target
    teacher_stem, teacher_sections, teacher_head = start.family.parts(teacher)
    _, parts, _ = start.family.parts(student)
    student.requires_grad_(False)
    sections = [module for module, _ in parts]
    for section in sections:
        section.train().requires_grad_()

    def loss(images: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            irs = [teacher_stem(images)]
            for _, section in teacher_sections:
                irs.append(section(irs[-1]))
            taught = teacher_head(irs[-1])
        total = torch.zeros((), device=images.device)
        if case.joint:
            logits = student(images)
            soft = F.cross_entropy(logits / TAU, F.softmax(taught / TAU, -1))
            hard = F.cross_entropy(logits, target)
            total = case.beta * (ALPHA * hard + (1 - ALPHA) * TAU**2 * soft)
        for (_, section), ir, goal in zip(parts, irs[:-1], irs[1:], strict=True):
            total = total + (1 - case.beta) * F.mse_loss(section(ir), goal)
        return SCALE * total

    optimizer = torch.optim.SGD(
        [parameter for section in sections for parameter in section.parameters()],
        lr=SCHEDULE.lr,
        momentum=SCHEDULE.momentum,
        weight_decay=SCHEDULE.weight_decay,
    )
    called = around(loss)

    def run() -> Tensor:
        optimizer.zero_grad()
        with autocast(DEVICE, precision):
            value = called(images, target)
        value.backward()
        optimizer.step()
        return value.detach()

    return Contender(run=run, student=student, optimizers=(optimizer,))


def pair(start: Start) -> tuple[Any, Any]:
    return start.teacher, start.student


def compiled(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`reduce-overhead` replays CUDA graphs; on a CPU there are none."""
    return torch.compile(loss, dynamic=False, mode="reduce-overhead" if DEVICE.type == "cuda" else None)


def replayed(step: Contender) -> Contender:
    """The whole step captured as it is written, and replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step.run()

    def run() -> Tensor:
        graph.replay()
        return loss

    return Contender(run=run, student=step.student, optimizers=step.optimizers)


def litfast(start: Start, case: Case, rung: Rung, stack: ExitStack) -> Contender:
    """The engine's step as far up the ladder as `rung`; its models stay ready to train until `stack` ends."""
    teacher, student = (copy.deepcopy(model) for model in pair(start))
    phase = next(
        methods.lit(
            teacher,
            student,
            sections=SCHEDULE,
            finetune=SCHEDULE,
            alpha=ALPHA,
            beta=case.beta,
            tau=TAU,
            bn_stats="both" if case.joint else "ir",
            loss_scale=SCALE,
            observer=Inference(teacher, precision=case.precision) if rung.folded else None,
        )
    )
    if not rung.eliminated:
        do_everything_twice(phase)
    stack.enter_context(prepared(phase, DEVICE))
    step, runner = modes.make(
        phase, DEVICE, mode=rung.mode, branches=rung.branches, rows=1, precision=case.precision
    )
    batch = Batch(laid_out(start.images, torch.channels_last), start.target)

    def run() -> Tensor:
        metrics = runner(batch, step=0, progress=0.0)
        if step.notes:  # eager in its place
            raise RuntimeError(step.notes[0])
        return torch.stack([metrics[f"{branch.name}.loss"] for branch in phase.branches]).sum()

    return Contender(run=run, student=student.model, optimizers=tuple(step.optimizers.values()))


def do_everything_twice(phase: Phase) -> None:
    """Answer every question of `Paths` beforehand: nothing may be left out."""
    paths: Any = phase.observe.__self__.paths  # type: ignore[attr-defined]  # a method of lit's step
    numbers = range(len(paths.student.sections))
    refused = ["stem", *(f"{what} {i}" for what in ("once", "twin") for i in numbers)]
    paths._verdicts.update(dict.fromkeys(refused, False))


def present(found: Mapping[str, Maker | str], case: Case) -> tuple[dict[str, Run], dict[str, str]]:
    """The contenders that run here, warm, and end a step where "plain" does; why each other one is absent.

    Raises:
        AssertionError: parameters, batch-norm statistics or loss further off than TOLERANCE.
    """
    runs: dict[str, Run] = {}
    absent: dict[str, str] = {}
    expected: list[list[Tensor]] | None = None
    for name, maker in found.items():
        if isinstance(maker, str):
            absent[name] = maker
            continue
        try:
            contender = maker()
            before, after = first_step(contender)
        except Exception as error:  # a missing compiler, library or memory raises many types
            absent[name] = trial.reason(error)
            continue
        expected = expected or after
        for what, start, ours, theirs in zip(TOLERANCE, before, after, expected, strict=True):
            off, allowed = trial.deviation(start, theirs, ours), TOLERANCE[what][case.precision]
            assert off <= allowed, (
                f"{name}: {what} after a step must be those of plain to {allowed}, got {off:.2g}"
            )
        runs[name] = contender.run
    return runs, absent


def first_step(contender: Contender) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Parameters, statistics and loss before and after a step from the start.

    A step that captures does so in the WARM_UP steps before it; then all is put back in place.
    """
    state = contender.student.state_dict()
    start = {key: tensor.clone() for key, tensor in state.items()}
    before = [*split(contender.student), [torch.zeros(())]]
    for _ in range(WARM_UP):
        contender.run()
    with torch.no_grad():
        for key, tensor in state.items():
            tensor.copy_(start[key])
        for optimizer in contender.optimizers:
            for kept in optimizer.state.values():
                kept["momentum_buffer"].zero_()  # the first step's momentum is its gradient either way
    loss = contender.run()
    return before, [*split(contender.student), [loss.detach().cpu().clone()]]


def split(student: nn.Module) -> list[list[Tensor]]:
    """Copies of the parameters, and of the buffers."""
    return [
        [tensor.detach().clone() for tensor in group] for group in (student.parameters(), student.buffers())
    ]


def cost(run: Run) -> dict[str, int | None]:
    """Bytes that a step holds at its worst moment beyond what was there before; on a GPU its kernels."""
    found: dict[str, int | None] = {"peak_bytes": memory.peak_bytes(run, DEVICE)}
    if DEVICE.type == "cuda":
        found["kernels"] = kernels(run)
    return found


def kernels(run: Run) -> int:
    """What a step launches on the GPU, copies and fills included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize(DEVICE)
    return sum(event.device_type.name == "CUDA" for event in profile.events() or ())
