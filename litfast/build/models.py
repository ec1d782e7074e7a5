"""A recipe's models: created for the data, loaded, and checked against each other before any training."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import nn

from litfast.build.method import trains_generator
from litfast.build.splits import Data
from litfast.config import OF_DATA, Config, StudentConfig, TeacherConfig
from litfast.config.tables import AUTO
from litfast.data.sets.items import Items
from litfast.methods import METHODS, check_chain, check_labels
from litfast.models import GENERATORS, MODELS, Input, adapted, create, is_foreign, reads, width_maps
from litfast.models.blocks import blocks, share
from litfast.models.sectioned import SectionedModel, check_sections
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


OWN = "own"  # the weights that a model comes with
OF_WORDS = ("scratch", "kd", "groupreduce")  # methods whose losses take logits [B, T, K]
GIVEN = ("name", "blocks", "boundaries", *OF_DATA)  # by a table's own keys and by the data


def teacher(config: Config, data: Data) -> SectionedModel | None:
    """The teacher with the weights that the recipe names; None where there is none."""
    if config.teacher is None:
        return None
    made = model(config.teacher, data)
    if config.teacher.weights not in (None, OWN):
        load_weights(made, str(config.teacher.weights))
    return made


def students(config: Config, data: Data, teacher: SectionedModel | None) -> tuple[SectionedModel, ...]:
    """The student, or those of a chain, with the adapters and the weights that the recipe names."""
    made = tuple(model(said, data) for said in links(config))
    if config.student.adapters and teacher is not None:
        sample = model_input(config, data).example(2, generator=torch.Generator())
        chained = accumulate(
            (teacher, *made), lambda wide, thin: adapted(wide, thin, width_maps(wide, thin, sample))
        )
        made = tuple(chained)[1:]
    if config.student.weights is not None:
        load_weights(made[-1], config.student.weights)
    return made


def settled(config: Config, data: Data) -> Config:
    """The config with the student's model and blocks spelt out: of "auto", and where `sections` are named."""
    said = config.student
    if config.teacher is None or not (said.sections or said.model == AUTO):
        if said.model == AUTO:
            raise ValueError(f"recipe: a [teacher] table must be given for student.model {AUTO!r}, got none")
        return config
    taught = model(config.teacher, data)
    if said.model == AUTO:
        said = _of_teacher(said, config.teacher, taught)
    if not said.sections:
        return replace(config, student=said)
    learned = model(said, data)
    for name in said.sections:
        if name not in learned.names:
            raise ValueError(f"recipe: {unknown('student.sections', name, learned.names)}")
    counts = tuple(
        len(blocks(learned.model, name) if name in said.sections else blocks(taught.model, whole))
        for name, whole in zip(learned.names, taught.names, strict=True)
    )
    return replace(config, student=replace(said, blocks=counts))


def _of_teacher(said: StudentConfig, of: TeacherConfig, teacher: SectionedModel) -> StudentConfig:
    """The teacher's model with the share `depth` of its blocks."""
    assert said.depth is not None
    check_sections("recipe: student.model 'auto'", teacher=teacher)
    counts = tuple(share(len(blocks(teacher.model, name)), said.depth) for name in teacher.names)
    boundaries = (teacher.spec or {}).get("boundaries")
    return replace(
        said,
        model=of.model,
        depth=None,
        blocks=counts,
        boundaries=None if boundaries is None else tuple(boundaries),
        options=said.options or of.options,
    )


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
    given: dict[str, Any] = dict(said.options)
    for key in GIVEN:
        if key in given:
            raise ValueError(
                f"recipe: options of {said.model} must leave out {key}, which the data or the table itself "
                f"gives, got {given[key]!r}"
            )
    unit = _unit(said.model)
    if unit not in (None, data.unit):
        fitting = [name for name in MODELS if _unit(name) == data.unit]
        raise ValueError(
            f"recipe: a model of {data.unit} must be named for {data.name} ({', '.join(fitting)}), "
            f"got {said.model!r}, which reads {unit}"
        )
    return create(
        said.model,
        classes=len(data.classes),
        blocks=None if said.blocks is None else list(said.blocks),
        boundaries=said.boundaries,
        **_read(said.model, data),
        **given,
    )


def _read(name: str, data: Samples) -> dict[str, Any]:
    """What `create` is told of the samples."""
    if data.input.beside:
        return {"alphabet": data.input.alphabet, "size": data.input.shape, "inputs": data.input.listed}
    if data.unit == "images":
        return {"channels": data.input.shape[0], "size": data.input.shape[1:]}
    if is_foreign(name):
        return {"alphabet": data.input.alphabet, "size": data.input.shape}
    return {"alphabet": data.input.alphabet} if data.unit == "texts" else {}


def _unit(name: str) -> str | None:
    """What a model reads: a language model's ids are its classes, so it needs no other word for them."""
    if is_foreign(name):
        return reads(name)
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
