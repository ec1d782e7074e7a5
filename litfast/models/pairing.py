"""Teacher and student as a pair: do they fit, and what the student takes over from the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from litfast.models._modes import evaluating
from litfast.models.blocks import blocks, evenly_spaced, members
from litfast.models.sectioned import SectionedModel, check_sections

SHOWN = 3  # differing keys that an error spells out


@torch.no_grad()
def check_pair(teacher: SectionedModel, student: SectionedModel, inputs: Tensor) -> None:
    """Run both on one batch and compare the shapes of the stem output, every section output and the output.

    Both run in eval mode, so no batch-norm statistic moves; the modes are restored.

    Args:
        inputs: a batch of what the models read, [B, ...], on their device; one sample is enough.

    Raises:
        ValueError: the numbers of sections, an IR's shape, the classes or the output images disagree.
    """
    check_sections("check_pair", teacher=teacher, student=student)
    if len(teacher.names) != len(student.names):
        raise ValueError(
            f"check_pair: student must have the teacher's {len(teacher.names)} sections, "
            f"got {len(student.names)} ({', '.join(student.names)}); name as many submodules in sectioned()"
        )
    with evaluating(teacher, student):
        taught, teacher_out = teacher.observe(inputs)
        learned, student_out = student.observe(inputs)
    places = ["stem", *(f"section {name!r}" for name in student.names)]
    for place, ir, goal in zip(places, learned, taught, strict=True):
        if ir.shape != goal.shape:
            raise ValueError(
                f"check_pair: student {place} must match the teacher's output {list(goal.shape)}, "
                f"got {list(ir.shape)}; bridge them by adapters or choose equal widths"
            )
    if student_out.shape == teacher_out.shape:
        return
    if student_out.dim() == teacher_out.dim() == 2:
        raise ValueError(
            f"check_pair: student must have the teacher's {teacher_out.shape[1]} classes, "
            f"got {student_out.shape[1]}; create both with the same classes"
        )
    raise ValueError(
        f"check_pair: student output must match the teacher's {list(teacher_out.shape)}, "
        f"got {list(student_out.shape)}; create both with the same channels"
    )


def copy_ends(teacher: SectionedModel, student: SectionedModel) -> None:
    """Copy the stem's and the head's weights and buffers from teacher to student, bit for bit.

    Raises:
        ValueError: the parts have different keys or shapes.
    """
    teacher_state, student_state = teacher.state_dict(), student.state_dict()
    parts = {"stem": (teacher.stem, student.stem), "head": (teacher.head, student.head)}
    for name, (taught, learned) in parts.items():
        source = {key: teacher_state[key] for key in taught.state_keys}
        goal = {key: student_state[key] for key in learned.state_keys}
        _copy(source, goal, f"copy_ends: student {name}", "give both models the same stem and head")


def copy_model(teacher: SectionedModel, student: SectionedModel) -> None:
    """Copy all weights and buffers from teacher to student, bit for bit.

    Raises:
        ValueError: the models have different keys or shapes.
    """
    source, goal = teacher.state_dict(), student.state_dict()
    _copy(source, goal, "copy_model: student", "name the teacher's model and options for both")


def copy_sections(teacher: SectionedModel, student: SectionedModel, names: Sequence[str]) -> None:
    """Copy whole sections, weights and buffers, from teacher to student, bit for bit.

    Args:
        names: of the student's sections; each has the keys and shapes of the teacher's at its place.

    Raises:
        ValueError: the sections have different keys or shapes.
    """
    for place, name in enumerate(student.names):
        if name in names:
            who = f"copy_sections: student section {name!r}"
            source, goal = (_section_state(model, place) for model in (teacher, student))
            _copy(source, goal, who, "give it as many blocks as the teacher's")


def copy_blocks(teacher: SectionedModel, student: SectionedModel) -> dict[str, list[int]]:
    """Copy evenly spaced blocks of each teacher section into the student's: LIT's start from the teacher.

    The blocks are those of `blocks.blocks`: the children of a section's nn.Sequential, the layers of a slice.
    Of T teacher blocks the student's S get those at round(linspace(0, T - 1, S)): the first, which may change
    the width, stays first, and 9 -> 3 takes 0, 4, 8. What a section holds beside its blocks is copied too.

    Returns:
        The teacher block behind each student block, by the student's section name.

    Raises:
        ValueError: a section without a row of blocks, or with more blocks, other keys or other shapes than
            the teacher's.
    """
    chosen = {}
    for place, (teacher_name, student_name) in enumerate(zip(teacher.names, student.names, strict=True)):
        source, goal = blocks(teacher.model, teacher_name), blocks(student.model, student_name)
        if len(goal) > len(source):
            raise ValueError(
                f"copy_blocks: student section {student_name!r} must have at most the teacher's "
                f"{len(source)} blocks, got {len(goal)}; start from random weights instead"
            )
        chosen[student_name] = evenly_spaced(len(source), len(goal))
        for block, index in enumerate(chosen[student_name]):
            who = f"copy_blocks: student block {student_name}.{block}"
            taught, learned = _block_state(teacher, source[index]), _block_state(student, goal[block])
            _copy(taught, learned, who, "choose equal widths and shortcuts")
        rest = (_section_state(teacher, place, without=source), _section_state(student, place, without=goal))
        _copy(*rest, f"copy_blocks: student section {student_name!r}", "choose equal widths")
    return chosen


def _block_state(model: SectionedModel, block: Sequence[str]) -> dict[str, Tensor]:
    """A block's tensors, by keys that do not depend on its place."""
    states = [model.model.get_submodule(name).state_dict() for name in block]
    if len(states) == 1:
        return states[0]
    return {f"{at}.{key}": value for at, state in enumerate(states) for key, value in state.items()}


def _section_state(
    model: SectionedModel, place: int, *, without: Sequence[Sequence[str]] = ()
) -> dict[str, Tensor]:
    """A section's tensors, by keys that do not depend on where its slice of a list begins."""
    names, state = members(model.model, model.names[place]), model.state_dict()
    left_out = tuple(f"{name}." for block in without for name in block)
    found = {}
    for key in model.sections[place].state_keys:
        if not key.startswith(left_out):
            at = next((at for at, name in enumerate(names) if key.startswith(f"{name}.")), None)
            inner = key if at is None else key.removeprefix(f"{names[at]}.")
            found[inner if len(names) == 1 else f"{at}.{inner}"] = state[key]
    return found


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], goal: Mapping[str, Tensor], who: str, remedy: str) -> None:
    pairs = {key: (source.get(key), goal.get(key)) for key in dict.fromkeys([*source, *goal])}
    differing = [
        f"{key} {_shape(found)} for {_shape(wanted)}"
        for key, (wanted, found) in pairs.items()
        if wanted is None or found is None or wanted.shape != found.shape
    ]
    if differing:
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        shown = ", ".join(differing[:SHOWN]) + more
        raise ValueError(f"{who} must have the teacher's keys and shapes, got {shown}; {remedy}")
    for key, value in source.items():
        goal[key].copy_(value)


def _shape(value: Tensor | None) -> str:
    return "none" if value is None else str(list(value.shape))
