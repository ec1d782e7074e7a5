"""Images in a folder a class, as torchvision and DALI know them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from litfast.data.sets.image_set import Files, ImageSet

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = ("train", "test", "val", "valid")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision has them
Identity = tuple[int, int]  # device and inode of a folder


def image_folder(root: str | Path, *, size: int | None = None) -> ImageSet:
    """The set `root/train/CLASS/*.jpg`, `root/test/CLASS/*.jpg`, with all its images left encoded.

    The test split is `test`, or `val` or `valid` where there is none; beside `test` these are the validation
    split. An image is any file in a class folder, or in folders below it, that ends in one of EXTENSIONS, in
    upper or lower case; all other files and whatever begins with a dot are passed over. Classes are numbered
    in the order of their names, and every split must have the same ones. No image is opened: `decode` names
    one that is unreadable or of another size.

    Normalised by ImageNet's mean and deviation, padded by 4 pixels for random crops, flipped; a recipe's
    `data.mean`, `std`, `crop` and `flip` replace these.

    Args:
        size: pixels that the shorter side is resized to, the middle square being taken; None for images that
            all have one size.

    Raises:
        ValueError: a missing split, a class folder that one split has and another not, a class without
            images, an image beside the class folders, a link that leads in a circle, a size below 1.
    """
    folder = Path(root)
    if size is not None and size < 1:
        raise ValueError(f"image_folder: size must be at least 1, got {size}")
    train, test, val = _splits(folder)
    classes = _class_names(folder / train)
    return ImageSet(
        name="image_folder",
        train=_files(folder, train, classes),
        test=_files(folder, test, classes),
        val=None if val is None else _files(folder, val, classes),
        classes=classes,
        mean=MEAN,
        std=STD,
        crop=4,
        flip=True,
        size=size,
    )


def _splits(folder: Path) -> tuple[str, str, str | None]:
    """The folders of training, test and validation."""
    rule = "must hold the folders train and test (or val, or valid)"
    found = [split for split in SPLITS if (folder / split).is_dir()]
    if "val" in found and "valid" in found:
        raise ValueError(f"image_folder: {folder} {rule}, got both val and valid")
    if found[:1] != ["train"] or len(found) == 1:
        got = ", ".join(sorted(entry.name for entry in folder.glob("*"))[:10])
        got = got or ("nothing" if folder.is_dir() else "no folder")
        raise ValueError(f"image_folder: {folder} {rule}, got {got}")
    return "train", found[1], found[2] if len(found) == 3 else None


def _class_names(split: Path) -> tuple[str, ...]:
    names = []
    with os.scandir(split) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                names.append(entry.name)
            elif _is_image(entry.name):
                raise ValueError(
                    f"image_folder: {split} must hold its images in a folder a class, "
                    f"got {entry.name} beside the class folders"
                )
    if not names:
        raise ValueError(f"image_folder: {split} must hold a folder a class, got none")
    return tuple(sorted(names))


def _files(folder: Path, split: str, classes: tuple[str, ...]) -> Files:
    found = set(_class_names(folder / split))
    for names, what in (
        (set(classes) - found, "the class folder"),
        (found - set(classes), "no class folder"),
    ):
        if names:
            example = sorted(names)[0]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            got = "none" if what == "the class folder" else "one"
            raise ValueError(
                f"image_folder: {folder / split} must hold {what} {example}{more}, as train does, got {got}"
            )
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(images_below("image_folder", folder / split / name, f"{split}/{name}"))
        if not images:
            raise ValueError(
                f"image_folder: {folder / split / name} must hold at least 1 image "
                f"({', '.join(EXTENSIONS)}), got none"
            )
        paths += images
        labels += [label] * len(images)
    return Files(root=folder, paths=tuple(paths), labels=torch.tensor(labels))


def images_below(
    who: str, folder: str | Path, prefix: str, above: frozenset[Identity] = frozenset()
) -> Iterator[str]:
    """The images in a folder and below it, each behind `prefix`.

    Raises:
        ValueError: a link that leads in a circle, in the words of `who`.
    """
    before = f"{prefix}/" if prefix else ""
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    if identity in above:
        raise ValueError(f"{who}: {folder} must not lead back to a folder above it, got a link that does")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from images_below(who, entry.path, f"{before}{entry.name}", above | {identity})
            elif _is_image(entry.name):
                yield f"{before}{entry.name}"


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)
