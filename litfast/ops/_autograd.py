"""Autograd around the fused ops: their forward has already written the gradients, backward hands them out.

On the CPU backward reads the incoming scale: 1 hands the gradients out as they are, anything else multiplies
out of place. Elsewhere reading it would stop the host, and break a capture, so the device decides. Where the
graph is about to be freed (the host knows that without asking the device) nobody will want the unscaled
gradients again: `Backend.scale_into` gets them as input and output, and its kernel, which reads the scale,
leaves at once when that is 1. So a plain `backward()` costs one launch and no traffic; with a loss scale it
costs 2 N elements of traffic and no memory. With `retain_graph=True` the gradients stay as they are and the
product goes to new memory: 2 N elements of traffic always. float16 students are converted in that pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._dispatch import NUMBERS, Backend, Call, students_of
from .reference import Coefficient


def fused(backend: Backend, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """total, which carries gradient to the students, parts and correct: see _library.py."""
    students = students_of(call)
    recording = torch.is_grad_enabled()
    needs = [recording and student.requires_grad for student in students]
    numbers = _pack((call.tau, call.alpha, call.beta, call.scale), students[0].device)
    args = (*call[:NUMBERS], *numbers, needs)
    if not any(needs):
        total, parts, correct, _ = backend.op(*args)
        return total, parts, correct
    losses: tuple[Tensor, Tensor, Tensor] = _Fused.apply(backend, args, *students)
    return losses


class _Fused(torch.autograd.Function):
    """Losses as a function of the students, with gradients that the forward pass has finished."""

    @staticmethod
    def forward(ctx: Any, backend: Backend, args: Sequence[Any], *students: Tensor) -> tuple[Tensor, ...]:
        total, parts, correct, gradients = backend.op(*args)
        ctx.who, ctx.needs, ctx.scale_into = args[0], args[-1], backend.scale_into
        ctx.dtypes = [student.dtype for student in students]
        ctx.save_for_backward(*gradients)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(parts, correct)
        return total, parts, correct

    @staticmethod
    def backward(ctx: Any, incoming: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        compiling = torch.compiler.is_compiling()
        if torch.is_grad_enabled() and not compiling:
            rule = "must not be differentiated twice by a fused backend, got create_graph=True"
            raise RuntimeError(f'{ctx.who}: the loss {rule}; use backend="reference"')
        if incoming is None:
            return (None,) * (2 + len(ctx.needs))
        one_number = incoming.ndim == 0 and type(incoming) is Tensor and not compiling
        # vectorize=True and is_grads_batched=True hide a batch of scales in what looks like one number.
        one_number = one_number and not torch._C._functorch.is_legacy_batchedtensor(incoming)
        if one_number and not _readable(incoming):
            wanted = [
                (g, d) for g, d, need in zip(ctx.saved_tensors, ctx.dtypes, ctx.needs, strict=True) if need
            ]
            done = iter(_scaled_on_device(wanted, incoming, ctx.scale_into))
            return (None, None, *(next(done) if need else None for need in ctx.needs))
        unit = one_number and incoming.item() == 1
        parts = zip(ctx.saved_tensors, ctx.dtypes, ctx.needs, strict=True)
        return (
            None,
            None,
            *[(g if unit else _scaled(g, incoming)).to(dtype) if need else None for g, dtype, need in parts],
        )


def _readable(scale: Tensor) -> bool:
    """Whether the host can look at `scale` without waiting for a device."""
    return scale.is_cpu


def _scaled_on_device(
    gradients: Sequence[tuple[Tensor, torch.dtype]], scale: Tensor, scale_into: Callable[..., None]
) -> list[Tensor]:
    """Each gradient times `scale` in its dtype: in place where the graph is freed and the dtype is right."""
    kept = torch._C._autograd._get_current_graph_task_keep_graph()
    out = [g if g.dtype == d and not kept else torch.empty_like(g, dtype=d) for g, d in gradients]
    scale_into([g for g, _ in gradients], scale, out)
    return out


def _scaled(gradient: Tensor, incoming: Tensor) -> Tensor:
    """Out of place, so that the graph can be run again; a loss [...] scales its gradient [..., K] by row."""
    return gradient * (incoming.unsqueeze(-1) if incoming.ndim else incoming)


def _pack(
    coefficients: Sequence[Coefficient], device: torch.device
) -> tuple[float, float, float, float, Tensor | None]:
    """As the op takes them: floats and None or, when one is a tensor, zeros and a tensor of them all.

    A tensor on the CPU is read at once, which costs nothing; to copy it to a GPU would stop the host.
    """
    if not torch.compiler.is_compiling():
        coefficients = [c.item() if type(c) is Tensor and c.is_cpu else c for c in coefficients]
    if not any(isinstance(c, Tensor) for c in coefficients):
        tau, alpha, beta, scale = map(float, coefficients)
        return tau, alpha, beta, scale, None
    # torch.full writes on the device, where torch.tensor would copy from the host
    full = functools.partial(torch.full, (), dtype=torch.float64, device=device)
    scalars = [c.detach().double() if isinstance(c, Tensor) else full(c) for c in coefficients]
    return 0.0, 0.0, 0.0, 0.0, torch.stack(scalars)
