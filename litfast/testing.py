"""What tests and benchmarks of the ops share: named samples, and the rule of how far a backend may err.

The truth is the reference in fp64 on the same, already rounded inputs. A backend may err at most twice what
the reference errs in fp32, plus one unit in the last place of the output's dtype; per tensor, by the largest
error. What is not finite in the reference must be the same in the backend. `augment`, which is no loss, must
give the reference's bits.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import low_rank_samples, ops

FUNCTIONS: dict[str, Callable[..., Any]] = {"kd": ops.kd_loss, "ir": ops.ir_loss, "lit": ops.lit_loss}
LAYERS: dict[str, Callable[..., Any]] = {
    "low_rank_embedding": ops.low_rank_embedding,
    "low_rank_softmax": ops.low_rank_softmax,
}
_FLOATS = (torch.float32, torch.float32)
_CONTIGUOUS = (torch.contiguous_format, torch.contiguous_format)
_HALVES = (torch.float32, torch.bfloat16, torch.float16)
_DTYPE_PAIRS = [(torch.float64, torch.float64), *itertools.product(_HALVES, _HALVES)]
SIZES = (1, 41, 401, 1271)  # one lane, odd, more than one vector, more than one block


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One call of an op. `args` are its positional arguments; those at `students` get a gradient."""

    op: str
    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.op} {self.name}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call gave: every loss, and the gradient of the first at every student."""

    losses: list[Tensor]
    gradients: list[Tensor]


def samples(op: str) -> list[Sample]:
    """Regular, odd, empty, huge, masked, non-contiguous, channels-last and mixed inputs of `op`, by name."""
    makers = {"kd": _kd_samples, "ir": _ir_samples, "lit": _lit_samples, "augment": _augment_samples}
    if op in LAYERS:
        made = low_rank_samples.SAMPLES[op]()
        return [Sample(op=op, name=name, args=args, options={}) for name, args in made]
    return list(makers[op]())


def run(sample: Sample, backend: str = "reference") -> Outcome:
    """Calls the op, forward and backward."""
    students: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        students.append(tensor.detach().requires_grad_())
        return students[-1]

    of_losses = {"kd": (0,), "ir": (0,), "lit": (0, 2)}
    places = (of_losses | low_rank_samples.PLACES)[sample.op]  # of the students among the arguments
    args = [_each(leaf, arg) if place in places else arg for place, arg in enumerate(sample.args)]
    result = (FUNCTIONS | LAYERS)[sample.op](*args, **sample.options, backend=backend)
    losses = [result] if isinstance(result, Tensor) else list(result)
    # Rows of reduction="none" get different weights, so that a mix-up of rows shows.
    incoming = (
        torch.linspace(0.5, 1.5, losses[0].numel()).to(losses[0]).view_as(losses[0])
        if losses[0].ndim
        else None
    )
    losses[0].backward(incoming)
    gradients = [torch.zeros_like(s) if s.grad is None else s.grad for s in students]
    return Outcome(losses=[loss.detach() for loss in losses], gradients=gradients)


def convert(sample: Sample, dtype: torch.dtype) -> Sample:
    """The same call with every float tensor in `dtype`."""
    args = (_each(lambda t: t.to(dtype) if t.is_floating_point() else t, arg) for arg in sample.args)
    return replace(sample, args=tuple(args))


def on(sample: Sample, device: str) -> Sample:
    """The same call with every tensor on `device`."""
    args = (_each(lambda t: t.to(device), arg) for arg in sample.args)
    options = {name: _each(lambda t: t.to(device), value) for name, value in sample.options.items()}
    return replace(sample, args=tuple(args), options=options)


def misses(sample: Sample, backend: str) -> list[str]:
    """How `backend` breaks the accuracy rule on `sample`, one line a tensor; empty when it keeps the rule."""
    truth, plain, got = run(convert(sample, torch.float64)), run(sample), run(sample, backend)
    allowed = [2 * e + u for e, u in zip(_errors(plain, truth), _ulps(plain), strict=True)]
    if truth.losses[0].dtype == plain.losses[0].dtype:
        # Nothing is more exact than fp64: its error is fp32's in proportion, and the truth errs so too.
        rounded = convert(sample, torch.float32)
        errors = _errors(run(rounded), run(convert(rounded, torch.float64)))
        allowed = [3 * 2.0**-29 * e + 2 * u for e, u in zip(errors, _ulps(plain), strict=True)]
    names = [f"losses[{i}]" for i in range(len(got.losses))] + [
        f"gradients[{i}]" for i in range(len(got.gradients))
    ]
    columns = zip(names, _tensors(got), _tensors(truth), _tensors(plain), allowed, strict=True)
    lines = [(name, _miss(g, t, p, a)) for name, g, t, p, a in columns]
    return [f"{sample} on {backend}: {name} {line}" for name, line in lines if line]


def _each(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`function` of a tensor or of each tensor in a list; anything else as it is."""
    if isinstance(value, list):
        return [function(one) for one in value]
    return function(value) if isinstance(value, Tensor) else value


