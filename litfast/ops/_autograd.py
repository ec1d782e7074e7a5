"""Autograd around the fused ops: their forward has already written the gradients, backward hands them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .reference import Coefficient


def fused(
    who: str,
    op: Callable[..., Any],
    students: Sequence[Tensor],
    args: Sequence[Any],
    coefficients: Sequence[Coefficient],
) -> tuple[Tensor, ...]:
    """The losses of `op(*args, *coefficients, needs)`; the first one carries gradient to the `students`."""
    args = (*args, *_pack(coefficients, students[0].device))
    needs = [torch.is_grad_enabled() and student.requires_grad for student in students]
    if not any(needs):
        return tuple(op(*args, needs)[:-1])
    return _Fused.apply(who, op, args, needs, *students)


class _Fused(torch.autograd.Function):
    """Losses as a function of the students, with gradients that the forward pass has finished."""

    @staticmethod
    def forward(
        ctx: Any, who: str, op: Callable[..., Any], args: Sequence[Any], needs: list[bool], *students: Tensor
    ) -> tuple[Tensor, ...]:
        *losses, gradients = op(*args, needs)
        ctx.who, ctx.needs = who, needs
        ctx.dtypes = [student.dtype for student in students]
        ctx.save_for_backward(*gradients)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*losses[1:])
        return tuple(losses)

    @staticmethod
    def backward(ctx: Any, incoming: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        compiling = torch.compiler.is_compiling()
        if torch.is_grad_enabled() and not compiling:
            rule = "must not be differentiated twice by a fused backend, got create_graph=True"
            raise RuntimeError(f'{ctx.who}: the loss {rule}; use backend="reference"')
        if incoming is None:
            return (None,) * (4 + len(ctx.needs))
        # Off the CPU, reading the incoming scale would stop the host; a traced tensor has no value to read.
        readable = incoming.ndim == 0 and incoming.device.type == "cpu" and type(incoming) is Tensor
        unit = readable and not compiling and incoming.item() == 1
        gradients = [
            (gradient if unit else _scaled(gradient, incoming)).to(dtype) if need else None
            for gradient, dtype, need in zip(ctx.saved_tensors, ctx.dtypes, ctx.needs, strict=True)
        ]
        return (None, None, None, None, *gradients)


def _scaled(gradient: Tensor, incoming: Tensor) -> Tensor:
    """Out of place, so that the graph can be run again; a loss [...] scales its gradient [..., K] by row."""
    return gradient * (incoming.unsqueeze(-1) if incoming.ndim else incoming)


def _pack(coefficients: Sequence[Coefficient], device: torch.device) -> tuple[float | Tensor | None, ...]:
    """As an op takes them: floats and None or, when one is a tensor, zeros and a tensor of them all."""
    if not any(isinstance(c, Tensor) for c in coefficients):
        return (*(float(c) for c in coefficients), None)
    dtype = torch.float64
    scalars = [  # torch.full writes on the device, where torch.tensor would copy from the host
        c.detach().to(device, dtype)
        if isinstance(c, Tensor)
        else torch.full((), c, dtype=dtype, device=device)
        for c in coefficients
    ]
    return (*(0.0 for _ in scalars), torch.stack(scalars))
