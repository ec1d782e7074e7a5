"""A few images under CelebA's official names."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from litfast.data.decode import decode_all
from litfast.data.sets.celeba import STARGAN, celeba
from litfast.data.sets.image_set import Files

NAMES = "5_o_Clock_Shadow Black_Hair Blond_Hair Brown_Hair Male Young"
ROWS = [
    "000001.jpg -1  1 -1 -1  1 -1",
    "000002.jpg  1 -1  1 -1 -1  1",
    "000003.jpg -1 -1 -1  1  1  1",
    "000004.jpg  1  1  1  1  1  1",
]
ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"


def face(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img_align_celeba").mkdir()
    for i in range(4):
        (tmp_path / "img_align_celeba" / f"{i + 1:06}.jpg").write_bytes(face(i))
    (tmp_path / ATTRIBUTES).write_text("\n".join(["4", f"{NAMES} ", *ROWS, ""]))
    (tmp_path / PARTITION).write_text("000001.jpg 0\n000002.jpg 0\n000003.jpg 1\n000004.jpg 2\n")
    return tmp_path


def test_the_partition_gives_the_splits_and_the_list_the_attributes(folder: Path) -> None:
    found = celeba(folder)
    assert isinstance(found.train, Files) and isinstance(found.val, Files)
    assert found.train.paths == ("img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg")
    assert found.train.labels.tolist() == [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]
    assert found.train.labels.dtype == torch.int64
    assert found.val.labels.tolist() == [[0, 0, 1, 1, 1]] and found.test.labels.tolist() == [[1] * 5]
    assert found.attributes == found.classes == STARGAN
    assert STARGAN == ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    assert (found.centre_crop, found.size, found.crop, found.flip) == (178, 128, 0, True)
    assert found.mean == found.std == (0.5, 0.5, 0.5)


def test_attributes_are_taken_in_the_order_asked_for(folder: Path) -> None:
    found = celeba(folder, attributes=["Young", "5_o_Clock_Shadow"], centre_crop=None, size=64)
    assert found.train.labels.tolist() == [[0, 0], [1, 1]]
    assert (found.centre_crop, found.size) == (None, 64)


def test_faces_are_decoded_at_the_size_of_the_set(folder: Path) -> None:
    found = celeba(folder)
    assert isinstance(found.train, Files)
    images = decode_all(found.train, centre_crop=found.centre_crop, size=found.size).images
    assert images.shape == (2, 3, 128, 128)


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / ATTRIBUTES).unlink(), f"{{0}} must hold .*, got no {ATTRIBUTES}"),
        (lambda folder: (folder / PARTITION).unlink(), f"{{0}} must hold .*, got no {PARTITION}"),
        (
            edited(ATTRIBUTES, ROWS[1], ROWS[1][:-2]),
            "{0}/{1}:4 must hold a file name and 6 values, got 6 fields",
        ),
        (
            edited(ATTRIBUTES, ROWS[2], f"{ROWS[2]} 1"),
            "{0}/{1}:5 must hold a file name and 6 values, got 8 fields",
        ),
        (
            edited(ATTRIBUTES, "000003.jpg -1 -1", "000003.jpg -1 0"),
            "values in {0}/{1}:5 must be -1 or 1, got '0'",
        ),
        (edited(ATTRIBUTES, "000003", "000002"), "{0}/{1}:5 must name a new image, got 000002.jpg again"),
        (edited(ATTRIBUTES, "4\n", "5\n"), "{0}/{1} must hold the 5 images of its first line, got 4"),
        (
            edited(ATTRIBUTES, "4\n", ""),
            "{0}/{1} must begin with the number of images and a line .*, got '5_o",
        ),
        (lambda folder: (folder / ATTRIBUTES).write_text(""), "{0}/{1} must begin with .*, got ''"),
        (
            edited(PARTITION, "000002.jpg 0", "000002.jpg"),
            "{0}/{2}:2 must hold a file name and 0, 1 or 2, got",
        ),
        (edited(PARTITION, "000002.jpg 0", "000002.jpg 3"), "{0}/{2}:2 must hold .*, got '000002.jpg 3'"),
        (edited(PARTITION, "000002", "000001"), "{0}/{2}:2 must name a new image, got 000001.jpg again"),
        (
            edited(PARTITION, "000002.jpg 0\n", ""),
            "{0}/{2} must name the images of {1}, got 1 that only one of them has, 000002.jpg first",
        ),
        (
            edited(PARTITION, "000001.jpg 0", "000000.jpg 0\n000001.jpg 0"),
            "{0}/{1} must name the images of {2}, got 1",
        ),
        (
            edited(PARTITION, "000004.jpg 2", "000004.jpg 1"),
            "{0}/{2} must name at least 1 image of test, got none",
        ),
        (
            lambda folder: (folder / "img_align_celeba/000003.jpg").unlink(),
            "{0}/img_align_celeba must hold the 4 images of {1}, got 1 missing, 000003.jpg first",
        ),
        (
            lambda folder: (folder / "img_align_celeba").rename(folder / "elsewhere"),
            "{0}/img_align_celeba must hold the 4 images of {1}, got 4 missing, 000001.jpg first",
        ),
    ],
)
def test_a_spoilt_folder_is_named_with_file_and_line(
    spoil: Callable[[Path], None], message: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match="celeba: " + message.format(folder, ATTRIBUTES, PARTITION)):
        celeba(folder)


def test_bad_options_are_named(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"celeba: attribute must be one of .*, got 'Yung'; did you mean 'Young'"
    ):
        celeba(folder, attributes=["Yung"])
    with pytest.raises(ValueError, match=r"celeba: attributes must be at least 1, each named once, got \[\]"):
        celeba(folder, attributes=[])
    with pytest.raises(ValueError, match="celeba: attributes must be at least 1, each named once"):
        celeba(folder, attributes=["Male", "Male"])
    with pytest.raises(ValueError, match="celeba: size must be at least 1, got 0"):
        celeba(folder, size=0)
    with pytest.raises(ValueError, match="celeba: centre_crop must be at least 1, got -1"):
        celeba(folder, centre_crop=-1)
