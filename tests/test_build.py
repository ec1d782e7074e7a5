from __future__ import annotations

from dataclasses import replace

import pytest

from litfast import build, config


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
