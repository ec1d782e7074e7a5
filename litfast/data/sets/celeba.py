"""CelebA: aligned faces with 40 attributes each, in the official files (Liu et al., ICCV 2015)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from litfast.data.sets.image_set import Files, ImageSet
from litfast.registry import unknown

IMAGES, ATTRIBUTES, PARTITION = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
STARGAN = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
VALUES = {"-1": 0, "1": 1}
SPLITS = {"0": "train", "1": "val", "2": "test"}


def celeba(
    root: str | Path,
    *,
    attributes: Sequence[str] = STARGAN,
    centre_crop: int | None = 178,
    size: int | None = 128,
) -> ImageSet:
    """CelebA from `img_align_celeba/*.jpg`, `list_attr_celeba.txt` and `list_eval_partition.txt`.

    Labels are [N, A], 1 where the image has the attribute; the splits are those of the partition file. The
    defaults are StarGAN's (Choi et al., CVPR 2018): five attributes, the middle 178 pixels resized to 128,
    flips, pixels scaled to -1..1. The classes are the attributes: a network has an output for each.

    Args:
        attributes: names, in the order of the columns of the labels.
        centre_crop, size: in pixels, see ImageSet.

    Raises:
        ValueError: a missing file or image, a ragged line or another value (with file and line), an image
            that only one list has, a split without images, an unknown attribute or one named twice.
    """
    folder = Path(root)
    for name, value in (("centre_crop", centre_crop), ("size", size)):
        if value is not None and value < 1:
            raise ValueError(f"celeba: {name} must be at least 1, got {value}")
    for name in (ATTRIBUTES, PARTITION):
        if not (folder / name).is_file():
            raise ValueError(
                f"celeba: {folder} must hold {IMAGES}, {ATTRIBUTES} and {PARTITION}, got no {name}"
            )
    labels = _labels(folder / ATTRIBUTES, attributes)
    parts = _parts(folder / PARTITION)
    _check_images(folder, labels, parts)
    splits = {name: _split(folder, name, parts, labels) for name in SPLITS.values()}
    return ImageSet(
        name="celeba",
        train=splits["train"],
        test=splits["test"],
        val=splits["val"],
        classes=tuple(attributes),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        crop=0,
        flip=True,
        centre_crop=centre_crop,
        size=size,
        attributes=tuple(attributes),
    )


def _labels(file: Path, attributes: Sequence[str]) -> dict[str, list[int]]:
    """A row of 0 and 1 for each image: below a line with their number and one with the attributes' names."""
    lines = _lines(file)
    _, count = next(lines, (1, []))
    _, names = next(lines, (2, []))
    if len(count) != 1 or not count[0].isdecimal() or not names:
        raise ValueError(
            f"celeba: {file} must begin with the number of images and a line of attribute names, "
            f"got {' '.join(count)[:60]!r}"
        )
    for name in attributes:
        if name not in names:
            raise ValueError(f"celeba: {unknown('attribute', name, names)}")
    if not attributes or len(set(attributes)) != len(attributes):
        raise ValueError(f"celeba: attributes must be at least 1, each named once, got {list(attributes)}")
    columns = [1 + names.index(name) for name in attributes]
    labels: dict[str, list[int]] = {}
    for number, fields in lines:
        if len(fields) != 1 + len(names):
            raise ValueError(
                f"celeba: {file}:{number} must hold a file name and {len(names)} values, "
                f"got {len(fields)} fields"
            )
        try:
            row = [VALUES[fields[column]] for column in columns]
        except KeyError as error:
            raise ValueError(f"celeba: values in {file}:{number} must be -1 or 1, got {error}") from None
        if fields[0] in labels:
            raise ValueError(f"celeba: {file}:{number} must name a new image, got {fields[0]} again")
        labels[fields[0]] = row
    if len(labels) != int(count[0]):
        raise ValueError(
            f"celeba: {file} must hold the {count[0]} images of its first line, got {len(labels)}"
        )
    return labels


def _parts(file: Path) -> dict[str, str]:
    """The split of each image, in the order of the file."""
    parts: dict[str, str] = {}
    for number, fields in _lines(file):
        if len(fields) != 2 or fields[1] not in SPLITS:
            raise ValueError(
                f"celeba: {file}:{number} must hold a file name and 0, 1 or 2, got {' '.join(fields)[:60]!r}"
            )
        if fields[0] in parts:
            raise ValueError(f"celeba: {file}:{number} must name a new image, got {fields[0]} again")
        parts[fields[0]] = SPLITS[fields[1]]
    return parts


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every line that is not blank."""
    with file.open(encoding="utf-8", errors="replace") as opened:
        for number, line in enumerate(opened, 1):
            if fields := line.split():
                yield number, fields


def _check_images(folder: Path, labels: dict[str, list[int]], parts: dict[str, str]) -> None:
    if differing := labels.keys() ^ parts.keys():
        name = min(differing)
        has, lacks = (ATTRIBUTES, PARTITION) if name in labels else (PARTITION, ATTRIBUTES)
        raise ValueError(
            f"celeba: {folder / lacks} must name the images of {has}, got {len(differing)} that only one of "
            f"them has, {name} first"
        )
    images = folder / IMAGES
    found = set(os.listdir(images)) if images.is_dir() else set()
    if missing := labels.keys() - found:
        raise ValueError(
            f"celeba: {images} must hold the {len(labels)} images of {ATTRIBUTES}, "
            f"got {len(missing)} missing, {min(missing)} first"
        )


def _split(folder: Path, split: str, parts: dict[str, str], labels: dict[str, list[int]]) -> Files:
    names = [name for name, part in parts.items() if part == split]
    if not names:
        raise ValueError(f"celeba: {folder / PARTITION} must name at least 1 image of {split}, got none")
    table: Tensor = torch.tensor([labels[name] for name in names], dtype=torch.int64)
    return Files(root=folder, paths=tuple(f"{IMAGES}/{name}" for name in names), labels=table)
