"""The ops as modules: options at construction, by the names of the functions; tensors in the call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import ops


def _checked(op: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options, once every name among them is one of `op`'s and none that it needs is missing."""
    names = inspect.signature(op).parameters.values()
    known = {p.name: p for p in names if p.kind is p.KEYWORD_ONLY}
    inspect.Signature(list(known.values())).bind(**options)
    return options


class KDLoss(nn.Module):
    """`litfast.kd_loss` with its options fixed: KDLoss(tau=4, alpha=0.1)."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = _checked(ops.kd_loss, options)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        return ops.kd_loss(student_logits, teacher_logits, target, **self.options)


class IRLoss(nn.Module):
    """`litfast.ir_loss` with its options fixed: IRLoss(penalty="smooth_l1")."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = _checked(ops.ir_loss, options)

    def forward(self, student_irs: Sequence[Tensor], teacher_irs: Sequence[Tensor]) -> Tensor:
        return ops.ir_loss(student_irs, teacher_irs, **self.options)


class LITLoss(nn.Module):
    """`litfast.lit_loss` with its options fixed: LITLoss(alpha=0.95, beta=0.75, tau=6)."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = _checked(ops.lit_loss, options)

    def forward(
        self,
        student_irs: Sequence[Tensor],
        teacher_irs: Sequence[Tensor],
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor | None = None,
    ) -> ops.LITLoss:
        return ops.lit_loss(student_irs, teacher_irs, student_logits, teacher_logits, target, **self.options)


class LowRankTable(nn.Module):
    """A matrix [N, d] of word vectors in P blocks of words, each of its own rank: what `ops.factorise` finds.

    A state dict says in a byte a word which block is its; its row there follows from the words before it.

    Args:
        groups: (n_p, r_p) of every block, words and rank; r_p = d stores the vectors themselves.
        width: d.
        bits: 32, or 8: `int8` tables and a scale a direction, which do not train.
    """

    place: Tensor  # [N] int64, as the ops take it
    group: Tensor  # [N] uint8

    def __init__(self, groups: Sequence[Sequence[int]], width: int, *, bits: int = 32) -> None:
        super().__init__()
        if bits not in (8, 32):
            raise ValueError(f"LowRankTable: bits must be 8 or 32, got {bits}")
        for n, r in groups:
            if not (n >= 1 and 1 <= r <= width):
                raise ValueError(f"LowRankTable: groups must be words and a rank up to {width}, got {[n, r]}")
        factors = [torch.randn(n, r) / r**0.5 for n, r in groups]
        bases = [torch.randn(0 if r == width else r, width) / width**0.5 for _, r in groups]
        self.factors, self.bases = (nn.ParameterList(tables) for tables in (factors, bases))
        self.scales = nn.ParameterList()
        blocks = torch.arange(len(groups)).repeat_interleave(torch.tensor([n for n, _ in groups]))
        self.register_buffer("group", blocks.to(torch.uint8), persistent=len(groups) > 1)
        self.register_buffer("place", torch.arange(len(blocks)), persistent=False)
        if bits == 8:
            self.quantise()

    @classmethod
    def from_dense(cls, weight: Tensor, counts: Tensor, **options: Any) -> LowRankTable:
        """The table that `ops.factorise` makes of `weight` [N, d]; `options` are its own, `budget` first."""
        found = ops.factorise(weight, counts, **options)
        table = cls([list(factor.shape) for factor in found.factors], weight.shape[1])
        made = {"group": found.group} if len(found.factors) > 1 else {}
        for what, tables in (("factors", found.factors), ("bases", found.bases)):
            made |= {f"{what}.{p}": one for p, one in enumerate(tables)}
        table.load_state_dict(made)
        return table.to(weight)

    def quantise(self) -> None:
        """Replaces the tables by those of `ops.quantise`, for good."""
        made = [ops.quantise(factor, basis) for factor, basis in zip(self.factors, self.bases, strict=True)]
        self.factors, self.bases, self.scales = (
            nn.ParameterList(nn.Parameter(one, requires_grad=False) for one in tables)
            for tables in zip(*made, strict=True)
        )

    @property
    def groups(self) -> list[list[int]]:
        """(n_p, r_p) of every block."""
        return [list(factor.shape) for factor in self.factors]

    def tables(self) -> tuple[list[Tensor], list[Tensor]]:
        """Factors and bases as the ops take them; those of 8 bits become floats here."""
        if not len(self.scales):
            return list(self.factors), list(self.bases)
        factors, bases = [], []
        for factor, basis, scale in zip(self.factors, self.bases, self.scales, strict=True):
            rows, across = factor.to(scale.dtype), basis.to(scale.dtype)
            factors.append(rows if len(basis) else rows * scale)
            bases.append(across * scale[:, None] if len(basis) else across)
        return factors, bases

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        order = self.group.long().argsort(stable=True)
        self.place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


class LowRankEmbedding(nn.Module):
    """`ops.low_rank_embedding` of a table; the word `padding_idx`, if any, is always 0 and does not train."""

    def __init__(self, table: LowRankTable, *, padding_idx: int | None = None) -> None:
        super().__init__()
        self.table, self.padding_idx = table, padding_idx

    @classmethod
    def from_dense(cls, layer: nn.Embedding, counts: Tensor, **options: Any) -> LowRankEmbedding:
        """In place of `layer`: its weight as `ops.factorise` splits it, whose options these are."""
        if layer.max_norm is not None:
            raise ValueError(f"LowRankEmbedding: max_norm must be None, got {layer.max_norm}")
        table = LowRankTable.from_dense(layer.weight, counts, **options)
        return cls(table, padding_idx=layer.padding_idx)

    def forward(self, ids: Tensor) -> Tensor:
        vectors = ops.low_rank_embedding(ids.long(), *self.table.tables(), self.table.place)
        if self.padding_idx is None:
            return vectors
        return vectors.masked_fill((ids == self.padding_idx)[..., None], 0)


class LowRankSoftmax(nn.Module):
    """`ops.low_rank_softmax` of a table, in the table's dtype; the table of an embedding ties the two."""

    def __init__(self, table: LowRankTable, *, bias: Tensor | None = None) -> None:
        super().__init__()
        self.table = table
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @classmethod
    def from_dense(cls, layer: nn.Linear, counts: Tensor, **options: Any) -> LowRankSoftmax:
        """In place of `layer`: its weight as `ops.factorise` splits it, whose options these are; its bias."""
        return cls(LowRankTable.from_dense(layer.weight, counts, **options), bias=layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        factors, bases = self.table.tables()
        place = self.table.place
        return ops.low_rank_softmax(hidden.to(factors[0].dtype), factors, bases, place, self.bias)
