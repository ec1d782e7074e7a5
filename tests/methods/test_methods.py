from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from litfast.methods import METHODS
from litfast.models import Input, SectionedModel, create
from litfast.phase import Schedule

MODELS = ("teacher", "student", "discriminator")
SCHEDULE = Schedule(epochs=1, lr=0.1)


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("scratch", ["train"]),
        ("kd", ["distill"]),
        ("ban", ["distill"]),
        ("lit", ["sections", "finetune"]),
        ("adversarial", ["train"]),
        ("lit_generator", ["sections", "finetune"]),
        ("fitnets", ["hint", "distill"]),
        ("metadistiller", ["train"]),
    ],
)
def test_a_method_names_its_phases_as_its_schedules(
    name: str, phases: list[str], teacher: SectionedModel, student: SectionedModel
) -> None:
    function = METHODS[name]
    models: dict[str, Any] = {
        "teacher": teacher,
        "student": student,
        "discriminator": nn.Linear(2, 2),
        "domains": 4,
    }
    models["input"] = Input((3, 8, 8))
    given = {key: model for key, model in models.items() if key in inspect.signature(function).parameters}
    assert [phase.name for phase in function(**given, **dict.fromkeys(phases, SCHEDULE))] == phases


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_option_of_a_method_is_given_by_name_and_named_in_its_docstring(name: str) -> None:
    function: Callable[..., object] = METHODS[name]
    parameters = inspect.signature(function).parameters.values()
    options = [p for p in parameters if p.name not in MODELS]
    assert all(option.kind is option.KEYWORD_ONLY for option in options)
    assert not [option.name for option in options if option.name not in (function.__doc__ or "")]


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"method must be one of .*, got 'li'; did you mean 'lit'\?"):
        METHODS["li"]


@pytest.mark.parametrize("name", ["lit", "fitnets"])
def test_a_method_of_sections_refuses_a_model_without(name: str, teacher: SectionedModel) -> None:
    whole = create("resnet8", boundaries=[])
    phases = {"lit": ("sections", "finetune"), "fitnets": ("hint", "distill")}[name]
    given: dict[str, Any] = dict.fromkeys(phases, SCHEDULE)
    given |= {"input": Input((3, 8, 8))} if name == "fitnets" else {}
    with pytest.raises(ValueError, match=f"{name}: student must have sections, got none: boundaries are"):
        next(METHODS[name](teacher, whole, **given))
    assert next(METHODS["kd"](teacher, whole, distill=SCHEDULE)).name == "distill"
