"""Where the samples of a class stand on the sheet, pixel by pixel."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from litfast.data import Images, ImageSet
from litfast.data.contact_sheet import GAP, LABEL, LARGE, SMALL, TEXT, contact_sheet
from litfast.data.sets.image_set import Files, Members, Samples

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
TOP = 2 * TEXT + GAP


def image_set(train: Samples, classes: tuple[str, ...], **more: Any) -> ImageSet:
    normal = {"mean": (0.5,), "std": (0.5,), "crop": 0, "flip": False, "val": None}
    return ImageSet(name="mine", train=train, test=train, classes=classes, **normal, **more)


def plain(colours: list[tuple[int, int, int]], labels: list[Any], size: int = 8) -> Images:
    pixels = torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, size, size)
    return Images(images=pixels.contiguous(), labels=torch.tensor(labels))


def tile(sheet: Image.Image, row: int, column: int, side: int = SMALL, panel: int = 0) -> Image.Image:
    x, y = GAP + panel + LABEL + column * (side + GAP), TOP + row * (side + GAP)
    return sheet.crop((x, y, x + side, y + side))


def colours(image: Image.Image) -> set[Any]:
    return set(np.array(image).reshape(-1, 3).view("u1,u1,u1").flatten().tolist())


def test_each_class_has_a_row_of_its_own_samples() -> None:
    sheet = contact_sheet(image_set(plain([RED, GREEN, RED, BLUE], [0, 1, 0, 1]), ("a", "b", "empty")))
    found = [[colours(tile(sheet, row, column)) for column in range(3)] for row in range(3)]
    white = {(255, 255, 255)}
    assert found == [[{RED}, {RED}, white], [{GREEN}, {BLUE}, white], [white, white, white]]


def test_small_images_grow_by_whole_pixels() -> None:
    raw = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8)
    sheet = contact_sheet(image_set(Images(images=raw, labels=torch.zeros(1, dtype=torch.int64)), ("a",)))
    grown = np.array(tile(sheet, 0, 0))
    assert (grown == raw[0, 0].numpy().repeat(8, 0).repeat(8, 1)[:, :, None]).all()


def test_names_are_written_and_long_ones_cut_before_the_images() -> None:
    train = plain([RED], [0])
    for name in ("airplane", "a very long name of a class that would run over everything"):
        sheet = np.array(contact_sheet(image_set(train, (name,))))
        label = sheet[TOP : TOP + SMALL, : LABEL + GAP]
        assert (label < 128).all(2).sum() > 50
        assert colours(tile(Image.fromarray(sheet), 0, 0)) == {RED}


def test_a_row_for_each_attribute_shows_those_who_have_it() -> None:
    train = plain([RED, GREEN, BLUE], [[1, 0], [1, 1], [0, 1]])
    sheet = contact_sheet(image_set(train, (), attributes=("Bald", "Smiling")))
    assert [colours(tile(sheet, 0, i)) for i in (0, 1)] == [{RED}, {GREEN}]
    assert [colours(tile(sheet, 1, i)) for i in (0, 1)] == [{GREEN}, {BLUE}]


def test_many_classes_stand_in_panels_and_very_many_are_thinned() -> None:
    def shades(count: int) -> ImageSet:
        grey = [(i // 5, i // 5, i // 5) for i in range(count)]
        return image_set(plain(grey, list(range(count))), tuple(map(str, range(count))))

    sheet = contact_sheet(shades(40))
    panel = LABEL + 5 * (SMALL + GAP) + 2 * GAP
    assert sheet.width == 2 * panel
    assert colours(tile(sheet, 0, 0, panel=panel)) == {(20 // 5,) * 3}
    thinned = contact_sheet(shades(1000))
    assert thinned.size == contact_sheet(shades(100)).size
    assert colours(tile(thinned, 1, 0)) == {(10 // 5,) * 3}


def encoded(colour: tuple[int, int, int], size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def test_files_of_any_size_fit_and_a_bad_one_is_crossed(tmp_path: Path) -> None:
    contents = {
        "wide.png": encoded(RED, (400, 200)),
        "bad.png": b"no image",
        "tiny.png": encoded(BLUE, (8, 4)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    train = Files(root=tmp_path, paths=tuple(contents), labels=torch.zeros(3, dtype=torch.int64))
    sheet = contact_sheet(image_set(train, ("a",)))
    wide, bad, tiny = (np.array(tile(sheet, 0, i, LARGE)) for i in range(3))
    assert (wide[24:72] == RED).all() and (wide[:24] == 255).all() and (wide[72:] == 255).all()
    assert tuple(bad[0, 0]) == tuple(bad[50, 50]) == (178, 34, 34)
    assert (tiny[24:72] == BLUE).all()


def test_members_of_an_archive_are_shown(tmp_path: Path) -> None:
    content = encoded(GREEN, (32, 32))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("0.png")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    at = torch.tensor([512])
    train = Members(
        tars=(tmp_path / "a.tar",),
        tar=torch.tensor([0]),
        offset=at,
        size=torch.tensor([len(content)]),
        keys=("0",),
        labels=torch.tensor([0]),
    )
    assert colours(tile(contact_sheet(image_set(train, ("a",))), 0, 0)) == {GREEN}
