"""Sections of one width within a model of another: LIT's adapters.

Section i of a student that is d wide, in place of the teacher's, which is t wide:

    S'_i(x) = A_i S_i(B_i x),     B_i: t_{i-1} -> d_{i-1},  A_i: d_i -> t_i, linear with a bias

Stem and head are the teacher's, as in LIT, and so is the width between the sections. A_i and B_{i+1} train
with their own sections and apart from each other, so B_{i+1} A_i is no identity and none of them may be
dropped: the student is head(S'_S(... S'_1(stem(x)))), which needs nothing else of the teacher. A map takes
t d multiplications a position, a 3x3 convolution 9 d^2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from litfast.models._modes import evaluating
from litfast.models.blocks import ROWS, members
from litfast.models.sectioned import SectionedModel, check_sections

Map = Sequence[Any]  # its kind and the two widths: ("conv2d", 16, 8); empty where the widths are equal
Pair = Sequence[Map]  # in front of a section and behind it

KINDS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "conv1d": partial(nn.Conv1d, kernel_size=1),
    "conv2d": partial(nn.Conv2d, kernel_size=1),
    "conv3d": partial(nn.Conv3d, kernel_size=1),
}


class Adapted(nn.Module):
    """A layer between two maps, whatever else it is called with; `before` and `after` may be identities."""

    def __init__(self, layer: nn.Module, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.after = before, layer, after

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = self.layer(self.before(x), *args, **kwargs)
        return (self.after(out[0]), *out[1:]) if isinstance(out, tuple) else self.after(out)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a model may look at its layers: torch's encoder does
            return getattr(super().__getattr__("layer"), name)


@torch.no_grad()
def width_maps(teacher: SectionedModel, student: SectionedModel, x: Any) -> list[Pair]:
    """The maps that each section of the student needs to stand in the teacher's place.

    The axis that differs is the width: the second one of feature maps [B, C, ...] is mapped by a 1x1
    convolution, the last one of [B, ..., C] by a linear layer.

    Args:
        x: a batch of what both read, on their device; one sample is enough. It is run in eval mode.

    Raises:
        ValueError: another number of sections, or outputs that differ in more than their width.
    """
    check_sections("adapters", teacher=teacher, student=student)
    if len(teacher.names) != len(student.names):
        raise ValueError(
            f"adapters: student must have the teacher's {len(teacher.names)} sections, "
            f"got {len(student.names)} ({', '.join(student.names)})"
        )
    with evaluating(teacher, student):
        taught, learned = teacher.observe(x)[0], student.observe(x)[0]
    places = ["stem", *(f"section {name!r}" for name in student.names)]
    kinds = [_kind(*ends) for ends in zip(places, learned, taught, strict=True)]
    return [
        (_map(kinds[i], taught[i], learned[i]), _map(kinds[i + 1], learned[i + 1], taught[i + 1]))
        for i in range(len(student.names))
    ]


def adapted(teacher: SectionedModel, student: SectionedModel, pairs: Sequence[Pair]) -> SectionedModel:
    """A copy of the teacher with the sections of `student` in place of its own, between their maps.

    Args:
        teacher, student: not changed.
        pairs: what `width_maps` gave; without a single map the student itself is the answer. New maps have
            orthonormal rows or columns and no bias, drawn from torch's global generator.

    Raises:
        ValueError: sections of other numbers of modules that lie in no common list.
    """
    if not any(end for pair in pairs for end in pair):
        return student
    model = copy.deepcopy(teacher.model)
    like = next(student.parameters())
    put = []
    for name, pair in zip(student.names, pairs, strict=True):
        layers = [copy.deepcopy(student.model.get_submodule(one)) for one in members(student.model, name)]
        before, after = (_made(end).to(like.device, like.dtype) for end in pair)
        if len(layers) == 1 and any(pair):
            layers = [Adapted(layers[0], before, after)]
        elif pair[0]:
            layers[0] = Adapted(layers[0], before, nn.Identity())
        if len(layers) > 1 and pair[1]:
            layers[-1] = Adapted(layers[-1], nn.Identity(), after)
        put.append(layers)
    names = _graft(model, teacher.names, put)
    spec = None
    if teacher.spec is not None and student.spec is not None:
        said = [[list(end) for end in pair] for pair in pairs]
        spec = {**student.spec, "adapters": {"around": teacher.spec, "maps": said}}
    return SectionedModel(model, names, inputs=teacher.inputs, spec=spec)


def _kind(place: str, learned: Tensor, taught: Tensor) -> str:
    """Of the maps at the end of a part; "" where the student's output is like the teacher's."""
    ours, theirs = list(learned.shape[1:]), list(taught.shape[1:])
    if ours == theirs:
        return ""
    if len(ours) == len(theirs):
        if ours[:-1] == theirs[:-1]:
            return "linear"
        if ours[1:] == theirs[1:] and f"conv{len(ours) - 1}d" in KINDS:
            return f"conv{len(ours) - 1}d"
    raise ValueError(
        f"adapters: the output of the student's {place} must differ from the teacher's {theirs} "
        f"in its width alone, got {ours}"
    )


def _map(kind: str, source: Tensor, goal: Tensor) -> Map:
    axis = -1 if kind == "linear" else 1
    return (kind, source.shape[axis], goal.shape[axis]) if kind else ()


def _made(said: Map) -> nn.Module:
    if not said:
        return nn.Identity()
    kind, before, after = said
    made = KINDS[kind](before, after)
    nn.init.orthogonal_(made.weight)  # type: ignore[arg-type]  # torch types it as Tensor | Module
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


def _graft(model: nn.Module, names: Sequence[str], put: Sequence[Sequence[nn.Module]]) -> tuple[str, ...]:
    """Put new layers where the sections are, in place; the sections' names afterwards."""
    held = [members(model, name) for name in names]
    new: dict[str, Sequence[nn.Module]] = {}
    for whole, layers in zip(held, put, strict=True):
        one_each = len(whole) == len(layers)
        for at, path in enumerate(whole):
            new[path] = [layers[at]] if one_each else layers if at == 0 else []
    changed = {_parent(path) for path, layers in new.items() if len(layers) != 1}
    renamed = tuple(
        _slice(model, whole, new) if _parent(whole[0]) in changed else name
        for name, whole in zip(names, held, strict=True)
    )
    for folder in {_parent(path) for path in new}:
        container = model.get_submodule(folder)
        if folder not in changed:
            for path in new:
                if _parent(path) == folder:
                    container._modules[path.rpartition(".")[2]] = new[path][0]
            continue
        flat = [
            layer for path in _paths(model, folder) for layer in new.get(path, [model.get_submodule(path)])
        ]
        container._modules.clear()
        container._modules.update({str(at): layer for at, layer in enumerate(flat)})
    return renamed


def _slice(model: nn.Module, whole: Sequence[str], new: Mapping[str, Sequence[nn.Module]]) -> str:
    """The name of a section in a list that is numbered anew."""
    folder = _parent(whole[0])
    if not isinstance(model.get_submodule(folder), ROWS) or not folder:
        count = sum(len(new[path]) for path in whole)
        raise ValueError(
            f"adapters: section {whole[0]!r} must be part of a list to hold {count} modules in its place"
        )
    paths = _paths(model, folder)
    start = sum(len(new.get(path, (path,))) for path in paths[: paths.index(whole[0])])
    return f"{folder}[{start}:{start + sum(len(new[path]) for path in whole)}]"


def _paths(model: nn.Module, folder: str) -> list[str]:
    return [f"{folder}.{key}" for key in model.get_submodule(folder)._modules]


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
