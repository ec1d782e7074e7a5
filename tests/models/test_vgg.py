from __future__ import annotations

from typing import Any

import pytest
import torch

from litfast.models import VGG, Input, create, depth, macs, parameters

CONVOLUTIONS = {"vgg11": 8, "vgg13": 10, "vgg16": 13, "vgg19": 16}


def test_vgg19_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        model = create("vgg19")
    assert parameters(model) == 20_035_018


@pytest.mark.parametrize(("name", "count"), CONVOLUTIONS.items())
def test_the_names_count_the_convolutions_and_three_linear_layers(name: str, count: int) -> None:
    with torch.device("meta"):
        model = create(name)
    assert depth(model) == count + 1
    assert sum(isinstance(module, torch.nn.Conv2d) for module in model.modules()) == count


def test_the_multiply_accumulates_are_those_of_the_widths() -> None:
    model = create("vgg11", widths=[2, 3, 4, 5, 6, 7, 8, 9])
    sides, channels = (32, 16, 8, 8, 4, 4, 2, 2), [3, 2, 3, 4, 5, 6, 7, 8, 9]
    expected = sum(9 * channels[i] * channels[i + 1] * sides[i] ** 2 for i in range(8)) + 9 * 10
    assert macs(model, Input((3, 32, 32))) == expected


def test_the_sections_follow_one_another_with_half_the_side() -> None:
    model = create("vgg11", widths=[2, 3, 4, 4, 5, 5, 6, 6]).eval()
    images = torch.randn(2, 3, 9, 9)
    irs, logits = model.observe(images)
    assert [tuple(ir.shape[1:]) for ir in irs] == [
        (3, 9, 9),
        (2, 9, 9),
        (3, 5, 5),
        (4, 3, 3),
        (5, 2, 2),
        (6, 1, 1),
    ]
    assert torch.equal(logits, model(images))


def test_it_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    model = create("vgg11").model
    assert isinstance(model, VGG)
    norm, conv = model.section2[0].bn, model.section2[0].conv
    assert (norm.weight == 0.5).all() and (norm.bias == 0).all()
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert (model.linear.bias == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": (1, 1)}, r"blocks must be five counts of at least 1, got \[1, 1\]"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"widths": [8] * 7}, "widths must hold a count of at least 1 for each of 8 convolutions, got"),
        ({"widths": [0] * 8}, "widths must hold a count of at least 1 for each of 8 convolutions, got"),
    ],
)
def test_a_mistake_gets_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^VGG: {message}"):
        create("vgg11", **options)
