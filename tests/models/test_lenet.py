from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from litfast.models import Input, create, depth, macs, parameters


def test_the_parameters_are_those_of_the_papers() -> None:
    assert parameters(create("lenet300", channels=1)) == 266_610
    assert parameters(create("lenet5", channels=1)) == 431_080
    assert [depth(create(name, channels=1)) for name in ("lenet300", "lenet5")] == [3, 4]
    assert macs(create("lenet5", channels=1), Input((1, 28, 28))) == 288_000 + 1_600_000 + 400_000 + 5_000


def test_lenet5_is_caffes_network() -> None:
    model = create("lenet5", channels=1)
    w = model.state_dict()
    x = torch.randn(3, 1, 28, 28)
    out = F.max_pool2d(F.conv2d(x, w["conv1.weight"], w["conv1.bias"]), 2, 2)
    out = F.max_pool2d(F.conv2d(out, w["conv2.weight"], w["conv2.bias"]), 2, 2).flatten(1)
    out = F.relu(F.linear(out, w["ip1.weight"], w["ip1.bias"]))
    assert w["conv1.weight"].shape == (20, 1, 5, 5) and w["conv2.weight"].shape == (50, 20, 5, 5)
    torch.testing.assert_close(model(x), F.linear(out, w["ip2.weight"], w["ip2.bias"]))


def test_lenet300_is_three_linear_layers() -> None:
    model = create("lenet300", channels=1)
    w = model.state_dict()
    x = torch.randn(3, 1, 28, 28)
    out = x.flatten(1)
    for name in ("ip1", "ip2"):
        out = F.relu(F.linear(out, w[f"{name}.weight"], w[f"{name}.bias"]))
    torch.testing.assert_close(model(x), F.linear(out, w["ip3.weight"], w["ip3.bias"]))


@pytest.mark.parametrize(("name", "size"), [("lenet300", [3, 5]), ("lenet5", [16, 19])])
def test_the_images_may_have_other_sizes_channels_and_classes(name: str, size: list[int]) -> None:
    model = create(name, classes=7, channels=2, size=size)
    assert model(torch.randn(2, 2, *size)).shape == (2, 7)
    assert model.spec is not None and create(**model.spec).spec == model.spec


@pytest.mark.parametrize(
    ("name", "irs"),
    [("lenet300", [(2, 300), (2, 100)]), ("lenet5", [(2, 20, 12, 12), (2, 50, 8, 8), (2, 500)])],
)
def test_the_sections_make_up_the_model(name: str, irs: list[tuple[int, ...]]) -> None:
    model = create(name, channels=1)
    x = torch.randn(2, 1, 28, 28)
    seen, logits = model.observe(x)
    assert [tuple(ir.shape) for ir in seen] == irs
    torch.testing.assert_close(logits, model(x))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet5", {"size": [15, 28]}, r"LeNet5: size must be two numbers of at least 16, got \[15, 28\]"),
        ("lenet300", {"size": [28]}, r"LeNet300: size must be two numbers of at least 1, got \[28\]"),
        ("lenet300", {"classes": 0}, "LeNet300: classes and channels must be at least 1, got 0 and 3"),
        ("lenet5", {"blocks": [1]}, r"create: blocks of a LeNet must be left out, got \[1\]"),
    ],
)
def test_a_size_or_count_that_cannot_be_is_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(name, **options)  # type: ignore[arg-type]
