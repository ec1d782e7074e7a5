"""A recipe's method: its options, checked against its signature, and the teacher's own training."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Container, Iterator
from typing import Any

from torch import nn

from litfast.config import Config, coerce
from litfast.methods import METHODS, adversarial, scratch
from litfast.models.sectioned import SectionedModel
from litfast.phase import Phase, Schedule
from litfast.registry import unknown

# options of methods that no recipe gives under [method]
COMPOSED = ("name", "student_init", "observer", "copy_sections", "domains", "input", "counts", "rehearsal")
# methods that can do without labels, and the option that says so
FREE_OF_LABELS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "lit": ("alpha", (0,)),
    "kd": ("alpha", (0,)),
    "ban": ("variant", ("ban", "dkpp")),
}


def teacher_phases(
    config: Config, teacher: SectionedModel, discriminator: nn.Module | None, domains: int
) -> Iterator[Phase]:
    """The teacher's own training, in phase "teacher"; nothing where it has weights."""
    if config.teacher is None or config.teacher.train is None:
        return
    train = config.teacher.train
    if discriminator is None:
        yield from scratch(teacher, train=train, name="teacher")
    else:
        options = teacher_options(config)
        yield from adversarial(
            teacher, discriminator, train=train, domains=domains, name="teacher", **options
        )


def trains_first(config: Config) -> bool:
    """Whether the teacher, another phase or another link is trained before the method's last phase."""
    hints = typing.get_type_hints(METHODS[config.method.name])
    *before, _ = [config.phases[name] for name, hint in hints.items() if hint is Schedule]
    taught = config.teacher is not None and config.teacher.train is not None
    return taught or len(config.student.chain) > 1 or any(schedule.epochs for schedule in before)


def teacher_options(config: Config) -> dict[str, Any]:
    """Those of the method's options that a generator's own training takes, too; of a classifier none."""
    known = inspect.signature(adversarial).parameters if trains_generator(config) else ()
    return {key: value for key, value in config.method.options.items() if key in known}


def trains_generator(config: Config) -> bool:
    """Whether the method trains a generator against a discriminator."""
    return "discriminator" in inspect.signature(METHODS[config.method.name]).parameters


def method_options(config: Config) -> dict[str, Any]:
    """Keyword arguments for the method: its own options, the student's start, one Schedule a phase."""
    name = config.method.name
    function = METHODS[name]
    hints = typing.get_type_hints(function)
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    phases = [p.name for p in keywords if hints[p.name] is Schedule]
    options = [p.name for p in keywords if p.name not in phases and p.name not in COMPOSED]
    if "teacher" in hints and config.teacher is None:
        raise ValueError(f"recipe: a [teacher] table must be given for method {name!r}, got none")
    if "teacher" not in hints and config.student.chain:
        raise ValueError(f"recipe: student.chain must be left out for method {name!r}, which has no teacher")
    _check_sections(config, hints)
    for key in config.phases:
        if key not in phases:
            raise ValueError(f"recipe: {unknown(f'a table of method {name!r}', key, phases)}")
    for key in phases:
        if key not in config.phases:
            raise ValueError(f"recipe: a [{key}] table must be given for method {name!r}, got none")
    given: dict[str, Any] = {}
    for key, value in config.method.options.items():
        if key not in options:
            raise ValueError(f"recipe: {unknown(f'method.* of method {name!r}', key, options)}")
        given[key] = coerce(hints[key], value, f"method.{key}")
    if "student_init" in hints:
        given["student_init"] = config.student.init
    elif config.student.adapters:
        raise ValueError(
            f"recipe: student.adapters must be left out for method {name!r}, which pairs no sections"
        )
    elif config.student.init != "random":
        raise ValueError(
            f"recipe: student.init must be 'random' for method {name!r}, got {config.student.init!r}"
        )
    return given | config.phases


def check_unlabelled(config: Config) -> None:
    """Refuse what needs labels, for samples that have none.

    Raises:
        ValueError: another method than lit, kd or ban, one of their options that asks for labels, or a
            teacher that would be trained.
    """
    name = config.method.name
    if name not in FREE_OF_LABELS:
        raise ValueError(
            f"recipe: method must be one of {', '.join(FREE_OF_LABELS)} without labels, got {name!r}"
        )
    option, values = FREE_OF_LABELS[name]
    given = config.method.options.get(option, inspect.signature(METHODS[name]).parameters[option].default)
    if given not in values:
        allowed = " or ".join(map(str, values))
        raise ValueError(
            f"recipe: method.{option} must be {allowed} without labels, got {given}; "
            f"--set method.{option}={values[0]}"
        )
    if config.teacher is not None and config.teacher.train is not None:
        raise ValueError(
            "recipe: teacher.weights must be given without labels, got [teacher.train], which needs them"
        )


def _check_sections(config: Config, known: Container[str]) -> None:
    """Whether the method can compress some sections alone, and trains those."""
    said, trained = config.student.sections, config.method.options.get("train_sections")
    if said and "copy_sections" not in known:
        raise ValueError(
            f"recipe: student.sections must be left out for method {config.method.name!r}, got {list(said)}"
        )
    if said and isinstance(trained, list) and not set(trained) <= set(said):
        raise ValueError(
            f"recipe: method.train_sections must be among student.sections {list(said)}, got {trained}"
        )
