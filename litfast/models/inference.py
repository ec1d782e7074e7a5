"""A teacher's forward pass as a program: batch norms folded, convolutions fused, weights prepacked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from litfast.carried import anew, lasting, reset
from litfast.errors import first_line
from litfast.fields import each, first
from litfast.models._fusion import BATCH_NORMS, folded, fused, is_packed
from litfast.models._modes import evaluating
from litfast.models._split import Part, named
from litfast.models._whole import Whole
from litfast.models.sectioned import SectionedModel

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # what autocast computes in


def without_batch_norms(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose batch norms are folded into the convolutions before them, in fp64.

        conv'(x) = bn(conv(x)):    W' = W g / sqrt(v + eps),    b' = (b - m) g / sqrt(v + eps) + shift

    A batch norm that follows something else stays as it is.

    Args:
        model: its forward pass must be traceable by torch.fx; never changed.

    Raises:
        ValueError: a model that has no batch norm to fold, or cannot be traced.
    """
    plain = copy.deepcopy(model.model if isinstance(model, SectionedModel) else model).eval()
    before = _batch_norms(plain)
    if not before:
        raise ValueError("folding: model must have batch norms behind convolutions, got no batch norm")
    try:
        program = folded(plain)
    except Exception as error:  # tracing runs the user's forward: anything may be raised
        raise ValueError(f"folding: model must be traceable by torch.fx, got: {first_line(error)}") from error
    if _batch_norms(program) == before:
        raise ValueError(
            f"folding: model must have batch norms behind convolutions, got {before} behind something else"
        )
    return program


def _batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, BATCH_NORMS) for module in model.modules())


class Observer(Protocol):
    """How a teacher is run: a SectionedModel itself, or an Inference of it."""

    @property
    def sections(self) -> Sequence[nn.Module]:
        """Modules that run once a batch, one a section; after the i-th one's forward irs[i + 1] is there."""
        ...

    def observe(self, x: Any) -> tuple[list[Tensor], Tensor]:
        """The IRs, S + 1 of them, and the logits [B, K] of a batch, as `SectionedModel.observe` takes it."""
        ...

    def span(self, x: Any, start: int, last: int, ir: Tensor | None = None) -> list[Tensor]:
        """irs[start] to irs[last + 1] alone; from irs[start] where `ir` gives it."""
        ...


class Inference:
    """`teacher.observe` for a teacher in eval mode, as a program that holds its own copies of the weights.

    It is made at the first call, and again once the teacher's tensors have been written to or the device has
    changed. A part that reads several inputs, that torch.fx cannot trace, or traces wrongly (a tensor written
    to under two names), runs as it is: every part is compared with the teacher's on the first batch.

    Args:
        teacher: never changed.
        precision: "fp32" computes in the model's own dtype, whatever the caller's autocast says; "bf16" and
            "fp16" under their autocast, the weights cast once.

    Attributes:
        plain: the parts that run as they are: "stem", names of sections, "head".

    Raises:
        ValueError: an unknown precision.
    """

    def __init__(self, teacher: SectionedModel, *, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"Inference: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}"
            )
        self.teacher = teacher
        self.precision = precision
        self.plain: tuple[str, ...] = ()
        self._parts = [_Part(part) for part in (teacher.stem, *teacher.sections, teacher.head)]
        self._tensors: list[Tensor] = []
        self._made_for: object = None
        self._run = self._forward

    @torch.no_grad()  # inference mode's tensors could not be saved for the student's backward
    def observe(self, x: Any) -> tuple[list[Tensor], Tensor]:
        """The IRs, S + 1 of them, and the logits [B, K] of a batch, as `SectionedModel.observe` takes it."""
        dtype = PRECISIONS[self.precision]
        kind = first(x).device.type
        with torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None):
            return self._run(self._ready(x))

    @torch.no_grad()
    def span(self, x: Any, start: int, last: int, ir: Tensor | None = None) -> list[Tensor]:
        """irs[start] to irs[last + 1] alone; from irs[start] where `ir` gives it."""
        dtype = PRECISIONS[self.precision]
        kind = first(x).device.type
        with torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None):
            stem, *sections, _ = self._parts
            x = self._ready(x)
            irs = [stem(self._entering(x), x) if ir is None else ir]
            for section in sections[0 if ir is None else start : last + 1]:
                irs.append(section(irs[-1], x))
        return irs[start:] if ir is None else irs

    def _ready(self, x: Any) -> Any:
        """`x` as the program wants it, which is made for batches like it where there is none."""
        x = each(_channels_last, x)
        # compiled code cannot ask; whoever compiles has run a step before
        if not torch.compiler.is_compiling() and self._made_for != self._state(x):
            with anew(self.teacher):
                self._make(x)
        return x

    @property
    def sections(self) -> Sequence[nn.Module]:
        return self._parts[1:-1]

    def _forward(self, x: Any) -> tuple[list[Tensor], Tensor]:
        stem, *sections, head = self._parts
        irs = [stem(self._entering(x), x)]
        for section in sections:
            irs.append(section(irs[-1], x))
        return irs, head(irs[-1], x)

    def _entering(self, x: Any) -> Tensor:
        """What the stem reads first."""
        inputs = self.teacher.inputs
        entering: Tensor = x if isinstance(x, Tensor) else named(x, inputs)[inputs[0]]
        return entering

    def _state(self, x: Any) -> object:
        return first(x).device, [tensor._version for tensor in self._tensors]

    def _make(self, batch: Any) -> None:
        teacher = self.teacher
        dtype = PRECISIONS[self.precision] or next(teacher.parameters()).dtype
        self._tensors = [*teacher.parameters(), *lasting(teacher)]
        self._made_for = self._state(batch)
        names = ("stem", *teacher.names, "head")
        plain, x = [], self._entering(batch)
        for name, part in zip(names, self._parts, strict=True):
            out = part.plain(x, batch)  # first: what the model refuses, it refuses in its own words
            program = None if part.plain.needs else fused(part.plain, x, dtype)
            fits = program is not None and _error(program(x), out) <= torch.finfo(dtype).eps ** 0.5
            part.runs = program if fits else part.plain
            if not fits:
                plain.append(name)
            x = out
        self.plain = tuple(plain)
        # nothing is left to fuse, and no compiler sees into such weights
        self._run = (
            torch.compiler.disable(self._forward) if any(map(is_packed, self._parts)) else self._forward
        )