def _tensors(outcome: Outcome) -> list[Tensor]:
    return [*outcome.losses, *outcome.gradients]


def _error(got: Tensor, truth: Tensor) -> float:
    """The largest error among the finite elements."""
    gap = (got.double() - truth.double())[got.isfinite() & truth.isfinite()]
    return float(gap.abs().max()) if gap.numel() else 0.0


def _errors(got: Outcome, truth: Outcome) -> list[float]:
    return [_error(g, t) for g, t in zip(_tensors(got), _tensors(truth), strict=True)]


def _ulps(outcome: Outcome) -> list[float]:
    return [_ulp(tensor) for tensor in _tensors(outcome)]


def _ulp(tensor: Tensor) -> float:
    """One unit in the last place of the largest finite element; 0 for integers."""
    if not tensor.is_floating_point():
        return 0.0
    info = torch.finfo(tensor.dtype)
    finite = tensor[tensor.isfinite()].abs()
    largest = max(float(finite.max()) if finite.numel() else 0.0, info.smallest_normal)
    return math.ldexp(info.eps, math.frexp(largest)[1] - 1)


def _miss(got: Tensor, truth: Tensor, plain: Tensor, allowed: float) -> str:
    """What is wrong with one tensor, or nothing."""
    if got.shape != plain.shape or got.dtype != plain.dtype:
        return f"must be {plain.dtype} {list(plain.shape)}, got {got.dtype} {list(got.shape)}"
    strange = ~plain.isfinite()
    if not torch.equal(got[strange].nan_to_num(nan=0.25), plain[strange].nan_to_num(nan=0.25)):
        return f"must be {plain[strange].tolist()} where it is not finite, got {got[strange].tolist()}"
    if not got[~strange].isfinite().all():
        return "must be finite where the reference is"
    error = _error(got, truth)
    return f"errs {error:.3g}, may err {allowed:.3g}" if error > allowed else ""


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def _normal(name: str, *shape: int, spread: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gaussian numbers that depend on `name` only."""
    return (torch.randn(shape, generator=_generator(name)) * spread).to(dtype)


def _kd(
    name: str,
    *shape: int,
    dtypes: tuple[torch.dtype, torch.dtype] = _FLOATS,
    spread: float = 3.0,
    masked: float = 0.0,
    **options: Any,
) -> Sample:
    logits = [_normal(f"{name} {i}", *shape, spread=spread, dtype=dtype) for i, dtype in enumerate(dtypes)]
    target = torch.randint(shape[-1], shape[:-1], generator=_generator(name))
    target[torch.rand(shape[:-1], generator=_generator(name)) < masked] = -100
    return Sample(op="kd", name=name, args=(*logits, target), options={"tau": 4.0, "alpha": 0.3} | options)


def _kd_samples() -> Iterator[Sample]:
    yield from (_kd(f"7x{size}", 7, size) for size in SIZES)
    yield from (_kd(f"{s} {t}", 9, 401, dtypes=(s, t)) for s, t in _DTYPE_PAIRS)
    yield _kd("CIFAR", 128, 10)
    yield _kd("many classes", 2, 40_001)
    yield _kd("sequence", 2, 5, 41, masked=0.3)
    yield _kd("kl", 9, 401, soft="kl")
    yield _kd("smoothed", 9, 41, label_smoothing=0.1)
    yield _kd("hard only", 9, 41, alpha=1.0)
    yield _kd("sum, masked", 9, 41, reduction="sum", masked=0.4)
    yield _kd("none, masked", 9, 41, reduction="none", masked=0.4, scale=0.5)
    yield _kd("all masked", 9, 41, masked=1.0)
    yield _kd("empty", 0, 41)
    yield _kd("huge", 9, 401, spread=1e4)
    yield _kd("small tau", 9, 41, tau=0.1)
    yield _kd("tensors", 9, 41, tau=torch.tensor(4.0), alpha=torch.tensor(0.25), scale=torch.tensor(0.5))
    plain = _kd("strides", 41, 9)
    args = (plain.args[0].t(), _normal("wide", 9, 82)[:, ::2], torch.arange(9))
    yield replace(plain, args=args)
    plain = _kd("no target", 9, 41, alpha=0.0)
    yield replace(plain, args=(*plain.args[:2], None))
    for value in (math.inf, -math.inf, math.nan):
        strange = _kd(f"{value}", 5, 41, reduction="none")
        strange.args[0][1, 3] = value
        strange.args[1][3, 7] = value
        yield strange


def _ir(
    name: str,
    *shapes: tuple[int, ...],
    dtypes: tuple[torch.dtype, torch.dtype] = _FLOATS,
    layouts: tuple[torch.memory_format, torch.memory_format] = _CONTIGUOUS,
    spread: float = 1.0,
    **options: Any,
) -> Sample:
    args = [
        [
            _normal(f"{name} {who} {i}", *shape, spread=spread, dtype=dtype).contiguous(memory_format=layout)
            for i, shape in enumerate(shapes)
        ]
        for who, (dtype, layout) in enumerate(zip(dtypes, layouts, strict=True))
    ]
    return Sample(op="ir", name=name, args=tuple(args), options=options)


def _ir_samples() -> Iterator[Sample]:
    yield from (_ir(f"{size}", (size,)) for size in SIZES)
    yield from (_ir(f"{s} {t}", (7, 401), dtypes=(s, t)) for s, t in _DTYPE_PAIRS)
    yield from (
        _ir(penalty, (3, 41), (1271,), penalty=penalty, weights=(0.5, 2.0)) for penalty in ("l1", "smooth_l1")
    )
    yield _ir("CIFAR", (4, 16, 32, 32), (4, 32, 16, 16), (4, 64, 8, 8), scale=0.5)
    last, first = torch.channels_last, torch.contiguous_format
    yield _ir("channels last", (3, 5, 7, 9), (2, 8, 1, 1), layouts=(last, last))
    yield _ir("mixed layouts", (3, 5, 7, 9), (3, 1, 7, 9), layouts=(last, first))
    yield _ir("mixed layouts back", (3, 5, 7, 9), layouts=(first, last))
    yield _ir("33 sections", *[(3, 5)] * 33)
    yield _ir("empty", (0, 4, 3), (2, 3))
    yield _ir("huge", (7, 41), spread=1e17)
    yield _ir("overflow", (7, 41), spread=1e30)
    yield _ir("tensor scale", (7, 41), scale=torch.tensor(0.5))
    plain = _ir("strides", (9, 41))
    students = [_normal("every second", 18, 41)[::2], _normal("one row", 1, 41).expand(9, 41)]
    yield replace(plain, args=(students, [_normal("transposed", 41, 9).t(), plain.args[1][0]]))
    for value in (math.inf, math.nan):
        for penalty in ("l2", "l1", "smooth_l1"):
            strange = _ir(f"{value} {penalty}", (3, 41), penalty=penalty)
            strange.args[0][0][1, 3] = value
            yield strange


def _lit_samples() -> Iterator[Sample]:
    """Each pair of an IR sample and a KD sample that have the same place in their lists."""
    for ir, kd in zip(_ir_samples(), _kd_samples(), strict=False):
        options = {key: value for key, value in kd.options.items() if key != "reduction"} | ir.options
        yield Sample(
            op="lit", name=f"{ir.name}; {kd.name}", args=(*ir.args, *kd.args), options=options | {"beta": 0.6}
        )


def _augment(
    name: str, *shape: int, batch: int = 5, crop: int = 0, dtype: torch.dtype = torch.float32, **options: Any
) -> Sample:
    generator = _generator(name)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    index = torch.randint(shape[0], (batch,), generator=generator)
    top, left = torch.randint(2 * crop + 1, (2, batch), generator=generator)
    args = images, index, top, left, torch.arange(batch) % 2 == 0
    table = _normal(f"{name} table", shape[3], 256, dtype=dtype)
    return Sample(op="augment", name=name, args=args, options={"table": table, "crop": crop} | options)


def _augment_samples() -> Iterator[Sample]:
    for dtype, last in itertools.product((*_HALVES, torch.float64), (True, False)):
        yield _augment(f"CIFAR {dtype} {last}", 7, 32, 32, 3, crop=4, dtype=dtype, channels_last=last)
    for last in (True, False):
        yield _augment(f"no crop {last}", 3, 5, 7, 3, channels_last=last)
        yield _augment(f"1x1 {last}", 3, 1, 1, 1, crop=1, batch=9, channels_last=last)
        yield _augment(f"gray {last}", 3, 9, 41, 1, crop=3, channels_last=last)
        yield _augment(f"5 channels {last}", 3, 5, 3, 5, crop=2, channels_last=last)
        yield _augment(f"mostly padding {last}", 3, 3, 4, 3, crop=11, batch=41, channels_last=last)
        yield _augment(f"empty {last}", 3, 5, 7, 3, batch=0, channels_last=last)
    plain = _augment("strides", 7, 5, 7, 3, crop=2)
    draws = [torch.stack([draw, draw], 1)[:, 1] for draw in plain.args[1:]]
    table = plain.options["table"].t().contiguous().t()
    yield replace(plain, args=(plain.args[0], *draws), options=plain.options | {"table": table})
