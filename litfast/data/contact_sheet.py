"""Some samples of each class on one picture, to see at a glance what a set holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from litfast.data.decode import decode_at
from litfast.data.sets.image_set import Images, ImageSet, Samples
from litfast.data.sets.items import Items

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

ROWS, GROUPS, COLUMNS = 20, 100, 10  # rows of a panel, classes in all, samples of a class
SMALL, LARGE, GAP, LABEL, TEXT = 64, 96, 4, 150, 14  # pixels
PAPER, INK, PALE, BAD = "white", "black", "dimgray", "firebrick"


def contact_sheet(image_set: ImageSet) -> Image.Image:
    """Training images, a row for each class (or attribute) with its name and its count.

    Up to 20 rows stand in a panel, up to five panels side by side, the fewer samples a row the more panels;
    of more than 100 classes every n-th is shown. The samples of a row lie evenly over the set. Small images
    are enlarged pixel by pixel by a whole factor, large ones reduced. An image that cannot be decoded is a
    crossed tile.
    """
    from PIL import Image, ImageDraw, ImageFont

    samples = image_set.train
    if isinstance(samples, Items):
        raise TypeError("contact_sheet: image_set must hold images or files, got a Dataset of one's own")
    names = image_set.attributes or image_set.classes
    shown = _evenly(torch.arange(len(names)), GROUPS)
    panels = -(-len(shown) // ROWS)
    columns = max(COLUMNS // panels, 2)
    tile = _tile(samples)
    rows = -(-len(shown) // panels)
    width, height = LABEL + columns * (tile + GAP) + 2 * GAP, tile + GAP
    sheet = Image.new("RGB", (panels * width, rows * height + 3 * TEXT), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    draw.text((GAP, TEXT // 2), _title(image_set, len(shown), len(names)), INK, font)
    for place, group in enumerate(shown):
        left, top = place // rows * width + GAP, place % rows * height + 2 * TEXT + GAP
        members = _members(samples, group)
        draw.text((left, top + tile // 2 - TEXT), fitting(names[group], LABEL, draw, font), INK, font)
        draw.text((left, top + tile // 2 + GAP), f"{len(members):,}", PALE, font)
        for column, sample in enumerate(_evenly(members, columns)):
            corner = left + LABEL + column * (tile + GAP), top
            _put(sheet, draw, corner, tile, _decoded(samples, sample))
    return sheet


def _evenly(indices: torch.Tensor, count: int) -> list[int]:
    """At most `count` of them, at even distances from the first on."""
    count = min(count, len(indices))
    chosen: list[int] = indices[torch.arange(count) * len(indices) // max(count, 1)].tolist()
    return chosen


def _members(samples: Samples, group: int) -> torch.Tensor:
    """Of a class, or of those that have an attribute."""
    labels = samples.labels
    return (labels == group if labels.dim() == 1 else labels[:, group] > 0).nonzero().flatten()


def _title(image_set: ImageSet, shown: int, groups: int) -> str:
    kind = "attributes" if image_set.attributes else "classes"
    part = f"{shown} of {groups:,}" if shown < groups else f"{groups}"
    return f"{image_set.name}: {len(image_set.train):,} training images, {part} {kind}"


def _tile(samples: Samples) -> int:
    """Pixels a side, for what the first images are."""
    first = [_decoded(samples, i) for i in range(min(4, len(samples)))]
    longest = max((max(image.size) for image in first if image is not None), default=SMALL)
    return SMALL if longest <= SMALL else LARGE


def fitting(name: str, width: int, draw: ImageDraw.ImageDraw, font: Font) -> str:
    """The name, cut where it would run into the images `width` pixels further."""
    if draw.textlength(name, font) <= width - GAP:
        return name
    while name and draw.textlength(f"{name}...", font) > width - GAP:
        name = name[:-1]
    return f"{name}..."


def _put(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    tile: int,
    image: Image.Image | None,
) -> None:
    from PIL import Image

    x, y = corner
    if image is None:
        far = x + tile - 1, y + tile - 1
        draw.rectangle((corner, far), outline=BAD)
        draw.line((corner, far), BAD)
        draw.line((x, far[1], far[0], y), BAD)
        return
    factor = tile // max(image.size)
    if factor:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        image.thumbnail((tile, tile))
    sheet.paste(image, (x + (tile - image.width) // 2, y + (tile - image.height) // 2))


def _decoded(samples: Samples, i: int) -> Image.Image | None:
    """Sample i, whole; None where it cannot be decoded."""
    from PIL import Image

    if isinstance(samples, Images):
        pixels = samples.images[i].permute(1, 2, 0).contiguous().numpy()  # [H, W, C]
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    try:
        return Image.fromarray(decode_at(samples, i))
    except ValueError:
        return None
