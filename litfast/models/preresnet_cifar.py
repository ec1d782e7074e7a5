"""Pre-activation ResNets for small images, whose blocks may read some of the channels only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4  # channels that a block gives, for each inside


class ChannelSelection(nn.Module):
    """Some channels of its input, those of the buffer `index`; the first ones until weights are loaded."""

    index: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.arange(channels))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, channels, H, W]
        return x.index_select(1, self.index)


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1, each behind batch norm and ReLU, and a shortcut around them.

    conv3(relu(bn3(conv2(relu(bn2(conv1(relu(bn1(select(x))))))))) + shortcut(x)

    Args:
        channels_in: of the input.
        channels: a quarter of the output's.
        widths: channels that the three batch norms have; `channels_in`, `channels` and `channels` without
            network slimming.
        stride: of the 3x3 convolution.
    """

    def __init__(self, channels_in: int, channels: int, widths: Sequence[int], *, stride: int) -> None:
        super().__init__()
        selected, first, second = widths
        self.select = selection(channels_in, selected)
        self.bn1 = nn.BatchNorm2d(selected)
        self.conv1 = nn.Conv2d(selected, first, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, EXPANSION * channels, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != EXPANSION * channels:
            self.shortcut = nn.Conv2d(channels_in, EXPANSION * channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(self.select(x))))
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        return out + self.shortcut(x)


class PreResNetCIFAR(nn.Module):
    """Pre-activation ResNet of bottlenecks; (n, n, n) blocks are ResNet-(9n+2), ResNet-164 of the papers.

    Every batch norm can be slimmed: behind a convolution its channels are cut, behind a sum they are selected
    (the channel selection layer of the slimming paper, here in front of the batch norm), so that the sum
    keeps its width. Starts as in that paper's code: He's normal distribution by the outputs, scales at 0.5.

    Args:
        blocks: bottlenecks in each of the three sections, of 64, 128 and 256 channels.
        classes: width of the output, K.
        channels: channels of the input, 1 or 3.
        widths: channels of every batch norm, three a block and the last one, as network slimming leaves them;
            None: all.

    Raises:
        ValueError: a count below 1, channels that are not offered, widths that are not one a batch norm or
            more than there are to select.

    Source: He et al., Identity Mappings in Deep Residual Networks (2016); Liu et al., Network Slimming
    (2017), section 3, "Handling cross layer connections and pre-activation structure".
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        classes: int = 10,
        channels: int = 3,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check(blocks, classes, channels)
        shapes = _shapes(blocks)
        plain = [width for before, inside, _ in shapes for width in (before, inside, inside)]
        plain.append(EXPANSION * shapes[-1][1])
        given = plain if widths is None else list(widths)
        _check_widths(given, plain)
        made = [
            Bottleneck(before, inside, given[3 * i : 3 * i + 3], stride=stride)
            for i, (before, inside, stride) in enumerate(shapes)
        ]
        first, second = blocks[0], blocks[0] + blocks[1]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(*made[:first])
        self.layer2 = nn.Sequential(*made[first:second])
        self.layer3 = nn.Sequential(*made[second:])
        self.select = selection(plain[-1], given[-1])
        self.bn = nn.BatchNorm2d(given[-1])
        self.linear = nn.Linear(given[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, K]
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = F.relu(self.bn(self.select(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def selection(channels_in: int, channels: int) -> nn.Module:
    """What reads `channels` of `channels_in`; nothing where it reads all."""
    return nn.Identity() if channels == channels_in else ChannelSelection(channels)


def _shapes(blocks: Sequence[int]) -> list[tuple[int, int, int]]:
    """Channels in, channels inside and stride of every block."""
    shapes, before = [], 16
    for section, count in enumerate(blocks):
        inside = 16 << section
        for place in range(count):
            shapes.append((before, inside, 2 if section and not place else 1))
            before = EXPANSION * inside
    return shapes


def _check(blocks: Sequence[int], classes: int, channels: int) -> None:
    if len(blocks) != 3 or min(blocks) < 1:
        raise ValueError(f"PreResNetCIFAR: blocks must be three counts of at least 1, got {list(blocks)}")
    if classes < 1:
        raise ValueError(f"PreResNetCIFAR: classes must be at least 1, got {classes}")
    if channels not in (1, 3):
        raise ValueError(f"PreResNetCIFAR: channels must be 1 or 3, got {channels}")


def _check_widths(widths: Sequence[int], plain: Sequence[int]) -> None:
    if len(widths) != len(plain) or min(widths) < 1:
        raise ValueError(
            f"PreResNetCIFAR: widths must hold a count of at least 1 for each of {len(plain)} batch norms, "
            f"got {list(widths)}"
        )
    for place in range(0, len(plain), 3):  # those that select
        if widths[place] > plain[place]:
            raise ValueError(
                f"PreResNetCIFAR: widths[{place}] must be at most the {plain[place]} channels to select, "
                f"got {widths[place]}"
            )
