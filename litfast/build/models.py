"""A recipe's models: created for the data, loaded, and checked against each other before any training."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import Any

from torch import nn

from litfast.build.data import Data
from litfast.config import Config, StudentConfig, TeacherConfig
from litfast.methods import METHODS
from litfast.models import MODELS, create
from litfast.models.pairing import check_pair
from litfast.models.sectioned import SectionedModel
from litfast.models.weights import load_weights


def models(config: Config, data: Data) -> tuple[SectionedModel | None, tuple[SectionedModel, ...]]:
    """The teacher, and the student or the students of a chain, with the weights that the recipe names."""
    teacher = None if config.teacher is None else model(config.teacher, data)
    if teacher is not None and config.teacher is not None and config.teacher.weights is not None:
        load_weights(teacher, config.teacher.weights)
    students = tuple(model(said, data) for said in links(config))
    if config.student.weights is not None:
        load_weights(students[-1], config.student.weights)
    return teacher, students


def links(config: Config) -> list[StudentConfig]:
    """One table a student: `student.chain` spelt out in the teacher's family."""
    said = config.student
    if not said.chain:
        return [said]
    assert config.teacher is not None
    family = re.sub(r"\d+$", "", config.teacher.model)
    return [replace(said, chain=(), model=f"{family}{depth}") for depth in said.chain]


def model(said: TeacherConfig | StudentConfig, data: Data) -> SectionedModel:
    """The configured network for the classes of a set and what its samples are."""
    takes = inspect.signature(MODELS[said.model]).parameters
    given: dict[str, Any] = dict(said.options)
    unit = "texts" if "alphabet" in takes else "images"
    if unit != data.unit:
        fitting = [
            name
            for name, make in MODELS.items()
            if ("alphabet" in inspect.signature(make).parameters) == (data.unit == "texts")
        ]
        raise ValueError(
            f"recipe: a model of {data.unit} must be named for {data.name} ({', '.join(fitting)}), "
            f"got {said.model!r}, which reads {unit}"
        )
    if unit == "texts":
        given.setdefault("alphabet", data.input.alphabet)
    else:
        given["channels"] = data.input.shape[0]
    blocks = None if said.blocks is None else list(said.blocks)
    return create(said.model, classes=len(data.classes), blocks=blocks, **given)


def discriminator(config: Config, data: Data) -> nn.Module | None:
    """What judges a generator; None for a method that trains none."""
    return None


def check_models(
    config: Config, data: Data, teacher: SectionedModel | None, students: tuple[SectionedModel, ...]
) -> None:
    """Refuse what does not fit: neighbours of a LIT chain are a pair."""
    if data.attributes:
        raise ValueError(f"data: labels of {data.name} must be one class an image, got several attributes")
    if teacher is None or "student_init" not in inspect.signature(METHODS[config.method.name]).parameters:
        return
    for taught, learned in zip((teacher, *students), students, strict=False):
        check_pair(taught, learned, data.input.example(2))
