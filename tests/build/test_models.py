from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from litfast import build, config
from litfast.config import StudentConfig, TeacherConfig
from litfast.models import Input
from litfast.models.sectioned import SectionedModel


def changed(settings: config.Config, **student: Any) -> config.Config:
    return replace(settings, student=StudentConfig(**student))


@pytest.fixture
def images() -> config.Config:
    words = ("data.name=synthetic", "data.options={size=8,train=64,val=16,test=16}", "data.batch=16")
    return build.resolve(config.load("digits", [*words, "teacher.model=resnet14"]))


def weights(model: torch.nn.Module) -> list[float]:
    return torch.cat([value.flatten() for value in model.state_dict().values()]).tolist()


@pytest.mark.parametrize(
    ("teacher", "chain", "names"),
    [
        ("vdcnn29", (17, 9), ["vdcnn17", "vdcnn9"]),
        ("resnext110", (20,), ["resnext20"]),
        ("stargan6", (2, 1), ["stargan2", "stargan1"]),
    ],
)
def test_a_chain_is_of_the_teachers_family(
    teacher: str, chain: tuple[int, ...], names: list[str], images: config.Config
) -> None:
    assert images.teacher is not None
    said = replace(images, teacher=replace(images.teacher, model=teacher))
    assert [link.model for link in build.links(changed(said, chain=chain))] == names
    assert [link.model for link in build.links(said)] == [images.student.model]


def test_a_chain_has_the_teachers_options_unless_others_are_given(images: config.Config) -> None:
    assert images.teacher is not None
    said = replace(images, teacher=replace(images.teacher, options={"option": "B"}))
    assert [link.options for link in build.links(changed(said, chain=(14, 8)))] == [{"option": "B"}] * 2
    own = {"option": "A"}
    assert [link.options for link in build.links(changed(said, chain=(8,), options=own))] == [own]


def test_the_models_of_a_chain_come_in_the_order_of_training(images: config.Config) -> None:
    experiment = build.experiment(changed(images, chain=(14, 8)))
    assert list(experiment.models) == ["teacher", "student-1", "student"]
    assert experiment.student is experiment.students[-1] is experiment.models["student"]
    names = [phase.name for phase in experiment.phases()]
    assert names == ["teacher", "sections-1", "finetune-1", "sections-2", "finetune-2"]


def test_students_of_a_chain_are_all_of_other_weights(images: config.Config) -> None:
    first, second = build.experiment(changed(images, chain=(8, 8))).students
    assert weights(first) != weights(second)


@pytest.mark.parametrize("key", ["classes", "channels", "size", "alphabet", "blocks", "name"])
def test_options_leave_out_what_the_data_or_the_table_give(key: str, images: config.Config) -> None:
    with pytest.raises(ValueError, match=f"recipe: options of resnet8 must leave out {key}, which"):
        build.experiment(changed(images, model="resnet8", options={key: 3}))


def test_a_model_with_linear_layers_on_the_pixels_is_made_for_the_size_of_the_images(
    images: config.Config,
) -> None:
    _, data = build.data(images)
    made = build.model(StudentConfig(model="lenet300"), data)
    assert made.spec == {"name": "lenet300", "classes": 4, "blocks": None, "channels": 3, "size": [8, 8]}


def test_a_model_and_its_data_are_of_one_kind(images: config.Config, texts: config.Config) -> None:
    with pytest.raises(
        ValueError, match=r"a model of images must be named for synthetic \(resnet8, .*'vdcnn9'"
    ):
        build.experiment(changed(images, model="vdcnn9"))
    with pytest.raises(ValueError, match=r"a model of texts must be named for amazon_polarity \(vdcnn9, "):
        build.experiment(changed(texts, model="resnet8"))


def test_a_model_and_its_method_are_of_one_kind(images: config.Config, generators: config.Config) -> None:
    with pytest.raises(ValueError, match="method 'lit' must have a classifier, got 'stargan1'"):
        build.experiment(changed(images, model="stargan1"))
    with pytest.raises(ValueError, match="method 'lit_generator' must have a generator, got 'resnet8'"):
        build.experiment(changed(generators, model="resnet8"))


