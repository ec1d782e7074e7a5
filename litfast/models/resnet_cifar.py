"""The CIFAR ResNets of He et al., with the parameter names of the published checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels padded half on each side; no parameters."""

    def __init__(self, extra_channels: int) -> None:
        super().__init__()
        self.extra_channels = extra_channels

    def forward(self, x: Tensor) -> Tensor:
        before = self.extra_channels // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.extra_channels - before))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the second in groups, and a shortcut.

    relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))

    Between the convolutions there are `inner` channels; None: as many as come out.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        inner: int | None = None,
        *,
        stride: int,
        option: str,
        groups: int = 1,
    ) -> None:
        super().__init__()
        inner = channels if inner is None else inner
        self.conv1 = nn.Conv2d(channels_in, inner, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(channels_in, channels, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNetCIFAR(nn.Module):
    """ResNet for small images: a 3x3 stem, three sections of `blocks`, global average pool, linear.

    Parameters are named as in the published CIFAR-10 checkpoints (akamaster/pytorch_resnet_cifar10):
    `conv1, bn1, layer1..3.N.conv1/bn1/conv2/bn2, linear`; option B adds `layerK.0.shortcut.0/1`.

    Args:
        blocks: residual blocks in each of the three sections; (n, n, n) is ResNet-(6n+2).
        classes: width of the output, K.
        channels: channels of the input, 1 or 3.
        option: shortcut where the width changes: "A" pads with zeros, "B" is a 1x1 convolution.
        width: channels of the stem and the first section; each further section doubles them.
        cardinality: groups of each block's second convolution; `resnext_cifar` takes more than one.
        inner: channels between the two convolutions of each block, in the order of the forward pass, as
            network slimming leaves them; None: the width of the section.

    Raises:
        ValueError: a count below 1, an option or channel count that is not offered, a width that is no
            multiple of the cardinality, inner channels that are not one count a block, or with groups.

    Source: He et al., Deep Residual Learning (2016), section 4.2; option A is the paper's choice.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        classes: int = 10,
        channels: int = 3,
        option: str = "A",
        width: int = 16,
        cardinality: int = 1,
        inner: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check(blocks, classes, channels, option)
        _check_groups(width, cardinality)
        _check_inner(inner, blocks, cardinality)
        block = partial(BasicBlock, option=option, groups=cardinality)
        widths: list[int | None] = [None] * sum(blocks) if inner is None else list(inner)
        first, second = blocks[0], blocks[0] + blocks[1]
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _section(block, width, width, widths[:first], stride=1)
        self.layer2 = _section(block, width, 2 * width, widths[first:second], stride=2)
        self.layer3 = _section(block, 2 * width, 4 * width, widths[second:], stride=2)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, K]
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _section(
    block: Callable[..., nn.Module],
    channels_in: int,
    channels: int,
    inner: Sequence[int | None],
    *,
    stride: int,
) -> nn.Sequential:
    first = block(channels_in, channels, inner[0], stride=stride)
    return nn.Sequential(first, *(block(channels, channels, width, stride=1) for width in inner[1:]))


def _shortcut(channels_in: int, channels: int, stride: int, option: str) -> nn.Module:
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    if option == "A":
        return PadShortcut(channels - channels_in)
    convolution = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))


def _check(blocks: Sequence[int], classes: int, channels: int, option: str) -> None:
    if len(blocks) != 3 or min(blocks) < 1:
        raise ValueError(f"ResNetCIFAR: blocks must be three counts of at least 1, got {list(blocks)}")
    if classes < 1:
        raise ValueError(f"ResNetCIFAR: classes must be at least 1, got {classes}")
    if channels not in (1, 3):
        raise ValueError(f"ResNetCIFAR: channels must be 1 or 3, got {channels}")
    if option not in ("A", "B"):
        raise ValueError(f"ResNetCIFAR: option must be 'A' or 'B', got {option!r}")


def _check_groups(width: int, cardinality: int) -> None:
    if cardinality < 1 or width < 1 or width % cardinality:
        raise ValueError(
            f"ResNetCIFAR: width must be a multiple of the cardinality, got {width} and {cardinality}"
        )


def _check_inner(inner: Sequence[int] | None, blocks: Sequence[int], cardinality: int) -> None:
    if inner is None:
        return
    if cardinality > 1:
        raise ValueError(f"ResNetCIFAR: inner must be left out with a cardinality, got {cardinality}")
    if len(inner) != sum(blocks) or min(inner) < 1:
        raise ValueError(
            f"ResNetCIFAR: inner must hold a count of at least 1 for each of {sum(blocks)} blocks, "
            f"got {list(inner)}"
        )
