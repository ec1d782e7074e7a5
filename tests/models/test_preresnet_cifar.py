from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from litfast.models import create, depth, parameters
from litfast.models.preresnet_cifar import Bottleneck, ChannelSelection


@pytest.mark.parametrize("layers", [20, 56, 110, 164])
def test_the_name_counts_the_layers(layers: int) -> None:
    with torch.device("meta"):
        model = create(f"preresnet{layers}")
    assert depth(model) == layers


def test_resnet164_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        count = parameters(create("preresnet164"))
    assert round(count / 1e6, 2) == 1.70


def test_a_block_is_the_formula_of_its_docstring() -> None:
    torch.manual_seed(0)
    block = Bottleneck(6, 2, (4, 3, 5), stride=2).double().eval()
    index = torch.tensor([0, 2, 3, 5])
    block.select.index.copy_(index)
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    unit = (1 + 1e-5) ** 0.5  # fresh batch norms
    out = F.conv2d(F.relu(x[:, index] / unit), block.conv1.weight)
    out = F.conv2d(F.relu(out / unit), block.conv2.weight, stride=2, padding=1)
    out = F.conv2d(F.relu(out / unit), block.conv3.weight)
    torch.testing.assert_close(block(x), out + F.conv2d(x, block.shortcut.weight, stride=2))


def test_only_where_channels_are_missing_there_is_a_selection() -> None:
    widths = [16, 8, 16, 64, 16, 16, 30, 32, 32, 128, 64, 64, 256]
    model = create("preresnet20", blocks=(2, 1, 1), widths=widths)
    found = [name for name, module in model.model.named_modules() if isinstance(module, ChannelSelection)]
    assert found == ["layer2.0.select"]
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": (1, 1)}, r"blocks must be three counts of at least 1, got \[1, 1\]"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"blocks": (1, 1, 1), "widths": [4] * 9}, "widths must hold a count of at least 1 for each of 10"),
        (
            {"blocks": (1, 1, 1), "widths": [17] * 10},
            r"widths\[0\] must be at most the 16 channels to select",
        ),
    ],
)
def test_a_mistake_gets_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^PreResNetCIFAR: {message}"):
        create("preresnet20", **options)
