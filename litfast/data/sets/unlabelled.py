"""Images in a folder, without labels: a teacher says what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from litfast.data.loader import UNLABELLED
from litfast.data.sets.image_folder import EXTENSIONS, MEAN, STD, images_below
from litfast.data.sets.image_set import Files, ImageSet, hold_out


def unlabelled(
    root: str | Path,
    *,
    classes: int | Sequence[str] | None = None,
    size: int | None = None,
    test: float = 0.1,
) -> ImageSet:
    """The set of all images in `root` and the folders below it, whose names mean nothing.

    Where `root` holds the folders train and test (or val, or valid) these are the splits; else `test` of the
    images, drawn once at random, are the test split. Every label is UNLABELLED. What an image is, how it is
    normalised, cropped and flipped: as `image_folder`.

    Args:
        classes: the teacher's, by number or by name.
        size: pixels that the shorter side is resized to, the middle square being taken; None for images that
            all have one size.
        test: fraction of the images, above 0 and below 1.

    Raises:
        ValueError: no classes, a number out of its range, a folder without images or with only one, a link
            that leads in a circle.
    """
    folder = Path(root)
    if isinstance(classes, int):
        classes = tuple(str(label) for label in range(classes))
    if not classes or isinstance(classes, str):
        raise ValueError(
            "unlabelled: classes must be the teacher's, how many or their names, "
            f"got {classes or 'none'}; --set data.options.classes=10"
        )
    if size is not None and size < 1:
        raise ValueError(f"unlabelled: size must be at least 1, got {size}")
    if not 0 < test < 1:
        raise ValueError(f"unlabelled: test must lie between 0 and 1, got {test}")
    train, held = _splits(folder, test)
    return ImageSet(
        name="unlabelled",
        train=train,
        test=held,
        val=None,
        classes=tuple(classes),
        mean=MEAN,
        std=STD,
        crop=4,
        flip=True,
        size=size,
        labelled=False,
    )


def _splits(folder: Path, test: float) -> tuple[Files, Files]:
    names = [name for name in ("test", "val", "valid") if (folder / name).is_dir()]
    if names and (folder / "train").is_dir():
        return _files(folder, "train"), _files(folder, names[0])
    every = _files(folder, "")
    if len(every) < 2:
        raise ValueError(f"unlabelled: {folder} must hold at least 2 images, got 1")
    count = min(max(round(test * len(every)), 1), len(every) - 1)
    return hold_out(every, count, seed=0)


def _files(folder: Path, split: str) -> Files:
    place = folder / split
    paths = sorted(images_below("unlabelled", place, split)) if place.is_dir() else []
    if not paths:
        got = "none" if place.is_dir() else "no folder"
        raise ValueError(
            f"unlabelled: {place} must hold at least 1 image ({', '.join(EXTENSIONS)}), got {got}"
        )
    return Files(root=folder, paths=tuple(paths), labels=torch.full((len(paths),), UNLABELLED))