def test_blocks_are_settled_where_only_some_sections_are_compressed(images: config.Config) -> None:
    def blocks(**student: Any) -> Any:
        experiment = build.experiment(changed(images, **student))
        sections = [experiment.student.model.get_submodule(name) for name in experiment.student.names]
        assert experiment.config.student.blocks in (None, tuple(len(list(s.children())) for s in sections))
        return experiment.config.student.blocks

    assert blocks(model="resnet8", sections=("layer3",)) == (2, 2, 1)
    assert blocks(model="resnet8", sections=("layer1", "layer2")) == (1, 1, 2)
    assert blocks(model="resnet8", sections=("layer2",), blocks=(1, 1, 1)) == (2, 1, 2)
    assert blocks(model="resnet8") is None


def test_settling_the_blocks_twice_changes_nothing(images: config.Config) -> None:
    once = build.experiment(changed(images, model="resnet8", sections=("layer3",))).config
    assert build.experiment(once).config == once


def test_a_generator_reads_its_domains_planes_too(generators: config.Config, images: config.Config) -> None:
    experiment = build.experiment(generators)
    classes = len(experiment.data.classes)
    assert experiment.data.input == Input((3, 8, 8)) and experiment.input == Input((3 + classes, 8, 8))
    assert experiment.discriminator is not None and experiment.val is None
    plain = build.experiment(images)
    assert plain.discriminator is None and plain.input == plain.data.input


def test_teacher_and_discriminator_start_alike_whatever_the_student_is(generators: config.Config) -> None:
    found = []
    for name in ("stargan1", "stargan2"):
        experiment = build.experiment(changed(generators, model=name, options={"width": 4}))
        assert isinstance(experiment.teacher, SectionedModel) and experiment.discriminator is not None
        found.append((weights(experiment.teacher), weights(experiment.discriminator)))
    assert found[0] == found[1]


def test_best_weights_need_validation_samples(images: config.Config) -> None:
    settings = replace(images, engine=replace(images.engine, keep="best"))
    build.experiment(settings).rehearse()
    without = replace(settings, data=replace(settings.data, val=0))
    with pytest.raises(ValueError, match=r"engine\.keep must be last without validation samples, got 'best'"):
        build.experiment(without).rehearse()


def test_a_language_model_has_the_vocabulary_for_classes(words: config.Config) -> None:
    student = build.experiment(words).student
    assert student.spec == {"name": "lstm_lm", "classes": 5, "blocks": None, "width": 4}


def test_an_automatic_student_is_the_teacher_with_a_share_of_its_blocks(images: config.Config) -> None:
    assert images.teacher is not None
    deep = replace(images, teacher=replace(images.teacher, model="resnet32", options={"width": 4}))
    experiment = build.experiment(changed(deep, model="auto", depth=0.4, init="teacher"))
    said = experiment.config.student
    assert (said.model, said.blocks, said.depth) == ("resnet32", (2, 2, 2), None)
    assert said.options == {"width": 4} and said.init == "teacher"
    assert build.experiment(experiment.config).config == experiment.config


def test_an_automatic_student_may_be_shallower_in_some_sections_alone(images: config.Config) -> None:
    said = changed(images, model="auto", depth=0.5, sections=("layer3",))
    assert build.experiment(said).config.student.blocks == (2, 2, 1)


def test_an_automatic_student_needs_a_teacher(images: config.Config) -> None:
    alone = replace(
        changed(images, model="auto", depth=0.5),
        teacher=None,
        method=config.MethodConfig(name="scratch"),
        phases={"train": images.phases["finetune"]},
    )
    with pytest.raises(ValueError, match=r"a \[teacher\] table must be given for student\.model 'auto'"):
        build.experiment(alone)


def test_a_model_keeps_the_weights_that_it_comes_with(images: config.Config, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net(classes):\n"
        "    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, classes))\n"
        "    nn.init.constant_(model[1].weight, 0.25)\n    return model\n"
    )
    said = TeacherConfig(model=f"{tmp_path}/net.py:net", weights="own")
    _, data = build.data(images)
    made = build.models.teacher(replace(images, teacher=said), data)
    assert made is not None and made.names == ("1",)
    assert bool((made.model[1].weight == 0.25).all())


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"model": "auto"}, "student.depth must be given with student.model 'auto' and only there, got"),
        ({"model": "resnet8", "depth": 0.5}, "student.depth must be given with student.model 'auto'"),
        ({"model": "auto", "depth": 1.5}, "student.depth must lie above 0 and up to 1, got 1.5"),
        ({"model": "auto", "depth": 0.5, "blocks": (1,)}, "student.blocks and boundaries must be left out"),
    ],
)
def test_an_automatic_student_has_a_depth_and_no_blocks(student: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudentConfig(**student)
