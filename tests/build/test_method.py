from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from litfast import build, config
from litfast.config import StudentConfig


def changed(settings: config.Config, **student: Any) -> config.Config:
    return replace(settings, student=StudentConfig(**student))


def with_options(settings: config.Config, **options: Any) -> config.Config:
    return replace(settings, method=replace(settings.method, options=options))


@pytest.fixture
def lit() -> config.Config:
    return config.load("digits")


@pytest.mark.parametrize(
    ("recipe", "generator"),
    [
        ("digits", False),
        ("celeba_stargan6_stargan2", True),
        ("amazon_full_vdcnn29_chain", False),
        ("cifar10_resnet56_born_again", False),
    ],
)
def test_a_method_with_a_discriminator_trains_a_generator(recipe: str, generator: bool) -> None:
    assert build.trains_generator(config.load(recipe)) is generator


def test_the_options_of_a_generators_teacher_are_those_that_its_training_has(
    generators: config.Config, lit: config.Config
) -> None:
    given = with_options(generators, lambda_rec=5.0, noise=0.1)
    assert build.teacher_options(given) == {"lambda_rec": 5.0}
    assert build.teacher_options(generators) == {} == build.teacher_options(lit)


@pytest.mark.parametrize("name", ["copy_sections", "domains", "observer", "student_init", "discriminator"])
def test_what_a_recipe_says_elsewhere_is_no_option_of_the_method(
    name: str, generators: config.Config
) -> None:
    with pytest.raises(ValueError, match=rf"method\.\* of method 'lit_generator' .* got '{name}'"):
        build.method_options(with_options(generators, **{name: 1}))


@pytest.mark.parametrize("removed", [0.5, 0, {"ip1": 0.9, "linear": 0}])
def test_an_option_may_be_one_number_or_a_table(removed: Any) -> None:
    deep = config.load("mnist_lenet300_compressed")
    assert build.method_options(with_options(deep, removed=removed))["removed"] == removed
    with pytest.raises(ValueError, match=r"method\.removed must be of type float, got 'much'"):
        build.method_options(with_options(deep, removed="much"))


def test_a_chain_needs_a_teacher(lit: config.Config) -> None:
    chained = changed(lit, chain=(14, 8))
    assert build.method_options(chained).keys() >= {"sections", "finetune"}
    scratch = replace(chained, method=config.MethodConfig(name="scratch"))
    with pytest.raises(ValueError, match=r"student\.chain must be left out for method 'scratch', which has"):
        build.method_options(scratch)
    with pytest.raises(ValueError, match=r"a \[teacher\] table must be given for method 'lit', got none"):
        build.method_options(replace(chained, teacher=None))


@pytest.mark.parametrize("name", ["kd", "ban", "scratch", "adversarial", "lit_generator"])
def test_sections_are_chosen_only_where_the_method_can_keep_the_others(name: str, lit: config.Config) -> None:
    said = changed(lit, model="resnet8", sections=("layer3",))
    assert "copy_sections" not in build.method_options(said)
    with pytest.raises(ValueError, match=rf"student\.sections must be left out for method '{name}', got"):
        build.method_options(replace(said, method=config.MethodConfig(name=name)))


def test_a_section_may_be_given_by_name_or_by_number(lit: config.Config) -> None:
    tables = {"hint": lit.phases["sections"], "distill": lit.phases["finetune"]}
    fitnets = replace(changed(lit, model="resnet8"), phases=tables)

    def given(**options: Any) -> dict[str, Any]:
        method = config.MethodConfig(name="fitnets", options=options)
        return build.method_options(replace(fitnets, method=method))

    found = given(hint_section=2, guided_section="layer2")
    assert (found["hint_section"], found["guided_section"]) == (2, "layer2")
    with pytest.raises(ValueError, match=r"method\.hint_section must be of type str, got 1\.5"):
        given(hint_section=1.5)
    with pytest.raises(ValueError, match=r"method\.\* of method 'fitnets' must be .* got 'input'"):
        given(input=1)


def test_what_is_trained_is_among_the_compressed_sections(lit: config.Config) -> None:
    said = changed(lit, model="resnet8", sections=("layer2", "layer3"))
    assert build.method_options(with_options(said, train_sections=["layer3"]))["train_sections"] == (
        "layer3",
    )
    with pytest.raises(ValueError) as caught:
        build.method_options(with_options(said, train_sections=["layer1"]))
    assert str(caught.value) == (
        "recipe: method.train_sections must be among student.sections ['layer2', 'layer3'], got ['layer1']"
    )