def fused_model(model: nn.Module, x: Any, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """`model` as one program that computes in `dtype`, for batches like `x`; it holds its own weights.

    Batch norms go into the convolutions before them in fp64, ahead of any rounding to `dtype`; on the CPU
    convolutions are fused with what follows and prepacked for oneDNN.

    Args:
        model: fp32, in eval mode; never changed.
        x: [B, ...], floats in `dtype` or ids.

    Raises:
        ValueError: torch.fx cannot trace the model, or it reads several inputs.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"folded: the model must read one tensor, got {', '.join(x)}")
    with torch.no_grad(), torch.autocast(x.device.type, dtype, enabled=dtype == torch.bfloat16):
        program = fused(model, x, dtype)
    if program is None:
        raise ValueError(f"folded: the model must be traceable by torch.fx, got {type(model).__name__}")
    return program.to(dtype)


class _Part(nn.Module):
    """Runs a part of the teacher, as it is or as a program: one module with one identity."""

    def __init__(self, plain: Part | Whole) -> None:
        super().__init__()
        self.plain = plain
        self.runs: nn.Module | None = plain

    def forward(self, x: Tensor, batch: Any) -> Any:
        assert self.runs is not None
        return self.runs(x, batch) if self.runs is self.plain else self.runs(x)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far `observe` is from the plain teacher in its own dtype: |ours - plain| / |plain|, 2-norms.

    Attributes:
        irs: one number for each IR, the stem's output first.
        logits: of the logits.
        plain: the parts that run as they are.
    """

    irs: tuple[float, ...]
    logits: float
    plain: tuple[str, ...]


@torch.no_grad()
def agreement(inference: Inference, images: Any) -> Agreement:
    """Compare an inference program with its teacher on one batch. Reads the device."""
    with evaluating(inference.teacher):
        irs, logits = inference.observe(images)
        reset(inference.teacher)
        with torch.autocast(first(images).device.type, enabled=False):
            plain_irs, plain_logits = inference.teacher.observe(images)
    errors = tuple(_error(ours, plain) for ours, plain in zip(irs, plain_irs, strict=True))
    return Agreement(irs=errors, logits=_error(logits, plain_logits), plain=inference.plain)


def _error(ours: Tensor, plain: Tensor) -> float:
    gap, size = (ours.double() - plain.double()).norm(), plain.double().norm()
    return float(gap / size) if size else float(gap)
