"""The maxout networks of FitNets: a teacher, and students that are thinner and deeper than it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

# Channels of every convolution by section; SPEC 4 and table 5 of the paper.
WIDTHS = {
    "maxout": ((96,), (192,), (192,)),
    "fitnet1": ((16, 16, 16), (32, 32, 32), (48, 48, 64)),
    "fitnet2": ((16, 32, 32), (48, 64, 80), (96, 96, 128)),
    "fitnet4": ((32, 32, 32, 48, 48), (80,) * 6, (128,) * 6),
}
PIECES = 2  # of a convolution
UNITS, UNIT_PIECES = 500, 5  # of the fully connected layer


class Maxout(nn.Module):
    """The largest of several linear pieces: out[:, c] = max_p x[:, p C + c].

    [B, pieces C, ...] -> [B, C, ...].

    Source: Goodfellow et al., Maxout Networks (2013).
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.pieces, -1)).amax(1)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


class MaxoutNet(nn.Module):
    """Three sections of maxout convolutions (3x3, padding 1, two pieces), a maxout layer, a linear layer.

    Sections 1 and 2 end with a 2x2 pool; the middle layers that FitNets takes for hint and guided are the
    outputs of section 2, 8 x 8 of an image of 32 x 32. The pool behind section 3 takes the whole map, 8 x 8
    there. The fully connected maxout layer has 500 units of 5 pieces. At 10 classes:

                  channels                                parameters    multiplications (32 x 32)
        maxout    96 | 192 | 192                           1,488,982    133.20 M
        fitnet1   16, 16, 16 | 32, 32, 32 | 48, 48, 64       348,694     30.25 M
        fitnet2   16, 32, 32 | 48, 64, 80 | 96, 96, 128    1,057,622    107.97 M
        fitnet4   32, 32, 32, 48, 48 | 80 x 6 | 128 x 6    2,742,102    381.94 M

    The teacher has the students' 3x3 convolutions here; the paper's, about 9 M parameters, is the network of
    Goodfellow et al. with larger ones. Weights start normal with variance 1 / fan-in, so that the larger of
    two sums has the inputs' mean square; the released code draws all from -.005 to .005 and bounds the norm
    of every kernel.

    Args:
        widths: channels of the convolutions of each of the three sections, after the maximum.
        classes: width of the output, K.
        channels: channels of the input, whose sides are at least 4 pixels.

    Raises:
        ValueError: not three sections of at least one convolution, or a count below 1.

    Source: Romero et al., FitNets: Hints for Thin Deep Nets (2015), section 3 and appendix; released code
    (adri-romsor/FitNets).
    """

    def __init__(self, widths: Sequence[Sequence[int]], *, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        _check(widths, classes, channels)
        first, second, third = widths
        self.section1 = nn.Sequential(*_convolutions(channels, first), nn.MaxPool2d(2))
        self.section2 = nn.Sequential(*_convolutions(first[-1], second), nn.MaxPool2d(2))
        self.section3 = nn.Sequential(*_convolutions(second[-1], third))
        self.fc = nn.Linear(third[-1], UNIT_PIECES * UNITS)
        self.maxout = Maxout(UNIT_PIECES)
        self.linear = nn.Linear(UNITS, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _start(module)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, K]
        x = self.section3(self.section2(self.section1(x)))
        logits: Tensor = self.linear(self.maxout(self.fc(x.amax((2, 3)))))
        return logits


def _convolutions(channels: int, widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, width in zip((channels, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, PIECES * width, 3, padding=1), Maxout(PIECES)]
    return layers


def _start(module: nn.Conv2d | nn.Linear) -> None:
    """Normal with variance 1 / fan-in, biases 0."""
    nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    assert module.bias is not None
    nn.init.zeros_(module.bias)


def _check(widths: Sequence[Sequence[int]], classes: int, channels: int) -> None:
    listed = [list(section) for section in widths]
    if len(listed) != 3 or not all(section and min(section) >= 1 for section in listed):
        raise ValueError(f"MaxoutNet: widths must be three lists of counts of at least 1, got {listed}")
    for what, value in (("classes", classes), ("channels", channels)):
        if value < 1:
            raise ValueError(f"MaxoutNet: {what} must be at least 1, got {value}")
