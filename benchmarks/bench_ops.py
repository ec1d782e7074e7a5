"""Forward and backward of every op on every backend, against torch.compile of the reference and the roof.

The roof is a triad, c = a + b on as many elements of the same dtype: it reads two tensors and writes one, as
a loss does that reads student and teacher once and writes the gradient in the same pass. A backend that
breaks the accuracy rule of `litfast.testing`, in value or gradient, is not timed. torch.compile, an outsider
whose sums are less exact, is held to the gate of `litfast.bench.modes`; `keeps_rule` tells about the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from litfast import ops, testing
from litfast.bench import modes
from litfast.testing import Sample

# torch.compile imports what torch itself calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

SECTIONS = ((128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8))  # irs[1:] of a CIFAR ResNet at batch 128
ROOF, COMPILED = "triad", "compile"
BACKENDS = ("reference", COMPILED, *(name for name, _ in ops.backends() if name != "reference"))


def _pair(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)


def _kd(name: str, rows: int, classes: int, dtype: torch.dtype) -> Sample:
    args = (*_pair(rows, classes, dtype=dtype), torch.randint(classes, (rows,)))
    return Sample(op="kd", name=name, args=args, options={"tau": 4.0, "alpha": 0.3})


def _ir(name: str, dtype: torch.dtype) -> Sample:
    pairs = [_pair(*shape, dtype=dtype) for shape in SECTIONS]
    return Sample(op="ir", name=name, args=([s for s, _ in pairs], [t for _, t in pairs]), options={})


def _lit(name: str, dtype: torch.dtype) -> Sample:
    ir, kd = _ir(name, dtype), _kd(name, 128, 10, dtype)
    return Sample(op="lit", name=name, args=(*ir.args, *kd.args), options=kd.options | {"beta": 0.75})


MAKERS: dict[str, Callable[[], Sample]] = {  # made when needed: the largest holds 65 MB a tensor
    "ir CIFAR fp32": lambda: _ir("CIFAR fp32", torch.float32),
    "ir CIFAR bf16": lambda: _ir("CIFAR bf16", torch.bfloat16),
    "kd 128x10 fp32": lambda: _kd("128x10 fp32", 128, 10, torch.float32),
    "kd 512x32000 fp32": lambda: _kd("512x32000 fp32", 512, 32_000, torch.float32),
    "kd 512x32000 bf16": lambda: _kd("512x32000 bf16", 512, 32_000, torch.bfloat16),
    "lit CIFAR fp32": lambda: _lit("CIFAR fp32", torch.float32),
}


@pytest.fixture(params=MAKERS)
def sample(request: pytest.FixtureRequest) -> Sample:
    torch.manual_seed(0)
    return MAKERS[request.param]()


@pytest.mark.parametrize("backend", (ROOF, *BACKENDS))
def test_op(
    request: pytest.FixtureRequest, sample: Sample, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == ROOF:
        _roof(request.getfixturevalue("benchmark"), sample)
        return
    if missing := dict(ops.backends()).get(backend):
        pytest.skip(f"{backend}: {missing}")
    monkeypatch.setitem(testing.FUNCTIONS, sample.op, _with_compiled(testing.FUNCTIONS[sample.op]))
    wrong = testing.misses(sample, backend)
    assert _near(sample, backend) if backend == COMPILED else not wrong, "; ".join(wrong)
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")  # unused, it would complain
    _label(benchmark, sample, backend, baseline=backend == "reference", keeps_rule=not wrong)
    benchmark(_step(sample, backend))


def _roof(benchmark: BenchmarkFixture, sample: Sample) -> None:
    students, teachers = _flat(sample)
    out = torch.empty_like(students)
    _label(benchmark, sample, ROOF, roof=True)
    benchmark(torch.add, students, teachers, out=out)


def _near(sample: Sample, backend: str) -> bool:
    """Whether losses and gradients lie within the gate that models are held to."""
    plain, got = testing.run(sample), testing.run(sample, backend)
    allowed = modes.tolerance("fp32" if "fp32" in sample.name else "bf16", torch.device("cpu"))
    pairs = zip(got.losses + got.gradients, plain.losses + plain.gradients, strict=True)
    return all(modes.deviation(one, other.float()) <= allowed for one, other in pairs)


def _with_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The op, served by torch.compile of the reference where backend is "compile"."""
    torch.compiler.reset()
    compiled = torch.compile(function, dynamic=False, fullgraph=True)

    def call(*args: Any, backend: str, **options: Any) -> Any:
        if backend == COMPILED:
            return compiled(*args, **options, backend="reference")
        return function(*args, **options, backend=backend)

    return call


def _step(sample: Sample, backend: str) -> Callable[[], tuple[Tensor, ...]]:
    """Loss and the gradients of all student tensors."""
    function = testing.FUNCTIONS[sample.op]
    places = (0, 2) if sample.op == "lit" else (0,)
    leaves = [tensor.requires_grad_() for place in places for tensor in _listed(sample.args[place])]

    def step() -> tuple[Tensor, ...]:
        losses = function(*sample.args, **sample.options, backend=backend)
        loss = losses if isinstance(losses, Tensor) else losses.total
        return torch.autograd.grad(loss, leaves)

    return step


def _flat(sample: Sample) -> tuple[Tensor, Tensor]:
    """All student tensors in one row, all teacher tensors in another."""
    args = [_listed(arg) for arg in sample.args]
    sides = (args[0] + args[2], args[1] + args[3]) if sample.op == "lit" else (args[0], args[1])
    return tuple(torch.cat([tensor.flatten() for tensor in side]) for side in sides)  # type: ignore[return-value]


def _listed(value: Tensor | list[Tensor]) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else value


def _label(benchmark: BenchmarkFixture, sample: Sample, contender: str, **marks: bool) -> None:
    """Bytes: student and teacher read once, the gradient written once."""
    students, _ = _flat(sample)
    benchmark.group = str(sample)
    benchmark.extra_info.update(contender=contender, bytes=3 * students.nbytes, **marks)
