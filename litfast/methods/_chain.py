"""A chain of students: each one, once trained, teaches the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from litfast.models.inference import Observer
from litfast.models.pairing import check_pair
from litfast.models.sectioned import SectionedModel
from litfast.phase import Phase


def chain(
    method: Callable[..., Iterator[Phase]],
    teacher: SectionedModel,
    students: Sequence[SectionedModel],
    *,
    observe: Callable[[SectionedModel], Observer] | None = None,
    **options: Any,
) -> Iterator[Phase]:
    """Run `method` once a student; the teacher of the first is `teacher`, of every other the one before it.

    The phases of link k, from 1, are named as the method names them with "-k" behind, unless there is one
    link alone. A link begins when the one before it has been trained, or loaded when a run is resumed.
    Students of the teacher's depth are the generations of Born-Again Networks.

    Args:
        method: of a teacher and a student, such as `lit`, `kd` or `ban`.
        teacher: of the first student.
        students: in the order of training; different models.
        observe: makes of each link's teacher the method's `observer`, e.g. `Inference`; None: as it is.
        options: the method's own, the same for every link.

    Raises:
        ValueError: no student, or one model twice.
    """
    models = [teacher, *students]
    if not students or len({id(model) for model in models}) < len(models):
        raise ValueError(
            f"chain: students must be at least one model, each another than the rest, got {len(students)}"
        )
    for link, (taught_by, student) in enumerate(pairwise(models), 1):
        student.to(next(taught_by.parameters()).device)  # a method may compare the two before it yields
        watched = {} if observe is None else {"observer": observe(taught_by)}
        for phase in method(taught_by, student, **options, **watched):
            yield phase if len(students) == 1 else replace(phase, name=f"{phase.name}-{link}")


def check_chain(teacher: SectionedModel, students: Sequence[SectionedModel], x: Tensor) -> None:
    """`check_pair` of every link, before anything trains.

    Args:
        teacher, students: as for `chain`.
        x: a batch in the models' dtype and on their device, [B, ...]; one sample is enough.

    Raises:
        ValueError: a link whose models do not pair up, by its number where there are several.
    """
    for link, (taught_by, student) in enumerate(pairwise([teacher, *students]), 1):
        try:
            check_pair(taught_by, student, x)
        except ValueError as error:
            if len(students) == 1:
                raise
            line = str(error).removeprefix("check_pair: ")
            raise ValueError(f"check_chain: in link {link} of {len(students)}, {line}") from None
