"""The blocks of a section: of `layer1`, a row of its own, or of `encoder.layers[0:3]`, a part of a list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn

SLICE = re.compile(r"(.+)\[(\d+):(\d+)\]")
ROWS = (nn.Sequential, nn.ModuleList)
# They change the shape on purpose, so they stay where a section loses blocks, and are none.
RESHAPING = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.Flatten, nn.Unflatten, nn.Upsample, nn.PixelShuffle),
)


def members(model: nn.Module, name: str) -> tuple[str, ...]:
    """The submodules that a section's name stands for, by their names.

    Args:
        name: "layer1" is itself; "encoder.layers[0:3]" are the children 0, 1 and 2 of `encoder.layers`.

    Raises:
        AttributeError: no such submodule.
        ValueError: a slice that is empty or longer than its list.
    """
    found = SLICE.fullmatch(name)
    if found is None:
        model.get_submodule(name)
        return (name,)
    path, start, stop = found[1], int(found[2]), int(found[3])
    keys = list(model.get_submodule(path)._modules)
    if not start < stop <= len(keys):
        raise ValueError(f"sectioned: {name!r} must lie within the {len(keys)} modules of {path!r}")
    return tuple(f"{path}.{key}" for key in keys[start:stop])


def row(model: nn.Module, name: str) -> tuple[str, ...]:
    """The modules in a row that make up a section: a slice's, an nn.Sequential's, else its largest list's.

    Raises:
        ValueError: there is no such row.
    """
    if SLICE.fullmatch(name):
        return members(model, name)
    section = model.get_submodule(name)
    path = name
    if not isinstance(section, ROWS):
        lists = {key: child for key, child in section.named_children() if isinstance(child, ROWS)}
        if not lists:
            kind = type(section).__name__
            raise ValueError(f"blocks: section {name!r} must be an nn.Sequential of blocks, got {kind}")
        key = max(lists, key=lambda key: sum(p.numel() for p in lists[key].parameters()))
        section, path = lists[key], f"{name}.{key}"
    return tuple(f"{path}.{key}" for key in section._modules)


def blocks(model: nn.Module, name: str) -> list[tuple[str, ...]]:
    """The blocks of a section, each as the names of its modules.

    A block is a module of the row that has weights, together with those that follow it and have none: a
    residual block, a transformer layer; in a row of plain layers a convolution, its batch norm and its ReLU.
    Modules that only reshape (pools, flatten) belong to no block.

    Raises:
        ValueError: the section is no row of modules.
    """
    grouped: list[list[str]] = []
    weighted = False
    for child in row(model, name):
        module = model.get_submodule(child)
        if isinstance(module, RESHAPING):
            continue
        begins = _has_weights(module)
        if not grouped or (begins and weighted):
            grouped.append([])
            weighted = False
        grouped[-1].append(child)
        weighted |= begins
    return [tuple(block) for block in grouped]


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` of `total` places, the first and (from two on) the last among them."""
    return [round(place * (total - 1) / max(count - 1, 1)) for place in range(count)]


def share(total: int, depth: float) -> int:
    """How many of `total` blocks a student of that relative depth has: at least one."""
    return max(1, round(depth * total))


def keep(model: nn.Module, names: Sequence[str], counts: Sequence[int]) -> tuple[str, ...]:
    """Leave evenly spaced blocks in each section, in place; the sections' names afterwards.

    Lists numbered from 0 are numbered anew, so that the keys are those of a model made with so many blocks.

    Args:
        names: the sections.
        counts: blocks that each of them keeps.

    Raises:
        ValueError: another number of counts than sections, or a count that a section has not.
    """
    if len(counts) != len(names):
        raise ValueError(f"create: blocks must be {len(names)} counts, one a section, got {list(counts)}")
    dropped: set[str] = set()
    for name, count in zip(names, counts, strict=True):
        found = blocks(model, name)
        if not 1 <= count <= len(found):
            raise ValueError(
                f"create: blocks of section {name!r} must be a count from 1 to its {len(found)}, got {count}"
            )
        kept = evenly_spaced(len(found), count)
        dropped.update(child for at, block in enumerate(found) if at not in kept for child in block)
    renamed = tuple(_shifted(model, name, dropped) for name in names)
    for path in dict.fromkeys(child.rpartition(".")[0] for child in dropped):
        _drop(model.get_submodule(path), path, dropped)
    return renamed


def _has_weights(module: nn.Module) -> bool:
    """Whether it computes sums, as a convolution or a linear layer does; scales of a norm are vectors."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _shifted(model: nn.Module, name: str, dropped: Iterable[str]) -> str:
    """A section's name once the modules in `dropped` are gone."""
    found = SLICE.fullmatch(name)
    if found is None:
        return name
    path = found[1]
    left = [f"{path}.{key}" not in dropped for key in model.get_submodule(path)._modules]
    start, stop = (sum(left[: int(place)]) for place in (found[2], found[3]))
    return f"{path}[{start}:{stop}]"


def _drop(container: nn.Module, path: str, dropped: Iterable[str]) -> None:
    kept = {key: module for key, module in container._modules.items() if f"{path}.{key}" not in dropped}
    if all(key.isdigit() for key in kept):
        kept = {str(at): module for at, module in enumerate(kept.values())}
    container._modules.clear()
    container._modules.update(kept)
