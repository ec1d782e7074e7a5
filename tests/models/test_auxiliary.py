from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litfast.models import Input, SectionedModel, create, parameters, sectioned
from litfast.models.auxiliary import Exits, LabelGenerator, SelfTaught, feature_shapes

IMAGE = Input((3, 8, 8))


def small(name: str, **options: int) -> SectionedModel:
    torch.manual_seed(0)
    return create(name, classes=4, blocks=[1, 1, 1], **options).double()


def made(student: SectionedModel, width: int = 5) -> tuple[Exits, LabelGenerator]:
    shapes, classes = feature_shapes(student, IMAGE)
    return Exits(student, shapes, classes).double(), LabelGenerator(shapes, classes, width).double()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "options", "widths"),
    [("resnet8", {}, (16, 32, 64)), ("resnext20", {"width": 8, "cardinality": 2}, (8, 16, 32))],
)
def test_shapes_are_those_of_the_section_outputs_and_nothing_is_left_changed(
    name: str, options: dict[str, int], widths: tuple[int, ...]
) -> None:
    student = small(name, **options).train()
    before, rng = deepcopy(student.state_dict()), torch.get_rng_state()
    shapes, classes = feature_shapes(student, IMAGE)
    assert shapes == [(widths[0], 8, 8), (widths[1], 4, 4), (widths[2], 2, 2)] and classes == 4
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
    assert student.model.training and torch.equal(rng, torch.get_rng_state())


def test_every_section_but_the_last_has_a_head_and_the_last_exit_is_the_network() -> None:
    student = small("resnet8").eval()
    exits = made(student)[0].eval()
    irs, logits = exits(images())
    assert [list(ir.shape[1:]) for ir in irs] == [[16, 8, 8], [16, 8, 8], [32, 4, 4], [64, 2, 2]]
    assert [z.shape for z in logits] == [(3, 4)] * 3
    assert torch.equal(logits[-1], student(images()))
    by_hand = irs[1]
    for conv, norm in ((exits.heads[0][0], exits.heads[0][1]), (exits.heads[0][3], exits.heads[0][4])):
        by_hand = F.relu(norm(conv(by_hand)))
    assert list(by_hand.shape[1:]) == [64, 2, 2]
    torch.testing.assert_close(logits[0], exits.heads[0][-1](by_hand.mean((2, 3))), rtol=1e-12, atol=1e-12)


def test_the_targets_are_the_formula() -> None:
    exits, generator = made(small("resnet8"))
    irs, logits = exits(images())
    for linear in generator.linears:
        nn.init.normal_(linear.weight)
        nn.init.normal_(linear.bias)
    deep = generator.laterals[1](irs[3])
    fused = generator.laterals[0](irs[2]) + deep.repeat_interleave(2, -1).repeat_interleave(2, -2)
    expected = [logits[-1] + generator.linears[i](p.relu().mean((2, 3))) for i, p in enumerate((fused, deep))]
    torch.testing.assert_close(generator(irs, logits[-1]), expected, rtol=1e-12, atol=1e-12)


def test_the_first_targets_are_the_networks_own_logits_in_fp32_at_least() -> None:
    exits, generator = made(small("resnet8"))
    irs, logits = exits(images())
    targets = generator(irs, logits[-1])
    assert len(targets) == 2 and all(torch.equal(q, logits[-1]) for q in targets)
    with torch.autocast("cpu", torch.bfloat16):
        half = generator.float()([ir.float() for ir in irs], logits[-1].bfloat16())
    assert {q.dtype for q in half} == {torch.float32}


def test_odd_sizes_and_sections_of_one_size_are_fused_too() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 5, 3, padding=1, stride=2)
            self.c, self.out = nn.Conv2d(5, 4, 1), nn.Linear(4, 7)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.c(self.b(self.a(x))).mean((2, 3)))

    shapes, classes = feature_shapes(sectioned(Odd(), ["a", "b", "c"]), Input((3, 7, 9)))
    assert shapes == [(2, 7, 9), (5, 4, 5), (4, 4, 5)] and classes == 7
    exits = Exits(sectioned(Odd(), ["a", "b", "c"]), shapes, classes)
    irs, logits = exits(torch.randn(2, 3, 7, 9))
    assert [z.shape for z in logits] == [(2, 7)] * 3
    assert [q.shape for q in LabelGenerator(shapes, classes, 6)(irs, logits[-1])] == [(2, 7)] * 2


def test_the_network_keeps_its_keys_and_its_parameters_and_stands_for_the_whole() -> None:
    student, fresh = small("resnet8"), small("resnet8")
    whole = SelfTaught(*made(student))
    assert student.state_dict().keys() == fresh.state_dict().keys()
    assert parameters(student) == parameters(fresh) < parameters(whole.exits) < parameters(whole)
    assert torch.equal(whole.eval()(images()), student.eval()(images()))
    other = SelfTaught(*made(fresh))
    other.load_state_dict(whole.state_dict())
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in whole.state_dict().items())


def flat() -> SectionedModel:
    parts = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Linear(6, 4))
    return sectioned(parts, ["1", "2"])


def maps() -> SectionedModel:
    return sectioned(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)), ["0", "1"])


@pytest.mark.parametrize(
    ("student", "line"),
    [
        (flat(), r"auxiliary: student section '1' must give feature maps \[B, C, H, W\], got \[2, 6\]"),
        (maps(), r"auxiliary: student must return logits \[B, K\], got \[2, 2, 8, 8\]"),
    ],
)
def test_what_can_have_no_heads_gets_one_line(student: SectionedModel, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        feature_shapes(student, IMAGE)


def test_one_section_is_too_few() -> None:
    student = create("stargan1", classes=2, width=4)
    with pytest.raises(ValueError, match=r"^auxiliary: student must have at least 2 sections .*, got 1$"):
        feature_shapes(student, Input((5, 8, 8)))
