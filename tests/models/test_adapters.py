"""Sections of one width in a model of another: what the assembled student computes, and its spec."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor, nn

from litfast.models import SectionedModel, adapted, check_pair, copy_ends, create, sectioned, width_maps
from litfast.models.adapters import Adapted
from litfast.models.inference import Inference, agreement

from . import third_party

FILE = third_party.__file__
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def thin_resnet() -> tuple[SectionedModel, SectionedModel, SectionedModel]:
    torch.manual_seed(0)
    teacher, thin = create("resnet14").eval(), create("resnet8", width=8).eval()
    return teacher, thin, adapted(teacher, thin, width_maps(teacher, thin, IMAGES)).eval()


def test_each_section_of_the_assembled_student_is_after_of_layer_of_before() -> None:
    teacher, thin, student = thin_resnet()
    taught, logits = teacher.observe(IMAGES)
    for i, name in enumerate(student.names):
        module = student.model.get_submodule(name)
        assert isinstance(module, Adapted)
        torch.testing.assert_close(
            student.sections[i](taught[i]), module.after(thin.sections[i](module.before(taught[i])))
        )
    irs, own = student.observe(IMAGES)
    assert [ir.shape for ir in irs] == [ir.shape for ir in taught] and own.shape == logits.shape
    torch.testing.assert_close(irs[0], taught[0])
    torch.testing.assert_close(own, student(IMAGES))
    torch.testing.assert_close(own, teacher.head(irs[-1]))


def test_the_student_pairs_with_its_teacher_and_shares_no_tensor() -> None:
    teacher, thin, student = thin_resnet()
    check_pair(teacher, student, IMAGES)
    copy_ends(teacher, student)
    others = {tensor.data_ptr() for model in (teacher, thin) for tensor in model.state_dict().values()}
    assert others.isdisjoint(tensor.data_ptr() for tensor in student.state_dict().values())


def test_its_spec_makes_it_again() -> None:
    _, _, student = thin_resnet()
    assert student.spec is not None and student.spec["name"] == "resnet8"
    again = create(**json.loads(json.dumps(student.spec))).eval()
    assert again.names == student.names and again.spec == student.spec
    again.load_state_dict(student.state_dict())
    assert torch.equal(again(IMAGES), student(IMAGES))


def test_new_maps_keep_the_norm_of_what_is_narrower() -> None:
    _, _, student = thin_resnet()
    section = student.model.get_submodule("layer2")
    assert isinstance(section, Adapted)
    for end, shape in ((section.before, (8, 16)), (section.after, (32, 16))):
        weight: Tensor = end.weight.flatten(1)  # type: ignore[operator, union-attr]
        assert weight.shape == shape
        narrow = weight @ weight.T if shape[0] < shape[1] else weight.T @ weight
        torch.testing.assert_close(narrow, torch.eye(min(shape)))


def test_only_what_differs_gets_a_map() -> None:
    teacher = create("resnet14").eval()
    alike = create("resnet8").eval()
    assert adapted(teacher, alike, width_maps(teacher, alike, IMAGES)) is alike
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 7), nn.Linear(7, 4), nn.Linear(4, 3))
    thin = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2), nn.Linear(2, 4), nn.Linear(4, 3))
    wide, narrow = (sectioned(model, ["1", "2"]).eval() for model in (net, thin))
    maps = width_maps(wide, narrow, torch.randn(2, 6))
    assert maps == [((), ("linear", 2, 7)), (("linear", 7, 2), ())]
    student = adapted(wide, narrow, maps)
    assert student.spec is None
    check_pair(wide, student, torch.randn(2, 6))


def test_layers_of_a_list_are_put_in_place_of_more_of_them() -> None:
    teacher = create(f"{FILE}:transformer", size=[16, 16]).eval()
    thin = create(f"{FILE}:transformer", size=[16, 16], width=4, blocks=[2, 1, 1]).eval()
    assert teacher.names == ("encoder.layers[0:2]", "encoder.layers[2:4]", "encoder.layers[4:6]")
    maps = width_maps(teacher, thin, IMAGES)
    assert maps == [(("linear", 8, 4), ("linear", 4, 8))] * 3
    student = adapted(teacher, thin, maps).eval()
    assert student.names == ("encoder.layers[0:2]", "encoder.layers[2:3]", "encoder.layers[3:4]")
    irs, logits = student.observe(IMAGES)
    assert [ir.shape for ir in irs] == [ir.shape for ir in teacher.observe(IMAGES)[0]]
    torch.testing.assert_close(logits, student(IMAGES))
    assert set(create(**(student.spec or {})).state_dict()) == set(student.state_dict())


def test_it_may_teach_in_turn_compiled_or_as_a_program() -> None:
    _, _, student = thin_resnet()
    found = agreement(Inference(student), IMAGES)
    assert max(*found.irs, found.logits) < 1e-5
    compiled = torch.compile(student.model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES), student(IMAGES))


def test_it_may_teach_a_narrower_one() -> None:
    teacher, _, student = thin_resnet()
    third = create("resnet8", width=4).eval()
    last = adapted(student, third, width_maps(student, third, IMAGES)).eval()
    check_pair(teacher, last, IMAGES)
    assert set(create(**(last.spec or {})).state_dict()) == set(last.state_dict())


@pytest.mark.parametrize(
    ("student", "line"),
    [
        (
            sectioned(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), ["0"]),
            "adapters: student must have the teacher's 3 sections, got 1 (0)",
        ),
        (
            sectioned(nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(4))), ["0", "1", "2"]),
            "adapters: the output of the student's section '0' must differ from the teacher's [16, 16, 16] "
            "in its width alone, got [3, 14, 14]",
        ),
    ],
)
def test_what_no_map_bridges_is_refused(student: SectionedModel, line: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{re.escape(line)}\Z"):
        width_maps(create("resnet14"), student, IMAGES)
