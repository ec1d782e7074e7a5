"""How alike a student's intermediate representations are to its teacher's: relative error and linear CKA."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from litfast.models.sectioned import SectionedModel, check_sections

FEWEST = 4  # samples: the debiased estimate divides by n - 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """One part of the models.

    Attributes:
        part: "stem", a section's name in the student, or "output".
        relative_error: ||student - teacher|| / ||teacher|| over all elements; None where shapes differ.
        cka: debiased linear CKA; None where a side does not vary over the samples.
    """

    part: str
    relative_error: float | None
    cka: float | None


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> float:
    """Linear centred kernel alignment of two representations of the same n samples, over all of them at once.

        CKA(X, Y) = ||Yᵀ X||²_F / (||Xᵀ X||_F ||Yᵀ Y||_F)
                  = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),  K = X Xᵀ,  L = Y Yᵀ,  HSIC(K, L) = tr(K L)

    with the columns of X and Y centred. It is 1 for representations that differ by a rotation and a scale;
    their widths may differ. Where features outnumber samples, as in flattened feature maps, it is near 1
    for unrelated representations, too. `debiased` puts the unbiased estimate in the place of each HSIC (K and
    L with zeros on the diagonal):

        HSIC(K, L) = [tr(K L) + 1ᵀK1 1ᵀL1 / ((n-1)(n-2)) - 2 1ᵀK L1 / (n-2)] / (n (n-3))

    which is around 0 for unrelated ones, on either side of it.

    Args:
        x, y: one sample a row, [n, ...]; what follows is flattened to features.
        debiased: needs n of 4 or more.

    Returns:
        NaN where a side does not vary over the samples.

    Raises:
        ValueError: other numbers of samples, or too few of them.

    Source: Kornblith, Norouzi, Lee, Hinton, Similarity of Neural Network Representations Revisited (ICML
    2019), section 3; debiased as in the authors' code and in Nguyen, Raghu, Kornblith (2021), equation 3,
    after Song et al., Feature Selection via Dependence Maximization (2012).
    """
    if len(x) != len(y):
        raise ValueError(f"linear_cka: x and y must have the same samples, got {len(x)} and {len(y)}")
    fewest = FEWEST if debiased else 2
    if len(x) < fewest:
        raise ValueError(f"linear_cka: x and y must have at least {fewest} samples, got {len(x)}")
    k, l = _gram(x), _gram(y)  # noqa: E741  as the paper calls them
    hsic = _hsic if debiased else _biased_hsic
    squared = hsic(k, k) * hsic(l, l)
    return hsic(k, l) / math.sqrt(squared) if squared > 0 else math.nan


@torch.inference_mode()
def by_section(teacher: SectionedModel, student: SectionedModel, batches: Iterable[Any]) -> list[Similarity]:
    """Compare what both models make of the same samples, each on its own path, part by part.

    The models run as they are: put them into eval mode first.

    Args:
        batches: samples as the models read them, [B, ...], on their device; 4 or more in all. Every
            representation of all of them is held in memory.

    Returns:
        The stem, every section and the output, in this order.

    Raises:
        ValueError: none or other numbers of sections, or too few samples.
    """
    check_sections("by_section", teacher=teacher, student=student)
    if len(teacher.names) != len(student.names):
        got = f"{len(student.names)} ({', '.join(student.names)})"
        raise ValueError(
            f"by_section: student must have the teacher's {len(teacher.names)} sections, got {got}"
        )
    seen = [(_representations(teacher, batch), _representations(student, batch)) for batch in batches]
    parts = ["stem", *student.names, "output"]
    return [
        _compare(part, torch.cat([taught[at] for taught, _ in seen]), torch.cat([own[at] for _, own in seen]))
        for at, part in enumerate(parts)
    ]


def _representations(model: SectionedModel, batch: Any) -> Sequence[Tensor]:
    irs, output = model.observe(batch)
    return [*irs, output]


def _compare(part: str, taught: Tensor, own: Tensor) -> Similarity:
    cka = linear_cka(taught, own, debiased=True)
    error = None
    if taught.shape == own.shape:
        norm = float(taught.float().norm())
        error = float((own.float() - taught.float()).norm()) / norm if norm else None
    return Similarity(part=part, relative_error=error, cka=cka if math.isfinite(cka) else None)


def _gram(x: Tensor) -> Tensor:
    """K = X Xᵀ of centred columns, [n, n]: the products in fp32 (fp64 stays), what follows in fp64."""
    flat = x.flatten(1) if x.dtype == torch.float64 else x.flatten(1).float()
    centred = flat - flat.mean(0)
    return (centred @ centred.T).double()


def _biased_hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741
    return float((k * l).sum())


def _hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741
    n = len(k)
    k, l = (kernel - kernel.diag().diag() for kernel in (k, l))  # noqa: E741
    ones = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ l.sum(0)) / (n - 2)
    return float((k * l).sum() + ones) / (n * (n - 3))
