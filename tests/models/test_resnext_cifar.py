from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from litfast.models import (
    Input,
    SectionedModel,
    check_pair,
    copy_blocks,
    copy_ends,
    create,
    depth,
    macs,
    parameters,
    resnext_cifar,
)
from litfast.models.inference import Inference, agreement
from litfast.models.resnet_cifar import ResNetCIFAR
from litfast.models.weights import load_weights

LAYERS = (20, 32, 44, 56, 110)
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small(blocks: int = 1, seed: int = 0) -> SectionedModel:
    torch.manual_seed(seed)
    return create("resnext20", blocks=[blocks] * 3).eval()


def sizes(layers: int) -> tuple[int, int]:
    """Parameters and multiply-accumulates from the block's formula: 9 C' C and 9 C C / 8 weights a block."""
    n = (layers - 2) // 6
    weights, products = 3 * 9 * 32 + 64 + 128 * 10 + 10, 3 * 9 * 32 * 32**2 + 128 * 10
    for channels_in, channels, side in ((32, 32, 32), (32, 64, 16), (64, 128, 8)):
        first, rest, grouped = 9 * channels_in * channels, 9 * channels**2, 9 * channels**2 // 8
        convolutions = first + (n - 1) * rest + n * grouped
        weights += convolutions + n * 4 * channels
        products += convolutions * side**2
    return weights, products


@pytest.mark.parametrize("layers", LAYERS)
def test_parameters_macs_and_depth_are_those_of_the_docstring(layers: int) -> None:
    with torch.device("meta"):
        model = create(f"resnext{layers}")
        assert parameters(create(f"resnext{layers}", classes=100)) == parameters(model) + 90 * 129
        cost = macs(model, Input((3, 32, 32)))
    assert (parameters(model), cost) == sizes(layers)
    assert depth(model) == layers
    line = rf"ResNeXt-{layers} +{parameters(model):,} +{cost / 1e6:.1f} M\n"
    assert re.search(line, resnext_cifar.__doc__ or "")


def test_one_group_of_width_16_is_the_resnet() -> None:
    torch.manual_seed(0)
    plain = ResNetCIFAR((1, 2, 1)).eval()
    grouped = resnext_cifar((1, 2, 1), cardinality=1, width=16).eval()
    grouped.load_state_dict(plain.state_dict())
    assert torch.equal(grouped(IMAGES), plain(IMAGES))


def test_the_second_convolution_alone_runs_in_groups() -> None:
    block = small().model.layer2[0]
    assert (block.conv1.groups, block.conv2.groups) == (1, 8)
    assert tuple(block.conv2.weight.shape) == (64, 8, 3, 3)


def test_a_path_reads_all_channels_and_writes_its_own() -> None:
    block = small().model.layer1[0]
    x = IMAGES.new_zeros(1, 32, 8, 8).normal_().requires_grad_()
    inner = torch.relu(block.bn1(block.conv1(x)))
    (slope,) = torch.autograd.grad(block.conv2(inner)[:, :4].sum(), inner, retain_graph=True)
    assert slope[:, :4].any() and not slope[:, 4:].any()
    (slope,) = torch.autograd.grad(block.conv2(inner)[:, :4].sum(), x)
    assert slope.any(dim=3).any(dim=2).all()


def test_irs_are_those_of_a_resnet_of_twice_the_width() -> None:
    irs, logits = small().observe(IMAGES)
    shapes = [(32, 16, 16), (32, 16, 16), (64, 8, 8), (128, 4, 4)]
    assert [tuple(ir.shape[1:]) for ir in irs] == shapes
    assert logits.shape == (2, 10)


def test_every_parameter_gets_a_gradient() -> None:
    model = small(2).train()
    model(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_teachers_ends_and_blocks_start_a_student() -> None:
    teacher, student = small(5), small(2, seed=1)
    check_pair(teacher, student, IMAGES)
    copy_ends(teacher, student)
    chosen = {"layer1": [0, 4], "layer2": [0, 4], "layer3": [0, 4]}
    assert copy_blocks(teacher, student) == chosen
    taught, learned = teacher.state_dict(), student.state_dict()
    assert torch.equal(learned["layer2.1.conv2.weight"], taught["layer2.4.conv2.weight"])


def test_another_cardinality_is_refused_as_another_shape() -> None:
    with pytest.raises(ValueError, match=r"got conv2\.weight \[32, 8, 3, 3\] for \[32, 4, 3, 3\]"):
        copy_blocks(small(), create("resnext20", blocks=[1, 1, 1], cardinality=4))


def test_the_spec_survives_json_and_makes_the_same_model_again() -> None:
    model = create("resnext20", classes=5, channels=1, blocks=(1, 2, 1), cardinality=2, width=8, option="B")
    given = dict(classes=5, channels=1, blocks=[1, 2, 1], cardinality=2, width=8, option="B")
    assert model.spec == dict(name="resnext20", **given)
    again = create(**json.loads(json.dumps(model.spec)))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    model, other = small(), small(seed=1)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    load_weights(other, tmp_path / "weights.pt")
    assert torch.equal(other(IMAGES), model(IMAGES))


def test_as_a_teacher_it_is_served_as_a_program() -> None:
    model = small(2).train()
    model(IMAGES)
    found = agreement(Inference(model.eval()), IMAGES)
    assert found.plain == () and max(*found.irs, found.logits) <= 1e-5, found


@pytest.mark.parametrize(("width", "cardinality"), [(32, 5), (0, 1), (32, 0), (4, 8)])
def test_groups_that_do_not_divide_the_width_are_named(width: int, cardinality: int) -> None:
    message = f"ResNetCIFAR: width must be a multiple of the cardinality, got {width} and {cardinality}"
    with pytest.raises(ValueError, match=message):
        create("resnext20", width=width, cardinality=cardinality)
