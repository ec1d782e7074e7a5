from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from litfast import Schedule, build, config
from litfast.methods import METHODS, scratch


@pytest.fixture
def settings() -> config.Config:
    return build.resolve(config.load("digits"))


@pytest.mark.parametrize("name", sorted(config.recipes()))
def test_every_shipped_recipe_names_its_method_and_options_rightly(name: str) -> None:
    build.method_options(config.load(name))


def test_the_digits_student_has_at_most_a_third_of_the_teachers_depth(settings: config.Config) -> None:
    from litfast.models.counting import depth

    experiment = build.experiment(settings)
    assert experiment.teacher is not None
    assert 3 * depth(experiment.student) <= depth(experiment.teacher)


def test_val_holds_training_images_out(settings: config.Config) -> None:
    held = build.experiment(replace(settings, data=replace(settings.data, val=97)))
    own = build.experiment(settings)
    assert held.val is not None and held.val.samples == 97
    assert held.train.samples == own.train.samples - 97
    assert build.experiment(replace(settings, data=replace(settings.data, val=0))).val is None


def test_resolve_leaves_no_auto(settings: config.Config) -> None:
    assert build.resolve(settings) == settings
    assert settings.engine.threads and settings.engine.device in ("cpu", "cuda")


def test_the_same_seed_makes_the_same_student_and_another_seed_another(settings: config.Config) -> None:
    def first(seed: int) -> list[float]:
        return next(build.experiment(replace(settings, seed=seed)).student.parameters()).flatten().tolist()

    assert first(0) == first(0) != first(1)


def test_a_method_that_needs_a_teacher_says_so(settings: config.Config) -> None:
    with pytest.raises(ValueError, match=r"a \[teacher\] table must be given for method 'lit', got none"):
        build.method_options(replace(settings, teacher=None))


def test_a_missing_or_foreign_phase_table_is_named(settings: config.Config) -> None:
    one = {"sections": settings.phases["sections"]}
    with pytest.raises(ValueError, match=r"a \[finetune\] table must be given"):
        build.method_options(replace(settings, phases=one))
    with pytest.raises(ValueError, match=r"did you mean 'sections'\?"):
        build.method_options(replace(settings, phases={**settings.phases, "section": one["sections"]}))


@pytest.mark.parametrize(
    ("asked", "precision", "expected"),
    [("auto", "bf16", "bf16"), ("auto", "fp32", "fp32"), ("fp32", "bf16", "fp32"), ("bf16", "fp32", "bf16")],
)
def test_the_teachers_precision_is_the_steps_unless_asked_otherwise(
    asked: str, precision: str, expected: str, settings: config.Config
) -> None:
    engine = replace(settings.engine, precision=precision, teacher_precision=asked)
    assert build.resolve(replace(settings, engine=engine)).engine.teacher_precision == expected


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_an_experiment_says_how_far_its_teacher_program_is_from_the_teacher(
    precision: str, tolerance: float, settings: config.Config
) -> None:
    engine = replace(settings.engine, teacher_precision=precision)
    experiment = build.experiment(replace(settings, engine=engine))
    assert experiment.teacher is not None
    before = experiment.teacher.training
    found = experiment.agreement()
    assert found is not None and found.plain == () and len(found.irs) == len(experiment.teacher.names) + 1
    assert 0 < max(*found.irs, found.logits) <= tolerance
    assert experiment.teacher.training == before
    assert replace(experiment, teacher=None).agreement() is None


def test_the_teachers_program_is_made_of_the_weights_it_has_after_its_own_training(
    settings: config.Config,
) -> None:
    experiment = build.experiment(settings)
    assert experiment.teacher is not None
    phases = experiment.phases()
    assert next(phases).name == "teacher"
    with torch.no_grad():
        for parameter in experiment.teacher.parameters():
            parameter.mul_(1.1)
    experiment.teacher.eval()
    images = next(iter(experiment.train.batches(0)))
    with torch.no_grad():
        seen = next(phases).observe(images)
        irs, logits = experiment.teacher.observe(images.images)
    for ours, expected in zip((*seen.irs, seen.logits), (*irs, logits), strict=True):
        assert (ours - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ["lit", "kd"])
def test_the_teachers_program_cannot_be_named_in_a_recipe(name: str, settings: config.Config) -> None:
    method = replace(settings.method, name=name, options={"observe": "x"})
    phases = {"distill": settings.phases["sections"]} if name == "kd" else settings.phases
    with pytest.raises(ValueError, match=rf"method\.\* of method '{name}' must be one of .* got 'observe'"):
        build.method_options(replace(settings, method=method, phases=phases))


def test_a_method_that_asks_for_them_gets_the_counts_of_the_words(
    words: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def counting(student: Any, *, train: Schedule, counts: Any = None) -> Any:
        given.append(counts)
        return scratch(student, train=train)

    monkeypatch.setitem(METHODS, "groupreduce", counting)
    experiment = build.experiment(replace(words, method=config.MethodConfig(name="groupreduce")))
    assert [phase.name for phase in experiment.phases()] == ["train"]
    assert given == [experiment.data.counts]
