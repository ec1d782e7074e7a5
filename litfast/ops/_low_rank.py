"""The low-rank ops of `torch.ops.litfast`: their calls, schemas, fakes and gradients.

A backend computes the forward pass. The gradients are a few matrix products on small factors, which no kernel
does better than torch: they are written here once, for every backend, and differentiable again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..registry import Registry
from ._checks import is_transformed
from ._dispatch import Backend
from ._library import LIBRARY, MISSING


class Call(NamedTuple):
    """One call of either op, checked by the public function."""

    who: str
    x: Tensor  # ids [...] int64, or hidden [..., d]
    factors: Sequence[Tensor]  # P of [n_p, r_p]
    bases: Sequence[Tensor]  # P of [r_p, d]; [0, d]: a dense block
    place: Tensor  # [N] int64
    bias: Tensor | None = None  # [N]


EMBEDDING_BACKENDS: Registry[Backend[Call]] = Registry("backend")
SOFTMAX_BACKENDS: Registry[Backend[Call]] = Registry("backend")


def new_vectors(ids: Tensor, factors: Sequence[Tensor], bases: Sequence[Tensor]) -> Tensor:
    """Room for what the look-up returns, [..., d]."""
    return factors[0].new_empty((*ids.shape, bases[0].shape[1]))


def new_logits(hidden: Tensor, place: Tensor) -> Tensor:
    """Room for what the softmax returns, [..., N]."""
    return hidden.new_empty((*hidden.shape[:-1], place.shape[0]))


def define(prefix: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The ops `litfast::<prefix>low_rank_embedding` and `..._softmax` with their fakes."""
    embedding, softmax = f"{prefix}low_rank_embedding", f"{prefix}low_rank_softmax"
    tag = torch.Tag.pt2_compliant_tag
    LIBRARY.define(
        f"{embedding}(Tensor ids, Tensor[] factors, Tensor[] bases, Tensor place) -> Tensor", tags=tag
    )
    LIBRARY.define(
        f"{softmax}(Tensor hidden, Tensor[] factors, Tensor[] bases, Tensor place, Tensor? bias) -> Tensor",
        tags=tag,
    )
    fakes: dict[str, Callable[..., Tensor]] = {
        embedding: lambda ids, factors, bases, place: new_vectors(ids, factors, bases),
        softmax: lambda hidden, factors, bases, place, bias: new_logits(hidden, place),
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"litfast::{name}", fake, lib=LIBRARY)
    ops = torch.ops.litfast
    return getattr(ops, embedding).default, getattr(ops, softmax).default


def implement(
    prefix: str, device: str, look_up: Callable[[Call], Tensor], score: Callable[[Call], Tensor]
) -> None:
    """What the two ops do on `device`, CPU or CUDA."""
    name = f"{prefix}low_rank_embedding"
    LIBRARY.impl(name, lambda *args: look_up(Call("low_rank_embedding", *args)), device)
    LIBRARY.impl(f"{prefix}low_rank_softmax", lambda *args: score(Call("low_rank_softmax", *args)), device)


def only_reference(call: Call) -> str | None:
    """What no fused backend serves."""
    if is_transformed():
        return "a torch.func transform"
    return "forward-mode AD" if forward_ad._current_level >= 0 else None


def id_error(value: int, words: int) -> ValueError:
    """The error for an id that is no word."""
    return ValueError(f"low_rank_embedding: ids must lie in [0, {words}), got {value}")


def embedded(backend: Backend[Call], call: Call) -> Tensor:
    """The vectors [..., d], which carry gradient to factors and bases."""
    tables = (*call.factors, *call.bases)
    if not _recording(tables):
        vectors: Tensor = backend.op(*call[1:5])
        return vectors
    vectors = _Embedding.apply(backend.op, call.x, call.place, *tables)
    return vectors


def scored(backend: Backend[Call], call: Call) -> Tensor:
    """The logits [..., N], which carry gradient to hidden, factors, bases and bias."""
    tables = (*call.factors, *call.bases)
    logits: Tensor
    if not _recording((call.x, *tables, *(() if call.bias is None else (call.bias,)))):
        logits = backend.op(*call[1:])
        return logits
    logits = _Softmax.apply(backend.op, call.x, call.place, call.bias, *tables)
    return logits


