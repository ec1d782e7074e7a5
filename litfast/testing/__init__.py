"""What tests and benchmarks of the ops share: named samples, and the rule of how far a backend may err.

The truth is the reference in fp64 on the same, already rounded inputs. A backend may err at most twice what
the reference errs in fp32, plus one unit in the last place of the output's dtype; per tensor, by the largest
error. What is not finite in the reference must be the same in the backend. `augment`, which is no loss, must
give the reference's bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import ops
from . import low_rank
from .samples import Sample as Sample
from .samples import samples as samples

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "kd": ops.kd_loss,
    "ir": ops.ir_loss,
    "lit": ops.lit_loss,
    "channel_l1": ops.channel_l1,
}
LAYERS: dict[str, Callable[..., Any]] = {
    "low_rank_embedding": ops.low_rank_embedding,
    "low_rank_softmax": ops.low_rank_softmax,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call gave: every loss, and the gradient of the first at every student."""

    losses: list[Tensor]
    gradients: list[Tensor]


def run(sample: Sample, backend: str = "reference") -> Outcome:
    """Calls the op, forward and backward."""
    students: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        students.append(tensor.detach().requires_grad_())
        return students[-1]

    of_losses = {"kd": (0,), "ir": (0,), "lit": (0, 2), "channel_l1": (0,)}
    places = (of_losses | low_rank.PLACES)[sample.op]  # of the students among the arguments
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
