"""VGG for small images, with batch norm after every convolution: the network of the slimming paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512, 512)
SECTIONS = ("section1", "section2", "section3", "section4", "section5")


class ConvLayer(nn.Module):
    """relu(bn(conv(x))), the convolution 3x3 and without bias."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class VGG(nn.Module):
    """Five sections of 3x3 convolutions, a 2x2 max pool between two of them, global average pool, linear.

    The names count the convolutions and three linear layers of the original, of which one is left here:
    VGG-19 has 16 convolutions and 20,035,018 parameters at 10 classes. An odd side is pooled to half of it,
    rounded up, so that images of any size are taken.

    Starts as in the slimming paper's code: convolutions from He's normal distribution by the outputs, scales
    of batch norms at 0.5 (section 4.3 of the paper), the linear layer from N(0, .01^2).

    Args:
        blocks: convolutions in each of the five sections.
        classes: width of the output, K.
        channels: channels of the input, 1 or 3.
        widths: channels behind each convolution, in the order of the forward pass, as network slimming leaves
            them; None: 64, 128, 256, 512 and 512 by section.

    Raises:
        ValueError: a count below 1, channels that are not offered, widths that are not one a convolution.

    Source: Simonyan and Zisserman, Very Deep Convolutional Networks (2015), for CIFAR as in Liu et al.,
    Network Slimming (2017), section 4.1.
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
        _check(blocks, classes, channels, widths)
        if widths is None:
            widths = [width for width, count in zip(WIDTHS, blocks, strict=True) for _ in range(count)]
        layers = [ConvLayer(*pair) for pair in zip((channels, *widths[:-1]), widths, strict=True)]
        ends = [sum(blocks[: i + 1]) for i in range(len(blocks))]
        self.section1, self.section2, self.section3, self.section4, self.section5 = (
            nn.Sequential(*layers[begin:end]) for begin, end in zip((0, *ends[:-1]), ends, strict=True)
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.linear = nn.Linear(widths[-1], classes)
        self._start()

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, K]
        x = self.section1(x)
        x = self.section3(self.pool(self.section2(self.pool(x))))
        x = self.section5(self.pool(self.section4(self.pool(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 0.5)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)


def _check(blocks: Sequence[int], classes: int, channels: int, widths: Sequence[int] | None) -> None:
    if len(blocks) != len(SECTIONS) or min(blocks) < 1:
        raise ValueError(f"VGG: blocks must be five counts of at least 1, got {list(blocks)}")
    if classes < 1:
        raise ValueError(f"VGG: classes must be at least 1, got {classes}")
    if channels not in (1, 3):
        raise ValueError(f"VGG: channels must be 1 or 3, got {channels}")
    if widths is not None and (len(widths) != sum(blocks) or min(widths) < 1):
        raise ValueError(
            f"VGG: widths must hold a count of at least 1 for each of {sum(blocks)} convolutions, "
            f"got {list(widths)}"
        )
