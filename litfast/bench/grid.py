"""A picture of translations: each image, and what every generator makes of it in every domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from litfast.bench.translate import domain_planes, spread
from litfast.data.contact_sheet import GAP, INK, PALE, PAPER, TEXT, fitting
from litfast.data.loader import Loader
from litfast.engine.evaluate import evaluating
from litfast.models.stargan import with_domain

if TYPE_CHECKING:
    from PIL import Image

LABEL, SMALL, LARGE, APART = 160, 96, 256, 10  # pixels; LABEL at most


def grid(
    generators: Mapping[str, nn.Module], loader: Loader, *, domains: Sequence[str], count: int = 6
) -> Image.Image:
    """Test images, each translated to every domain by every generator.

    A column is the image as it came, then one a domain; with attributes a column flips that attribute alone.
    Every image has a row for each generator, named at the left. A frame marks the image's own domain, where a
    generator has only to give the image back. `count` images are taken evenly from the split. Small images
    grow by a whole factor, pixel by pixel, to about 96 pixels; those above 256 are reduced.

    Args:
        generators: by the names that the rows bear, such as teacher, student and scratch; at least one.
        loader: an evaluation loader of images in -1..1.
        domains: names of the classes or attributes, in the order of the targets.

    Raises:
        ValueError: no generator, a count below 1, or targets that are none of the domains.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not generators or count < 1:
        raise ValueError(
            f"grid: there must be a generator and an image, got {len(generators)} and {count} of them"
        )
    images, target = _chosen(loader, count)
    own = domain_planes(target, domains)
    flips = target.dim() == 2
    rows = {name: _row(generator, images, own, flips) for name, generator in generators.items()}
    font = ImageFont.load_default(TEXT)
    side, height = _tile(images)
    left, top = min(max(int(font.getlength(name)) for name in rows) + 3 * GAP, LABEL), 2 * TEXT
    across, group = len(domains) + 1, len(rows) * (height + GAP) + APART
    size = left + across * (side + GAP) + APART, top + len(images) * group + (0 if flips else 2 * TEXT)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    heads = ["input", *(f"± {name}" if flips else name for name in domains)]
    for column, head in enumerate(heads):
        x = left + column * (side + GAP) + (APART if column else 0)
        draw.text((x, top - TEXT - GAP), fitting(head, side, draw, font), INK, font)
    for i, image in enumerate(images):
        for line, (name, translations) in enumerate(rows.items()):
            y = top + i * group + line * (height + GAP)
            draw.text((GAP, y + height // 2 - TEXT // 2), fitting(name, left - GAP, draw, font), INK, font)
            if not line:
                sheet.paste(_picture(image, side, height), (left, y))
            for domain, translation in enumerate(translations[i]):
                x = left + (domain + 1) * (side + GAP) + APART
                sheet.paste(_picture(translation, side, height), (x, y))
                if not flips and target[i] == domain:
                    draw.rectangle((x - 2, y - 2, x + side + 1, y + height + 1), outline=PALE, width=2)
    if not flips:
        draw.text((left, size[1] - 2 * TEXT), "framed: the domain that the image has", PALE, font)
    return sheet


def _chosen(loader: Loader, count: int) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W] and targets."""
    found = [(batch.images.cpu()[shown], batch.target.cpu()[shown]) for batch, shown in spread(loader, count)]
    images, targets = zip(*found, strict=True)
    return torch.cat(images), torch.cat(targets)


def _row(generator: nn.Module, images: Tensor, own: Tensor, flips: bool) -> Tensor:
    """Translations [N, D, C, H, W]."""
    device = next(generator.parameters()).device
    found = []
    with evaluating(generator), torch.inference_mode():
        for domain in range(own.shape[1]):
            wanted = own.clone() if flips else torch.zeros_like(own)
            wanted[:, domain] = 1 - own[:, domain] if flips else 1
            found.append(generator(with_domain(images.to(device), wanted.to(device))).float().cpu())
    return torch.stack(found, 1)


def _tile(images: Tensor) -> tuple[int, int]:
    """Width and height in pixels."""
    height, width = images.shape[2:]
    longest = max(height, width)
    if longest > LARGE:
        return width * LARGE // longest, height * LARGE // longest
    factor = max(SMALL // longest, 1)
    return width * factor, height * factor


def _picture(image: Tensor, width: int, height: int) -> Image.Image:
    """[C, H, W] in -1..1, in the tile's size."""
    from PIL import Image

    pixels = ((image.nan_to_num() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    picture = Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
    grows = width >= picture.width
    return picture.resize((width, height), Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)
