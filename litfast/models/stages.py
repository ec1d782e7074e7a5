"""Which of the places where a model may be cut `auto` takes: the ends of its stages, or equal shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

from torch import nn

from litfast.models._trace import input_names
from litfast.models.blocks import ROWS, blocks, row
from litfast.models.discovery import candidates, run

SHARES = (4, 3, 2)  # sections of a model whose layers are all alike: the most that divide their number


def auto(model: nn.Module, x: Any, inputs: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names for `sectioned`: a section ends where the shape of what flows through the model changes.

    Of the candidates those are taken that hold one shape throughout and lie in no larger one that does; a run
    of equal shapes among them is a section, pools at its end included. What comes before the first list of
    blocks is the stem; the head begins with the model's last layer, or where the rank changes. A
    model of one such run, such as a transformer, is cut into equal shares of its longest list: four, three or
    two sections, as the number of its layers divides.

    Args:
        model, x, inputs: as in `measure`.

    Raises:
        ValueError: as `candidates`, or no layer but the last in a line.
    """
    names = candidates(model, inputs)
    shapes, _ = run(model, names, x, input_names(model, inputs), rounds=1)
    units = list(_units(model, [name for name in names if name in shapes], shapes))
    runs = _runs(model, units, shapes)
    weighted = [run for run in runs if any(_weights(model, name) for name in run)]
    ends = weighted[:-1] if len(weighted) > 1 and not _row_length(model, weighted[-1][-1]) else weighted
    picked = [_pick(model, run) for run in ends]
    rank = {name: _rank(model, run, shapes) for name, run in zip(picked, ends, strict=True)}
    stacks = [name for name in picked if _is_stack(model, name)]
    stacks = [name for name in stacks if rank[name] == max(rank[other] for other in stacks)]
    chosen = stacks or picked
    if not chosen:
        raise ValueError(
            f"sections: {type(model).__name__} must run through at least two layers in a line, "
            f"got {', '.join(names) or 'none'}; name the boundaries"
        )
    return _shares(model, chosen[0]) if len(chosen) == 1 else tuple(chosen)


def _units(model: nn.Module, names: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """The largest candidates within which no layer changes the shape, in order."""
    held: list[str] = []
    for name in names:
        if any(name.startswith(f"{outer}.") for outer in held):
            continue
        inner = [n for n in names if n.startswith(f"{name}.") and _weights(model, n)]
        if len({shapes[n] for n in inner}) > 1:
            continue  # those within are units
        held.append(name)
        yield name


def _runs(model: nn.Module, units: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> list[list[str]]:
    """Consecutive units of one output shape; those without weights, such as a pool, go with those before."""
    runs: list[list[str]] = []
    for _, group in groupby(units, key=lambda name: shapes[name]):
        run = list(group)
        if runs and not any(_weights(model, name) for name in run):
            runs[-1] += run
        else:
            runs.append(run)
    return runs


def _rank(model: nn.Module, run: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> int:
    """Of what the weights in a run give: the pool behind them may flatten."""
    return len(shapes[[name for name in run if _weights(model, name)][-1]])


def _pick(model: nn.Module, run: Sequence[str]) -> str:
    """The name of a run as a section: its longest list, a part of one, or the unit with the most blocks."""
    folders = {name.rpartition(".")[0] for name in run}
    lists = [path for path in folders if path and isinstance(model.get_submodule(path), ROWS)]
    if lists:
        path = max(lists, key=lambda path: sum(_weights(model, n) for n in run if _parent(n) == path))
        own = [name for name in run if _parent(name) == path]
        if any(_weights(model, name) for name in own):
            return _slice(model, path, own)
    return max(run, key=lambda name: (_row_length(model, name), _weights(model, name)))


def _slice(model: nn.Module, path: str, own: Sequence[str]) -> str:
    keys = [f"{path}.{key}" for key in model.get_submodule(path)._modules]
    return own[0] if len(own) == 1 else f"{path}[{keys.index(own[0])}:{keys.index(own[-1]) + 1}]"


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _is_stack(model: nn.Module, name: str) -> bool:
    """Whether a section has blocks: a part of a list, or a module that holds one."""
    path = _parent(name)
    return (
        "[" in name
        or _row_length(model, name) > 0
        or (bool(path) and isinstance(model.get_submodule(path), ROWS))
    )


def _row_length(model: nn.Module, name: str) -> int:
    try:
        return len(blocks(model, name))
    except ValueError:
        return 0


def _weights(model: nn.Module, name: str) -> int:
    """Elements of its matrices and kernels."""
    return sum(p.numel() for p in model.get_submodule(name).parameters() if p.ndim > 1)


def _shares(model: nn.Module, name: str) -> tuple[str, ...]:
    """A row of layers that are all alike, cut into equal shares; as it is where it has less than four."""
    try:
        layers = row(model, name)
    except ValueError:
        return (name,)
    total = len(layers)
    if total < 2 * SHARES[-1] or len(blocks(model, name)) < total:
        return (name,)
    count = next((n for n in SHARES if total % n == 0 and total >= 2 * n), SHARES[-1])
    path = _parent(layers[0])
    first = list(model.get_submodule(path)._modules).index(layers[0].rpartition(".")[2])
    ends = [first + round(total * at / count) for at in range(count + 1)]
    return tuple(f"{path}[{start}:{stop}]" for start, stop in pairwise(ends))