def _recording(tensors: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _halves(tables: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return list(tables[: len(tables) // 2]), list(tables[len(tables) // 2 :])


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: Callable[..., Tensor], ids: Tensor, place: Tensor, *tables: Tensor) -> Tensor:
        ctx.save_for_backward(ids, place, *tables)
        return op(ids, *_halves(tables), place)

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        """Of a block's own words: d factor[j] = sum g @ basis^T, d basis = rows^T @ g; nothing is selected by
        a mask, which would make the host wait: words of other blocks come in as zeros."""
        ids, place, *tables = ctx.saved_tensors
        factors, bases = _halves(tables)
        dtype = _maths(incoming)
        g, words = incoming.to(dtype).reshape(-1, incoming.shape[-1]), ids.flatten()
        known = (words >= 0) & (words < len(place))
        at = place[words * known]
        slopes: list[Tensor] = []
        base_slopes: list[Tensor] = []
        for factor, basis in zip(factors, bases, strict=True):
            inside = known & (at >= 0) & (at < len(factor))
            rows, own = at * inside, torch.where(inside[:, None], g, 0)
            to_rows = own @ basis.to(dtype).T if len(basis) else own
            slope = torch.ops.aten.embedding_dense_backward(to_rows, rows, len(factor), -1, False)
            slopes.append(slope.to(factor.dtype))
            base_slopes.append(
                (factor[rows].to(dtype).T @ own).to(basis.dtype) if len(basis) else torch.zeros_like(basis)
            )
            at = at - len(factor)
        return (None, None, None, *slopes, *base_slopes)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        op: Callable[..., Tensor],
        hidden: Tensor,
        place: Tensor,
        bias: Tensor | None,
        *tables: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(hidden, place, *tables)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return op(hidden, *_halves(tables), place, bias)

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        """With z = basis @ hidden and g the block's columns: d factor = g^T z, d z = g factor,
        d basis = (d z)^T hidden, d hidden = sum of d z basis."""
        hidden, place, *tables = ctx.saved_tensors
        factors, bases = _halves(tables)
        dtype = _maths(incoming)
        x = hidden.to(dtype).reshape(-1, hidden.shape[-1])
        words = torch.zeros_like(place).scatter_(0, place, torch.arange(len(place), device=place.device))
        slope_of = incoming.to(dtype).reshape(-1, len(place))
        to_hidden = torch.zeros_like(x)
        slopes: list[Tensor] = []
        base_slopes: list[Tensor] = []
        own = _columns(slope_of, words).split([len(factor) for factor in factors], 1)
        for factor, basis, g in zip(factors, bases, own, strict=True):
            z = x @ basis.to(dtype).T if len(basis) else x
            to_z = g @ factor.to(dtype)
            slopes.append((g.T @ z).to(factor.dtype))
            base_slopes.append((to_z.T @ x).to(basis.dtype) if len(basis) else torch.zeros_like(basis))
            to_hidden = to_hidden + (to_z @ basis.to(dtype) if len(basis) else to_z)
        to_bias = None if ctx.bias_dtype is None else slope_of.sum(0)
        return (
            None,
            to_hidden.to(hidden.dtype).view_as(hidden),
            None,
            None if to_bias is None else to_bias.to(ctx.bias_dtype),
            *slopes,
            *base_slopes,
        )


def _columns(x: Tensor, index: Tensor) -> Tensor:
    """x[:, index]; on the CPU by a kernel, as torch takes ten times as long for single columns."""
    native = MISSING is None and x.is_cpu and not torch.is_grad_enabled()
    taken: Tensor = _COLUMNS_OP(x, index) if native else x[:, index]
    return taken


def _define_columns() -> Callable[..., Any]:
    LIBRARY.define("columns(Tensor x, Tensor index) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
    fake = "litfast::columns"
    torch.library.register_fake(fake, lambda x, index: x.new_empty(len(x), len(index)), lib=LIBRARY)
    op: Callable[..., Any] = torch.ops.litfast.columns.default
    return op


def implement_columns(device: str, run: Callable[[Tensor, Tensor], Tensor]) -> None:
    """What x[:, index] is done by on `device`; the index is within the columns."""
    LIBRARY.impl("columns", run, device)


def _maths(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


OPS = define("")
_COLUMNS_OP = _define_columns()
