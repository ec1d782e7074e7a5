"""Weights that stay zero or shared while they train: parametrizations, put on and taken off again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import (
    is_parametrized,
    register_parametrization,
    remove_parametrizations,
)

from litfast.registry import unknown

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    ),
    "linear": (nn.Linear,),
}
LLOYD_STEPS = 1000  # rounding may let two assignments take turns for ever


class Pruned(nn.Module):
    """A weight whose removed elements are exactly 0 and get no gradient.

    Args:
        gone: which are removed, bool, of the weight's shape.
    """

    def __init__(self, gone: Tensor) -> None:
        super().__init__()
        self.gone: Tensor
        self.register_buffer("gone", gone)

    def forward(self, weight: Tensor) -> Tensor:
        return weight.masked_fill(self.gone, 0.0)


class Shared(nn.Module):
    """A weight from a codebook: weight[place_n] = codebook[index_n], all else exactly 0.

    The gradient of a centroid is the sum of its members': dL/dc_k = sum_{n: index_n = k} dL/dw_n.

    Args:
        shape: of the weight.
        place: [N], where its values lie, in the order of the flat weight.
        index: [N], which centroid each is.
    """

    def __init__(self, shape: torch.Size, place: Tensor, index: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.place: Tensor
        self.index: Tensor
        self.register_buffer("place", place)
        self.register_buffer("index", index)

    def forward(self, codebook: Tensor) -> Tensor:
        flat = codebook.new_zeros(self.shape.numel())
        return flat.scatter(0, self.place, codebook[self.index]).view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The codebook [K] of a weight: each centroid is the mean of its members."""
        values = weight.flatten()[self.place].double()
        sizes = torch.bincount(self.index)
        means = values.new_zeros(len(sizes)).index_add(0, self.index, values) / sizes
        return means.to(weight.dtype)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers of a model by name, in its own order.

    Raises:
        ValueError: there is none, or two have one weight.
    """
    known = tuple(kind for kinds in KINDS.values() for kind in kinds)
    found = {name: module for name, module in model.named_modules() if isinstance(module, known)}
    if not found:
        raise ValueError("layers: model must have a convolution or a linear layer, got none")
    owners: dict[int, str] = {}
    for name, module in found.items():
        other = owners.setdefault(id(module.get_parameter("weight")), name)
        if other != name:
            raise ValueError(f"layers: layers must each have their own weight, got one of {other} and {name}")
    return found


def by_layer(
    who: str, what: str, said: float | Mapping[str, float], found: Mapping[str, nn.Module]
) -> dict[str, float]:
    """A number for each layer: one for all, or a table by the layers' names.

    In a table `conv` and `linear` speak for the layers of their kind that it does not name.

    Args:
        who, what: the caller and the table's name, for errors.
        found: what `layers` gives.

    Raises:
        ValueError: a name that is no layer, a layer without a number, a value that is no number.
    """
    table = dict(said) if isinstance(said, Mapping) else dict.fromkeys(KINDS, said)
    for name, value in table.items():
        if name not in found and name not in KINDS:
            raise ValueError(f"{who}: {unknown(what, name, [*found, *KINDS])}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{who}: {what} of {name} must be a number, got {value!r}")
    numbers = {}
    for name, module in found.items():
        kind = next(kind for kind, kinds in KINDS.items() if isinstance(module, kinds))
        if name not in table and kind not in table:
            given = ", ".join(table) or "none"
            raise ValueError(f"{who}: {what} must have a number for layer {name} or {kind}, got {given}")
        numbers[name] = table[name if name in table else kind]
    return numbers


@torch.no_grad()
def prune(layer: nn.Module, removed: float) -> None:
    """Keep the `removed` fraction of a layer's weights, those of the smallest magnitude, at exactly zero.

    Of equal magnitudes the earlier ones go first. A weight that is 0 already is among the smallest.

    Args:
        layer: has a `weight`, which is parametrized until `settle`.
        removed: at least 0; so many that at least one weight stays.
    """
    weight = layer.get_parameter("weight")
    order = weight.abs().flatten().sort(stable=True).indices
    gone = torch.zeros_like(order, dtype=torch.bool)
    gone[order[: removed_count(len(order), removed)]] = True
    register_parametrization(layer, "weight", Pruned(gone.view(weight.shape)))


def removed_count(count: int, removed: float) -> int:
    """How many of `count` weights a removed fraction stands for."""
    return round(removed * count)


@torch.no_grad()
def share(layer: nn.Module, bits: int) -> None:
    """Let the non-zero weights of a layer share at most 2^bits values, k-means' centroids, which then train.

    Args:
        layer: has a `weight` that is not all zeros, which is parametrized until `settle`.
        bits: of a codebook's index.

    Raises:
        ValueError: all weights are zero.
    """
    weight = layer.get_parameter("weight")
    flat = weight.flatten()
    place = flat.nonzero().flatten()
    if not len(place):
        raise ValueError(f"share: weight must hold a number other than 0, got {len(flat)} zeros")
    index = clusters(flat[place], 2**bits).to(weight.device)
    register_parametrization(layer, "weight", Shared(weight.shape, place, index))


def settle(layer: nn.Module) -> None:
    """Make a pruned or shared weight an ordinary parameter again, of exactly the values that it has."""
    if is_parametrized(layer, "weight"):
        remove_parametrizations(layer, "weight", leave_parametrized=True)
        # torch puts the weight last; the order of parameters is that of the model again
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if name != "weight":
                delattr(layer, name)
                layer.register_parameter(name, parameter)


def clusters(values: Tensor, count: int) -> Tensor:
    """k-means of numbers by Lloyd's steps from evenly spaced centroids, in fp64; the same wherever it runs.

    On a line the members of a centroid are neighbours, so a step is a search for the middles between the
    centroids in the sorted values, and differences of their running sum. Pruning leaves a hole around zero:
    a centroid without members moves to the largest member of the cluster with the largest sum of squares.

    Args:
        values: [N], at least one.
        count: of centroids; those without members at the end are left out.

    Returns:
        [N], int64 on the CPU: the cluster of each value, numbered from 0 as their centroids ascend.

    Source: Deep Compression, sections 3.1 (within-cluster sum of squares) and 3.2 (linear initialisation).
    """
    ascending, order = values.detach().cpu().double().sort(stable=True)
    sums, squares = (F.pad((ascending**power).cumsum(0), (1, 0)) for power in (1, 2))
    centroids = torch.linspace(float(ascending[0]), float(ascending[-1]), count, dtype=torch.float64)
    edges = torch.zeros(count + 1, dtype=torch.int64)
    for _ in range(LLOYD_STEPS):
        middles = (centroids[1:] + centroids[:-1]) / 2
        before, edges = edges, torch.zeros_like(edges)
        edges[1:-1] = torch.searchsorted(ascending, middles, right=True)
        edges[-1] = len(ascending)
        if torch.equal(edges, before):
            break
        moments = sums[edges].diff(), squares[edges].diff()
        centroids = _moved(ascending, edges, moments, centroids)
    sizes = edges.diff()
    sizes = sizes[sizes > 0]
    index = torch.empty_like(order)
    index[order] = torch.arange(len(sizes)).repeat_interleave(sizes)
    return index


def _moved(ascending: Tensor, edges: Tensor, moments: tuple[Tensor, Tensor], centroids: Tensor) -> Tensor:
    """Each centroid to the mean of its members; one without any to the cluster of the largest sum of squares.

    Args:
        ascending: [N], the values.
        edges: [K + 1]; the members of centroid k are ascending[edges[k]:edges[k + 1]].
        moments: [K] each, the sums of a centroid's members and of their squares.
        centroids: [K].
    """
    sums, squares = moments
    first, stop = edges[:-1], edges[1:]
    sizes = edges.diff()
    centroids = torch.where(sizes > 0, sums / sizes.clamp_min(1), centroids)
    largest = ascending[(stop - 1).clamp_min(0)]
    divisible = (sizes > 1) & (ascending[first.clamp_max(len(ascending) - 1)] < largest)
    spread = (squares - sums**2 / sizes.clamp_min(1)).masked_fill(~divisible, -torch.inf)
    empty = (sizes == 0).nonzero().flatten()
    widest = spread.sort(descending=True, stable=True).indices
    widest = widest[divisible[widest]][: len(empty)]
    centroids[empty[: len(widest)]] = largest[widest]
    return centroids.sort().values
