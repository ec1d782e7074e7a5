"""Loss and gradient of every op against what one would write without litfast, interleaved, behind the gate.

Contenders: "eager", plain torch as its users write it; "eager pow", the other common spelling of the IR loss;
"compile", torch.compile of the first; "liger", liger-kernel's losses on the same logits; "triad", c = a + b
of each student and its teacher, c allocated as a gradient is: the roof of an op that reads both once and
writes the gradient once. A backend that breaks the accuracy rule of `litfast.testing` is not timed.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional as F

from litfast import ops, testing
from litfast.bench import memory, modes
from litfast.bench.interleave import interleave
from litfast.engine.trial import reason
from litfast.testing import Sample

# torch.compile imports what torch itself calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

Loss = Callable[..., Tensor]
Run = Callable[[], Sequence[Tensor]]  # loss and gradients; gives the gradients
Shape = tuple[int, ...]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BACKENDS = {"cpu": ("cpp",), "cuda": ("cuda", "triton")}[DEVICE.type]  # Triton on a CPU is an interpreter
TRIAD = "triad"
ALPHA, BETA, TAU, STRENGTH = 0.3, 0.75, 4.0, 1e-4
SECONDS = 4.0  # a sample: all contenders together
CPU_ELEMENTS = 2**25  # a side
GATE_BYTES = 100  # an element: the accuracy rule holds the op, its inputs and its gradients in fp64
RESNET_50 = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a sample is made of when its turn comes: the largest takes gigabytes."""

    op: str
    what: str
    dtype: torch.dtype
    sections: tuple[Shape, ...] = ()
    logits: Shape | None = None

    def __str__(self) -> str:
        return f"{self.op} {self.what} {str(self.dtype).removeprefix('torch.')}"

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return (*self.sections, self.logits) if self.logits else self.sections

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


def cifar(batch: int) -> tuple[Shape, ...]:
    """irs[1:] of a CIFAR ResNet."""
    return ((batch, 16, 32, 32), (batch, 32, 16, 16), (batch, 64, 8, 8))


def cases() -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        for batch in (32, 128, 1024):
            yield Case(op="ir", what=f"CIFAR sections B={batch}", dtype=dtype, sections=cifar(batch))
        stages = tuple((256, *stage) for stage in RESNET_50)
        yield Case(op="ir", what="ResNet-50 stages B=256", dtype=dtype, sections=stages)
        for logits in ((128, 10), (1024, 1000), (512, 32_000), (4096, 32_000), (2048, 128_256)):
            yield Case(op="kd", what="x".join(map(str, logits)), dtype=dtype, logits=logits)
        what = "CIFAR sections B=128 + 128x10"
        yield Case(op="lit", what=what, dtype=dtype, sections=cifar(128), logits=(128, 10))
    scales = ((16,),) * 9 + ((32,),) * 9 + ((64,),) * 9
    yield Case(op="channel_l1", what="ResNet-56's inner scales", dtype=torch.float32, sections=scales)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_op(request: pytest.FixtureRequest, case: Case, backend: str) -> None:
    if missing := dict(ops.backends())[backend]:
        pytest.skip(f"{backend}: {missing}")
    if refused := too_large(case):
        pytest.skip(refused)
    try:
        measure(request, case, backend)
    finally:  # the next sample finds memory and compiler as this one did
        torch.compiler.reset()
        gc.collect()


def measure(request: pytest.FixtureRequest, case: Case, backend: str) -> None:
    """The gate, the memory, then rounds of all contenders."""
    sample = make(case)
    wrong = testing.misses(sample, backend)
    assert not wrong, "; ".join(wrong)
    others, absent = present(contenders(sample), (ours := litfast_op(sample, backend)), case.dtype)
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")  # unused, it would complain
    benchmark.group = str(case)
    benchmark.extra_info.update(contender=backend, peak_bytes=memory.peak_bytes(ours, DEVICE))
    benchmark.extra_info.update(gradient_bytes=case.elements * case.dtype.itemsize, absent=absent)
    peaks = {name: memory.peak_bytes(run, DEVICE) for name, run in others.items()}
    rows = interleave(benchmark, ours, others, device=DEVICE, seconds=SECONDS)
    benchmark.extra_info["against"] = [row | {"peak_bytes": peaks[row["contender"]]} for row in rows]


def too_large(case: Case) -> str | None:
    """Why this machine does not measure the sample."""
    if DEVICE.type == "cpu":
        # 131M elements took 150 s on two cores: the gate in fp64, and pages that every call asks for anew
        return "on a GPU only: minutes on a CPU" if case.elements > CPU_ELEMENTS else None
    there = torch.cuda.get_device_properties(DEVICE).total_memory
    needed = GATE_BYTES * case.elements
    if needed <= there:
        return None
    return f"the gate needs {needed / 2**30:.0f} GiB of memory, got {there / 2**30:.0f}"


def make(case: Case) -> Sample:
    torch.manual_seed(0)
    sides = [[torch.randn(shape, device=DEVICE, dtype=case.dtype) for shape in case.shapes] for _ in range(2)]
    if case.op == "channel_l1":  # which has no teacher
        own = {"strength": STRENGTH}
        return Sample(op=case.op, name=str(case).partition(" ")[2], args=(sides[0],), options=own)
    args: list[Any] = [side[: len(case.sections)] for side in sides] if case.sections else []
    options: dict[str, Any] = {"beta": BETA} if case.op == "lit" else {}
    if case.logits:
        rows, classes = case.logits
        args += [side[-1] for side in sides] + [torch.randint(classes, (rows,), device=DEVICE)]
        options |= {"tau": TAU, "alpha": ALPHA}
    return Sample(op=case.op, name=str(case).partition(" ")[2], args=tuple(args), options=options)


