"""A recipe's models: created for the data, loaded, and checked against each other before any training."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from litfast.build.data import Data
from litfast.build.method import trains_generator
from litfast.config import OF_DATA, Config, StudentConfig, TeacherConfig
from litfast.data.sets.items import Items
from litfast.methods import METHODS, check_chain, check_labels
from litfast.models import GENERATORS, MODELS, Input, create
from litfast.models.sectioned import SectionedModel
from litfast.models.stargan import Discriminator, check_size
from litfast.models.weights import load_weights
from litfast.registry import unknown


class Samples(Protocol):
    """What a model must know of its data: `Data`, or what a finished run has written down of it."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def input(self) -> Input: ...


OF_WORDS = ("scratch", "kd", "groupreduce")  # methods whose losses take logits [B, T, K]
GIVEN = ("name", "blocks", *OF_DATA)  # by a table's own keys and by the data


def teacher(config: Config, data: Data) -> SectionedModel | None:
    """The teacher with the weights that the recipe names; None where there is none."""
    if config.teacher is None:
        return None
    made = model(config.teacher, data)
    if config.teacher.weights is not None:
        load_weights(made, config.teacher.weights)
    return made


def students(config: Config, data: Data) -> tuple[SectionedModel, ...]:
    """The student, or those of a chain, with the weights that the recipe names."""
    made = tuple(model(said, data) for said in links(config))
    if config.student.weights is not None:
        load_weights(made[-1], config.student.weights)
    return made


def with_blocks(config: Config, data: Data) -> Config:
    """The config with student.blocks settled where only some sections are compressed."""
    said = config.student
    if not said.sections or config.teacher is None:
        return config
    taught, learned = model(config.teacher, data), model(said, data)
    for name in said.sections:
        if name not in learned.names:
            raise ValueError(f"recipe: {unknown('student.sections', name, learned.names)}")
    blocks = tuple(
        len(list((learned if name in said.sections else taught).model.get_submodule(name).children()))
        for name in learned.names
    )
    return replace(config, student=replace(said, blocks=blocks))


def links(config: Config) -> list[StudentConfig]:
    """One table a student: `student.chain` spelt out in the teacher's family, with its or other options."""
    said = config.student
    if not said.chain:
        return [said]
    assert config.teacher is not None
    family = re.sub(r"\d+$", "", config.teacher.model)
    options = said.options or config.teacher.options
    return [replace(said, chain=(), model=f"{family}{depth}", options=options) for depth in said.chain]


def model(said: TeacherConfig | StudentConfig, data: Samples) -> SectionedModel:
    """The configured network for the classes of a set and what its samples are."""
    takes = inspect.signature(MODELS[said.model]).parameters
    given: dict[str, Any] = dict(said.options)
    for key in GIVEN:
        if key in given:
            raise ValueError(
                f"recipe: options of {said.model} must leave out {key}, which the data or the table itself "
                f"gives, got {given[key]!r}"
            )
    unit = _unit(said.model)
    if unit != data.unit:
        fitting = [name for name in MODELS if _unit(name) == data.unit]
        raise ValueError(
            f"recipe: a model of {data.unit} must be named for {data.name} ({', '.join(fitting)}), "
            f"got {said.model!r}, which reads {unit}"
        )
    if "alphabet" in takes:
        given["alphabet"] = data.input.alphabet
    if "channels" in takes:
        given |= {"channels": data.input.shape[0], "size": data.input.shape[1:]}
    blocks = None if said.blocks is None else list(said.blocks)
    return create(said.model, classes=len(data.classes), blocks=blocks, **given)


def _unit(name: str) -> str:
    """What a model reads: a language model's ids are its classes, so it needs no other word for them."""
    takes = inspect.signature(MODELS[name]).parameters
    return "images" if "channels" in takes else "texts" if "alphabet" in takes else "words"


def discriminator(config: Config, data: Data) -> nn.Module | None:
    """What generators train against; None for a method that trains none."""
    if not trains_generator(config):
        return None
    if data.unit != "images":
        raise ValueError(
            f"recipe: method {config.method.name!r} must have a set of images, "
            f"got {data.name}, one of {data.unit}"
        )
    channels, height, width = data.input.shape
    said = config.discriminator
    critic = Discriminator(len(data.classes), image_size=(height, width), channels=channels, width=said.width)
    if said.weights is not None:
        load_weights(critic, said.weights)
    elif config.teacher is not None and config.teacher.weights is not None:
        raise ValueError(
            "recipe: discriminator.weights must be those that teacher.weights trained against "
            "(discriminator.safetensors of that run), got none"
        )
    return critic


def check_kinds(config: Config) -> None:
    """Refuse known models of another kind than the method's."""
    named = [said.model for said in (config.teacher, *links(config)) if said is not None]
    method = config.method.name
    if (words := [n for n in named if n in MODELS and _unit(n) == "words"]) and method not in OF_WORDS:
        listed = ", ".join(OF_WORDS)
        raise ValueError(f"recipe: method must be one of {listed} for {words[0]!r}, got {method!r}")
    strange = [n for n in named if n in MODELS and (n in GENERATORS) != trains_generator(config)]
    if strange:
        kind = "a generator" if trains_generator(config) else "a classifier"
        raise ValueError(f"recipe: method {config.method.name!r} must have {kind}, got {strange[0]!r}")


def check_models(
    config: Config, data: Data, teacher: SectionedModel | None, students: tuple[SectionedModel, ...]
) -> None:
    """Refuse what does not fit: labels that the method cannot take, a LIT chain that is none."""
    if trains_generator(config):
        for samples in (data.splits["train"], data.splits["test"]):
            if not isinstance(samples, Items):  # whose labels are checked as they are read
                check_labels(samples.labels, len(data.classes))
    elif data.attributes:
        raise ValueError(f"data: labels of {data.name} must be one class an image, got several attributes")
    if teacher is not None and "student_init" in inspect.signature(METHODS[config.method.name]).parameters:
        check_chain(teacher, students, model_input(config, data).example(2))


def model_input(config: Config, data: Samples) -> Input:
    """One sample as the models read it: of a generator an image and its domain's planes."""
    if not trains_generator(config):
        return data.input
    channels, height, width = data.input.shape
    check_size(height, width)
    return Input((channels + len(data.classes), height, width))
