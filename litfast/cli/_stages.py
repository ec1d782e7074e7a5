"""The stages of a search: which option is tried on which model, and what is picked."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from litfast.bench.metric import METRICS, Metric
from litfast.cli import _trials
from litfast.config import Config, MethodConfig, StudentConfig
from litfast.methods import METHODS
from litfast.models import MODELS, is_foreign
from litfast.phase import Schedule
from litfast.registry import unknown

ORDER = ("tau", "alpha", "beta")  # the LIT paper's
TAU_TABLE = "distill"  # a recipe's own schedule for the stage tau, where its method has no such phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One option of the method: the values to try on top of a config, and the value that the recipe has."""

    key: str
    values: tuple[float, ...]
    own: float
    settings: Config

    def named(self, value: float, chosen: Mapping[str, float]) -> str:
        """A trial's name and folder, with what was chosen before: another choice is another trial."""
        return ",".join(f"{key}={number:g}" for key, number in {self.key: value, **chosen}.items())

    def config(self, value: float, chosen: Mapping[str, float]) -> Config:
        """The config of one trial."""
        return with_options(self.settings, {**chosen, self.key: value})


def plain(settings: Config) -> Config:
    """The recipe without the table that only the stage tau reads."""
    takes = inspect.signature(METHODS[settings.method.name]).parameters
    kept = {key: value for key, value in settings.phases.items() if key != TAU_TABLE or key in takes}
    return replace(settings, phases=kept)


def stages(settings: Config, given: Mapping[str, tuple[float, ...]], small: str | None) -> list[Stage]:
    """The stages of a recipe in the paper's order, each with the values `given` for it.

    Raises:
        ValueError: a method with nothing to search.
    """
    name = settings.method.name
    takes = inspect.signature(METHODS[name]).parameters
    searched = [key for key in ORDER if key in takes]
    if not searched:
        raise ValueError(f"search: method must have an option {', '.join(ORDER)} to search, got {name!r}")
    found = []
    for key in searched:
        own = float(settings.method.options.get(key, takes[key].default))
        base = _with_small_student(settings, small) if key == "tau" else plain(settings)
        found.append(Stage(key=key, values=given[key], own=own, settings=base))
    return found


def with_options(settings: Config, options: Mapping[str, float]) -> Config:
    """The config with options of its method set, those that the method has."""
    takes = inspect.signature(METHODS[settings.method.name]).parameters
    kept = {key: value for key, value in options.items() if key in takes}
    return replace(settings, method=replace(settings.method, options=settings.method.options | kept))


def pick(stage: Stage, outcomes: Sequence[_trials.Outcome]) -> float | None:
    """The value of the best validation result; of equals that nearest to the recipe's own, or the first."""
    scored = [
        (metric.cost(outcome.results[f"val_{metric.name}"]), abs(value - stage.own), at, value)
        for at, (value, outcome) in enumerate(zip(stage.values, outcomes, strict=True))
        if outcome.results is not None and (metric := validated(outcome.results))
    ]
    return min(scored)[-1] if scored else None


def validated(results: Mapping[str, Any]) -> Metric:
    """What a trial is judged by: of a language model perplexity, else accuracy."""
    return METRICS["accuracy" if results.get("val_perplexity") is None else "perplexity"]


def smallest(model: str) -> str:
    """The shallowest model of the same family: resnet8 for resnet56; a model without a family is its own."""
    depths = {name: re.fullmatch(r"(.*?)(\d+)", name) for name in (model, *MODELS)}
    own = depths[model]
    if own is None or model not in MODELS:
        return model
    family = [m for m in depths.values() if m is not None and m[1] == own[1]]
    return min(family, key=lambda match: int(match[2]))[0]


def _with_small_student(settings: Config, small: str | None) -> Config:
    """Plain KD of a small student, in as many epochs as the recipe's own phases have together."""
    kept = inspect.signature(METHODS["kd"]).parameters
    options = {key: value for key, value in settings.method.options.items() if key in kept}
    return replace(
        settings,
        student=_small(settings, small),
        method=MethodConfig(name="kd", options=options),
        phases={TAU_TABLE: _schedule(settings)},
    )


def _small(settings: Config, small: str | None) -> StudentConfig:
    student = settings.student
    if small is None and (student.model == "auto" or is_foreign(student.model)):
        return replace(student, init="random", sections=())  # a family of one: KD of the student itself
    deep = student.model or (settings.teacher.model if settings.teacher is not None else "")
    if small is not None and small not in MODELS and ":" not in small:
        raise ValueError(f"search: {unknown('--student', small, MODELS)}")
    name = small or smallest(deep)
    alike = smallest(name) == smallest(deep)
    return StudentConfig(model=name, options=student.options if alike else {})


def _schedule(settings: Config) -> Schedule:
    """The recipe's [distill] table, or the schedule of the method's first phase, as long as all of them."""
    if TAU_TABLE in settings.phases:
        return settings.phases[TAU_TABLE]
    takes = inspect.signature(METHODS[settings.method.name]).parameters
    phases = [settings.phases[key] for key in takes if key in settings.phases]
    return replace(phases[0], epochs=sum(phase.epochs for phase in phases))


def numbers(option: str, text: str) -> tuple[float, ...]:
    """`1,2,4` as numbers, each once."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)) or len(set(found)) < len(found):
        raise ValueError(f"search: {option} must be different numbers separated by ',', got {text!r}")
    return found
