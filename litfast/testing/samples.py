"""Named inputs of every op: regular, odd, empty, huge, masked, non-contiguous, channels-last and mixed."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import low_rank

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


def samples(op: str) -> list[Sample]:
    """Regular, odd, empty, huge, masked, non-contiguous, channels-last and mixed inputs of `op`, by name."""
    makers = {
        "kd": _kd_samples,
        "ir": _ir_samples,
        "lit": _lit_samples,
        "channel_l1": _channel_l1_samples,
        "augment": _augment_samples,
    }
    if op in low_rank.SAMPLES:
        return [Sample(op=op, name=name, args=args, options={}) for name, args in low_rank.SAMPLES[op]()]
    return list(makers[op]())


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


def _channel_l1(name: str, *scales: Tensor, **options: Any) -> Sample:
    return Sample(op="channel_l1", name=name, args=(list(scales),), options={"strength": 1e-4} | options)


def _channel_l1_samples() -> Iterator[Sample]:
    yield from (_channel_l1(f"{size}", _normal("scales", size)) for size in SIZES)
    for dtype in (*_HALVES, torch.float64):
        yield _channel_l1(f"{dtype}", _normal("scales", 41, dtype=dtype), torch.zeros(5, dtype=dtype))
    yield _channel_l1("27 layers", *(_normal(f"scales {i}", 16 << i // 9) for i in range(27)))
    yield _channel_l1("empty", torch.zeros(0))
    yield _channel_l1("huge", _normal("scales", 41, spread=1e30))
    yield _channel_l1("tensor strength", _normal("scales", 41), strength=torch.tensor(0.5))
    yield _channel_l1("mixed", _normal("scales", 18, 41)[::2, 3], _normal("half", 7, dtype=torch.bfloat16))
    for value in (math.inf, math.nan):
        yield _channel_l1(f"{value}", torch.tensor([1.0, value, -2.0]), torch.ones(7))


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