def eager_ir(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    total = F.mse_loss(students[0], teachers[0])
    for student, teacher in zip(students[1:], teachers[1:], strict=True):
        total = total + F.mse_loss(student, teacher)
    return total


def eager_pow(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    total = (students[0] - teachers[0]).pow(2).mean()
    for student, teacher in zip(students[1:], teachers[1:], strict=True):
        total = total + (student - teacher).pow(2).mean()
    return total


def eager_kd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    soft = F.cross_entropy(student / TAU, F.softmax(teacher / TAU, -1))
    return ALPHA * F.cross_entropy(student, target) + (1 - ALPHA) * TAU**2 * soft


def eager_lit(students: list[Tensor], teachers: list[Tensor], *logits: Tensor) -> Tensor:
    return (1 - BETA) * eager_ir(students, teachers) + BETA * eager_kd(*logits)


def liger() -> Loss:
    """The loss from liger-kernel's parts; its KL divergence has the gradient of the soft cross-entropy."""
    from liger_kernel.transformers import LigerCrossEntropyLoss, LigerKLDIVLoss

    soft, hard = LigerKLDIVLoss(reduction="batchmean"), LigerCrossEntropyLoss()

    def loss(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        apart = soft(F.log_softmax(student / TAU, -1), F.softmax(teacher / TAU, -1))
        return (1 - ALPHA) * TAU**2 * apart + ALPHA * hard(student, target)

    return loss


def eager_channel_l1(scales: list[Tensor]) -> Tensor:
    return STRENGTH * torch.stack([scale.abs().sum() for scale in scales]).sum()


def contenders(sample: Sample) -> dict[str, Callable[[], Run]]:
    """By name, how each of the others is made: that may fail where a library or a compiler is missing."""
    formulas: dict[str, Loss] = {
        "ir": eager_ir,
        "kd": eager_kd,
        "lit": eager_lit,
        "channel_l1": eager_channel_l1,
    }
    eager = formulas[sample.op]
    makers: dict[str, Callable[[], Run]] = {"eager": lambda: step(eager, sample)}
    if sample.op == "ir":
        makers["eager pow"] = lambda: step(eager_pow, sample)
    makers["compile"] = lambda: step(torch.compile(eager, dynamic=False, fullgraph=True), sample)
    if sample.op == "kd" and DEVICE.type == "cuda":
        # A copy of the student: Liger's cross-entropy writes the gradient over its input.
        makers["liger"] = lambda: step(liger(), own_student(sample))
    makers[TRIAD] = lambda: lambda: [torch.add(*pair) for pair in pairs(sample)]
    return makers


def litfast_op(sample: Sample, backend: str) -> Run:
    """The public function, served by `backend`."""
    function = testing.FUNCTIONS[sample.op]

    def loss(*args: Any) -> Tensor:
        losses = function(*args, **sample.options, backend=backend)
        return losses if isinstance(losses, Tensor) else losses.total

    return step(loss, sample)


def own_student(sample: Sample) -> Sample:
    return replace(sample, args=(sample.args[0].detach().clone(), *sample.args[1:]))


def pairs(sample: Sample) -> list[tuple[Tensor, Tensor]]:
    """Every student tensor with its teacher; scales, which have none, with themselves."""
    if sample.op == "channel_l1":
        return [(scale, scale) for scale in sample.args[0]]
    found: list[tuple[Tensor, Tensor]] = []
    for student, teacher in zip(sample.args[::2], sample.args[1::2], strict=False):  # the target has no pair
        found += zip(student, teacher, strict=True) if isinstance(student, list) else [(student, teacher)]
    return found


def step(loss: Loss, sample: Sample) -> Run:
    """Loss and the gradients of all student tensors."""
    leaves = [student.requires_grad_() for student, _ in pairs(sample)]
    return lambda: torch.autograd.grad(loss(*sample.args), leaves)


def present(
    makers: Mapping[str, Callable[[], Run]], ours: Run, dtype: torch.dtype
) -> tuple[dict[str, Run], dict[str, str]]:
    """The others that run here and give our gradients, warm; and why each that does not run is absent.

    Raises:
        AssertionError: gradients further from ours than a model's outputs may be: another loss is computed.
    """
    allowed = modes.tolerance("bf16" if dtype == torch.bfloat16 else "fp32", DEVICE)
    runs: dict[str, Run] = {}
    absent: dict[str, str] = {}
    expected = ours()
    for name, maker in makers.items():
        try:
            runs[name] = maker()
            found = runs[name]()
        except Exception as error:  # a missing compiler, library or memory raises many types
            runs.pop(name, None)
            absent[name] = reason(error)
            continue
        if name != TRIAD:
            both = zip(found, expected, strict=True)
            gap = max(modes.deviation(one, other.float()) for one, other in both)
            assert gap <= allowed, f"{name}: gradients must lie within {allowed} of ours, got {gap:.2g}"
    return runs, absent
