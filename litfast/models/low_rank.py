"""A language model with embedding and softmax in blocks of low rank: the surgery of GroupReduce."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from litfast.models.sectioned import SectionedModel
from litfast.nn import LowRankEmbedding, LowRankSoftmax, LowRankTable
from litfast.ops.factorise import FLOAT, BudgetError

# "embedding" and, where the two are not tied, "softmax": (n_p, r_p) of every block
Groups = Mapping[str, Sequence[Sequence[int]]]


def low_rank_ends(model: nn.Module, groups: Groups, *, bits: int = 32) -> None:
    """Replaces `model.embedding` and `model.softmax` by low-rank layers of these groups, freshly initialised.

    Raises:
        ValueError: no such layers, or groups that are not of their words.
    """
    embedding, softmax = _ends(model)
    tied = softmax.weight is embedding.weight
    wanted = ["embedding"] if tied else ["embedding", "softmax"]
    if sorted(groups) != wanted:
        raise ValueError(f"low_rank_ends: groups must be given for {', '.join(wanted)}, got {sorted(groups)}")
    tables = {}
    for name, layer in (("embedding", embedding), ("softmax", softmax)):
        if name in groups:
            words, width = layer.weight.shape
            if sum(n for n, _ in groups[name]) != words:
                raise ValueError(
                    f"low_rank_ends: groups of {name} must hold {words} words, got {groups[name]}"
                )
            tables[name] = LowRankTable(groups[name], width, bits=bits)
    _replace(model, tables["embedding"], tables.get("softmax"))


def compressed(
    model: SectionedModel, counts: Tensor, *, compression: float, **options: Any
) -> SectionedModel:
    """A copy of the model whose embedding and softmax matrices take 1 / `compression` of their bytes in fp32.

    Args:
        model: with an `embedding` (nn.Embedding) and a `softmax` (nn.Linear), tied or not.
        counts: how often each word is in the training text, [N].
        compression: of each matrix; the softmax layer's bias stays as it is and is not counted.
        options: those of `ops.factorise`.

    Raises:
        ValueError: a model without these layers, more compression than the smallest ranks give, or what
            `factorise` refuses.
    """
    embedding, softmax = _ends(model.model)
    made = copy.deepcopy(model.model)
    tables = []
    names = ("embedding", "softmax")
    for name, layer in zip(names, dict.fromkeys((embedding.weight, softmax.weight)), strict=False):
        dense = FLOAT * layer.numel()
        budget = int(dense / compression)
        try:
            tables.append(LowRankTable.from_dense(layer, counts, budget=budget, **options))
        except BudgetError as error:
            most = math.floor(100 * dense / error.least) / 100
            raise ValueError(
                f"groupreduce: compression must be at most {most} here ({error.least} of the {dense} bytes "
                f"of the {name}: each block at its smallest rank), got {compression:g} ({budget} bytes)"
            ) from None
    _replace(made, *tables)
    groups = {name: table.groups for name, table in zip(names, tables, strict=False)}
    spec = None if model.spec is None else {**model.spec, "groups": groups}
    return SectionedModel(made, model.names, spec=spec)


def quantise(model: SectionedModel) -> None:
    """The low-rank tables of a `compressed` model in 8 bits, for good."""
    tables = [module for module in model.modules() if isinstance(module, LowRankTable)]
    for table in tables:
        table.quantise()
    if model.spec is not None:
        model.spec = {**model.spec, "bits": 8}


def _ends(model: nn.Module) -> tuple[nn.Embedding, nn.Linear]:
    embedding, softmax = getattr(model, "embedding", None), getattr(model, "softmax", None)
    if not isinstance(embedding, nn.Embedding) or not isinstance(softmax, nn.Linear):
        got = f"{type(embedding).__name__} and {type(softmax).__name__}"
        raise ValueError(f"groupreduce: embedding and softmax must be nn.Embedding and nn.Linear, got {got}")
    return embedding, softmax


def _replace(model: nn.Module, embedding: LowRankTable, softmax: LowRankTable | None = None) -> None:
    before, after = _ends(model)
    model.embedding = LowRankEmbedding(embedding, padding_idx=before.padding_idx)
    model.softmax = LowRankSoftmax(softmax or embedding, bias=after.bias)
