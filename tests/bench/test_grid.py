"""Where the translations stand on the grid, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from litfast.bench.grid import APART, LABEL, SMALL, grid
from litfast.data.contact_sheet import GAP, TEXT
from litfast.data.resident import ResidentLoader

TOP = 2 * TEXT
DOMAINS = ("cat", "dog", "a domain with a very long name")


class Painter(nn.Module):
    """Paints everything in a grey of its own, brighter with the domain."""

    def __init__(self, grey: float) -> None:
        super().__init__()
        self.grey = nn.Parameter(torch.tensor(grey))

    def forward(self, x: Tensor) -> Tensor:
        domain = (x[:, 3:] * torch.arange(1.0, 4)[:, None, None]).sum(1, keepdim=True)
        return (self.grey + domain / 10).expand(-1, 3, -1, -1)


def loader(size: int = 8, attributes: bool = False, count: int = 6) -> ResidentLoader:
    raw = torch.arange(count)[:, None, None, None].expand(-1, 3, size, size) * 40
    labels = torch.arange(count) % 3
    if attributes:
        labels = torch.tensor([[1, 0, 1]] * count)
    return ResidentLoader(raw.to(torch.uint8), labels, batch=4, mean=(0.5,) * 3, std=(0.5,) * 3, train=False)


def tile(sheet: Image.Image, image: int, row: int, column: int, *, rows: int, side: int = SMALL) -> Any:
    """Pixels [side, side, 3]; column 0 is the input."""
    x = sheet.width - 4 * (side + GAP) - APART + column * (side + GAP) + (APART if column else 0)
    y = TOP + image * (rows * (side + GAP) + APART) + row * (side + GAP)
    return np.array(sheet)[y : y + side, x : x + side]


def level(value: float) -> int:
    return round((value + 1) * 127.5)


def test_each_image_has_a_row_for_each_generator_and_a_column_for_each_domain() -> None:
    painters = {"teacher": Painter(-0.5), "student": Painter(0.5)}
    sheet = grid(painters, loader(), domains=DOMAINS, count=3)
    for image, source in enumerate((0, 2, 4)):  # of six, evenly
        assert (tile(sheet, image, 0, 0, rows=2) == source * 40).all()
        assert (tile(sheet, image, 1, 0, rows=2) == 255).all()  # the input stands once
        for row, grey in enumerate((-0.5, 0.5)):
            for domain in range(3):
                found = tile(sheet, image, row, domain + 1, rows=2)
                assert (found == level(grey + (domain + 1) / 10)).all()


def test_the_own_domain_is_framed_and_no_other() -> None:
    sheet = grid({"a": Painter(0.0)}, loader(), domains=DOMAINS, count=2)
    left = sheet.width - 4 * (SMALL + GAP)
    edges = [np.array(sheet)[TOP + 5, left + (domain + 1) * (SMALL + GAP) - 1] for domain in range(3)]
    assert [int(edge[0]) for edge in edges] == [105, 255, 255]
    below = np.array(sheet)[-2 * TEXT :]
    assert (below < 150).any()  # and says so


def test_names_are_written_within_their_room() -> None:
    def labelled(name: str) -> tuple[Any, int]:
        sheet = grid({name: Painter(0.0)}, loader(), domains=DOMAINS, count=1)
        return np.array(sheet), sheet.width - 4 * (SMALL + GAP) - APART

    pixels, left = labelled("teacher")
    for column in range(4):
        x = left + column * (SMALL + GAP) + (APART if column else 0)
        assert (pixels[: TOP - 4, x : x + SMALL] < 128).any()
    assert (pixels[: TOP - 4, -APART - GAP + 4 :] == 255).all()  # a long domain is cut
    assert 50 < left < 80 and (pixels[TOP : TOP + SMALL, :left] < 128).any()
    pixels, left = labelled("a generator with a name that is longer than the room for it")
    assert left == LABEL and (pixels[TOP : TOP + SMALL, left - GAP : left] == 255).all()


def test_attributes_are_flipped_one_a_column() -> None:
    sheet = grid({"a": Painter(0.0)}, loader(attributes=True), domains=DOMAINS, count=1)
    found = [int(tile(sheet, 0, 0, column, rows=1)[0, 0, 0]) for column in (1, 2, 3)]
    assert found == [level(0.3), level(0.6), level(0.1)]  # 1 0 1 with one of them flipped


@pytest.mark.parametrize(("size", "side"), [(32, 96), (28, 84), (128, 128), (400, 256)])
def test_images_of_any_size_are_shown(size: int, side: int) -> None:
    sheet = grid({"a": Painter(0.0)}, loader(size, count=2), domains=DOMAINS, count=2)
    assert (tile(sheet, 1, 0, 0, rows=1, side=side) == 40).all()
    assert (tile(sheet, 1, 0, 3, rows=1, side=side) == level(0.3)).all()


def test_pixels_grow_by_a_whole_factor_and_broken_ones_are_shown_grey() -> None:
    class Pattern(Painter):
        def forward(self, x: Tensor) -> Tensor:
            out = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).expand(len(x), 3, 8, 8).clone()
            out[:, :, 0, 0] = float("nan")
            return out

    found = tile(grid({"a": Pattern(0.0)}, loader(), domains=DOMAINS, count=1), 0, 0, 1, rows=1)
    small = ((torch.linspace(-1, 1, 64).view(8, 8) + 1) * 127.5).round().to(torch.uint8).numpy()
    small[0, 0] = 128
    assert (found[:, :, 0] == small.repeat(12, 0).repeat(12, 1)).all()


def test_nothing_to_show_gets_one_clear_line() -> None:
    with pytest.raises(ValueError, match="there must be a generator and an image, got 0 and 6 of them"):
        grid({}, loader(), domains=DOMAINS)
    with pytest.raises(ValueError, match="got 1 and 0 of them"):
        grid({"a": Painter(0.0)}, loader(), domains=DOMAINS, count=0)
