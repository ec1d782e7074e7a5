"""StarGAN: one generator for all domains of an image set, and its discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

SMALLEST = 8  # pixels: an instance norm of the bottleneck needs more than one position
MOST_LAYERS = 6
SLOPE = 0.01  # of the discriminator's leaky ReLUs


class ResidualBlock(nn.Module):
    """x + norm2(conv2(relu(norm1(conv1(x))))): no ReLU behind the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return x + out


class Generator(nn.Module):
    """StarGAN's generator: two stride-2 convolutions, residual blocks, two transposed convolutions, tanh.

    It reads the image with its target domain as constant planes behind it (`with_domain`) and gives the image
    in that domain, in [-1, 1]. `bottleneck`, the sequence of residual blocks, is LIT's one section.

    Instance norms have weights but no running statistics: they normalise each image by itself in train and
    in eval mode alike. The published code keeps running statistics and never reads them, as it never leaves
    train mode.

    Args:
        blocks: one count, of the residual blocks.
        classes: domains, D.
        channels: of the images, C.
        width: channels of the first convolution; the bottleneck has four times as many.

    Raises:
        ValueError: a count that is not offered, such as fewer than 2 domains. The forward pass: an input
            that is not [B, C + D, H, W], or a size that `check_size` refuses.

    Source: Choi et al., StarGAN (2018), appendix 7.2 and the released code.
    """

    def __init__(
        self, blocks: Sequence[int], *, classes: int = 10, channels: int = 3, width: int = 64
    ) -> None:
        super().__init__()
        if len(blocks) != 1 or blocks[0] < 1:
            raise ValueError(f"StarGAN: blocks must be one count of at least 1, got {list(blocks)}")
        _check_counts("StarGAN", classes, channels, width)
        self.planes = channels + classes
        self.down = nn.Sequential(
            nn.Conv2d(self.planes, width, 7, padding=3, bias=False),
            _norm(width),
            nn.ReLU(),
            *_halving(width),
            *_halving(2 * width),
        )
        self.bottleneck = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(blocks[0])))
        self.up = nn.Sequential(
            *_doubling(4 * width),
            *_doubling(2 * width),
            nn.Conv2d(width, channels, 7, padding=3, bias=False),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:  # [B, C + D, H, W] -> [B, C, H, W]
        images: Tensor = self.up(self.bottleneck(self.down(checked_planes(x, self.planes))))
        return images


class Discriminator(nn.Module):
    """StarGAN's discriminator: is each patch real, and which domain is the image of.

    n stride-2 convolutions, n = min(6, floor(log2 size) - 1) by the image's shorter side: 6 at 128 pixels and
    more, which leaves a map of at least 2 x 2.

    Args:
        domains: D.
        image_size: side of a square image, or (height, width).
        channels: of the images, C.
        width: channels of the first convolution; each further one doubles them.

    Returns (of a call on images [B, C, H, W]):
        realness: [B, 1, h, w], not bounded: WGAN's critic.
        logits: [B, D], of the domains.

    Raises:
        ValueError: fewer than 2 domains, a size that `check_size` refuses; images of another size.
    """

    def __init__(
        self, domains: int, *, image_size: int | Sequence[int], channels: int = 3, width: int = 64
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        check_size(height, breadth)
        _check_counts("Discriminator", domains, channels, width)
        self.image_size = (height, breadth)
        layers = min(MOST_LAYERS, min(height, breadth).bit_length() - 2)
        widths = [width << i for i in range(layers)]
        ends = zip([channels, *widths], widths, strict=False)
        self.main = nn.Sequential(*(part for ins, outs in ends for part in _critic_layer(ins, outs)))
        self.realness = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)
        self.domain = nn.Conv2d(widths[-1], domains, (height >> layers, breadth >> layers), bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[2:] != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"Discriminator: images must be [B, C, {height}, {width}], got {list(images.shape)}"
            )
        features = self.main(images)
        return self.realness(features), self.domain(features).flatten(1)


def with_domain(images: Tensor, domain: Tensor) -> Tensor:
    """What a generator reads: each image and, behind its channels, its target domain as constant planes.

    Args:
        images: [B, C, H, W].
        domain: [B, D], one-hot or attributes of 0 and 1, in any dtype.

    Returns:
        [B, C + D, H, W] in the images' dtype.

    Raises:
        ValueError: other shapes.
    """
    if images.dim() != 4 or domain.dim() != 2 or len(images) != len(domain):
        got = f"{list(images.shape)} and {list(domain.shape)}"
        raise ValueError(f"with_domain: images and domain must be [B, C, H, W] and [B, D], got {got}")
    planes = domain.to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[2:])
    return torch.cat([images, planes], dim=1)


def check_size(height: int, width: int) -> None:
    """Refuse image sizes that the generator's two halvings and doublings would not give back.

    Raises:
        ValueError: a side that is no multiple of 4, or below 8 pixels.
    """
    if height % 4 or width % 4 or min(height, width) < SMALLEST:
        raise ValueError(
            f"StarGAN: image sides must be multiples of 4 from {SMALLEST} pixels on, got {height} x {width}; "
            "resize or crop the images"
        )


@fx.wrap  # one call in a traced forward: torch.fx could not follow the comparisons
def checked_planes(x: Tensor, planes: int) -> Tensor:
    """`x` as it is, once its shape fits."""
    if x.dim() != 4 or x.shape[1] != planes:
        raise ValueError(
            f"StarGAN: input must be [B, {planes}, H, W], the image and its domain's planes (with_domain), "
            f"got {list(x.shape)}"
        )
    check_size(x.shape[2], x.shape[3])
    return x


def _norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)


def _halving(channels: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False)
    return conv, _norm(2 * channels), nn.ReLU()


def _doubling(channels: int) -> tuple[nn.Module, ...]:
    conv = nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=False)
    return conv, _norm(channels // 2), nn.ReLU()


def _critic_layer(channels_in: int, channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels_in, channels, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)


def _check_counts(who: str, domains: int, channels: int, width: int) -> None:
    if domains < 2:
        raise ValueError(f"{who}: domains (classes) must be at least 2, got {domains}")
    if channels not in (1, 3):
        raise ValueError(f"{who}: channels must be 1 or 3, got {channels}")
    if width < 1:
        raise ValueError(f"{who}: width must be at least 1, got {width}")
