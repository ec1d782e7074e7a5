from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from litfast.models import Input, create, depth, macs, parameters
from litfast.models.resnet_cifar import BasicBlock, PadShortcut, ResNetCIFAR

SPEC_2 = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize(("layers", "count"), SPEC_2.items())
def test_parameter_counts_are_those_of_the_paper(layers: int, count: int) -> None:
    n = (layers - 2) // 6
    assert count == 97_216 * n - 21_926
    assert parameters(create(f"resnet{layers}")) == count
    assert parameters(create(f"resnet{layers}", classes=100)) == count + 5_850
    assert parameters(create(f"resnet{layers}", option="B")) == count + 2_752


@pytest.mark.parametrize("layers", [8, 14, 20, 32, 44, 56, 110])
def test_macs_and_depth_are_those_of_the_paper(layers: int) -> None:
    model = create(f"resnet{layers}")
    assert macs(model, Input((3, 32, 32))) == 443_008 + 2_359_296 * (layers - 3)
    assert depth(model) == layers


def test_option_b_convolutions_do_not_count_as_depth() -> None:
    assert depth(create("resnet20", option="B")) == 20


def test_keys_are_those_of_the_published_checkpoints() -> None:
    plain = set(ResNetCIFAR((2, 1, 1)).state_dict())
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    blocks = ["layer1.0", "layer1.1", "layer2.0", "layer3.0"]
    expected = {"conv1.weight", *(f"bn1.{key}" for key in norm), "linear.weight", "linear.bias"}
    for block in blocks:
        expected |= {f"{block}.conv{i}.weight" for i in (1, 2)}
        expected |= {f"{block}.bn{i}.{key}" for i in (1, 2) for key in norm}
    assert plain == expected
    shortcuts = {
        f"{block}.shortcut.{key}"
        for block in ("layer2.0", "layer3.0")
        for key in ["0.weight", *(f"1.{key}" for key in norm)]
    }
    assert set(ResNetCIFAR((2, 1, 1), option="B").state_dict()) == expected | shortcuts


def test_pad_shortcut_takes_every_second_pixel_and_pads_half_on_each_side() -> None:
    x = torch.arange(2 * 4 * 6 * 6, dtype=torch.float32).view(2, 4, 6, 6)
    out = PadShortcut(4)(x)
    assert out.shape == (2, 8, 3, 3)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any() and not out[:, 6:].any()


def test_a_block_is_the_formula_of_its_docstring() -> None:
    torch.manual_seed(0)
    block = BasicBlock(4, 8, stride=2, option="A").eval()
    x = torch.randn(2, 4, 8, 8)
    inner = F.conv2d(x, block.conv1.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5
    outer = F.conv2d(F.relu(inner), block.conv2.weight, padding=1) / (1 + 1e-5) ** 0.5
    padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    torch.testing.assert_close(block(x), F.relu(outer + padded))


def test_inner_channels_are_those_between_a_blocks_convolutions() -> None:
    model = create("resnet8", blocks=(2, 1, 1), inner=[5, 7, 9, 11])
    blocks = [*model.model.layer1, *model.model.layer2, *model.model.layer3]
    assert [block.bn1.num_features for block in blocks] == [5, 7, 9, 11]
    assert [block.bn2.num_features for block in blocks] == [16, 16, 32, 64]
    per_channel = [9 * 32, 9 * 32, 9 * 48, 9 * 96]
    fewer = [16 - 5, 16 - 7, 32 - 9, 64 - 11]
    gone = sum((weights + 2) * count for weights, count in zip(per_channel, fewer, strict=True))
    assert parameters(model) == parameters(create("resnet8", blocks=(2, 1, 1))) - gone
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("inner", [[8, 8], [8, 8, 8, 8], [8, 0, 8]])
def test_inner_channels_must_be_one_count_a_block(inner: list[int]) -> None:
    with pytest.raises(
        ValueError, match=r"^ResNetCIFAR: inner must hold a count of at least 1 for each of 3"
    ):
        create("resnet8", inner=inner)


def test_inner_channels_and_groups_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"^ResNetCIFAR: inner must be left out with a cardinality, got 4$"):
        ResNetCIFAR((1, 1, 1), cardinality=4, inner=[8, 8, 8])


def test_all_convolutions_and_the_head_start_kaiming_normal() -> None:
    torch.manual_seed(0)
    model = ResNetCIFAR((2, 2, 2))
    weight = model.layer3[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert model.linear.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 33)])
def test_any_image_size_gives_logits_and_halving_irs(channels: int, size: int) -> None:
    model = create("resnet8", classes=7, channels=channels).eval()
    irs, logits = model.observe(torch.randn(2, channels, size, size))
    half, quarter = -(-size // 2), -(-size // 4)
    assert [tuple(ir.shape[1:]) for ir in irs] == [
        (16, size, size),
        (16, size, size),
        (32, half, half),
        (64, quarter, quarter),
    ]
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("option", ["A", "B"])
def test_the_whole_network_is_traceable_down_to_its_layers(option: str) -> None:
    model = ResNetCIFAR((1, 2, 1), option=option).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(blocks=(3, 3)), r"ResNetCIFAR: blocks must be three counts of at least 1, got \[3, 3\]"),
        (dict(blocks=(3, 0, 3)), r"blocks must be three counts of at least 1, got \[3, 0, 3\]"),
        (dict(blocks=(1, 1, 1), classes=0), "classes must be at least 1, got 0"),
        (dict(blocks=(1, 1, 1), channels=2), "channels must be 1 or 3, got 2"),
        (dict(blocks=(1, 1, 1), option="C"), "option must be 'A' or 'B', got 'C'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNetCIFAR(**arguments)  # type: ignore[arg-type]
