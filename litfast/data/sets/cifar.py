"""CIFAR-10 and CIFAR-100 in the official binary layout: label bytes, then 3,072 pixel bytes, a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from litfast.data.sets.image_set import Images, ImageSet

# the normalisation that the published CIFAR-10 ResNet checkpoints (akamaster) were trained with
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = 3 * 32 * 32


def cifar10(root: str | Path) -> ImageSet:
    """CIFAR-10 from `data_batch_*.bin` and `test_batch.bin` (1 label byte a record).

    A file may hold any number of records. Class names come from `batches.meta.txt` where it lies beside.

    Raises:
        ValueError: a file that is missing or truncated, a label of 10 or more.
    """
    layout = _Layout("cifar10", "data_batch_*.bin", "test_batch.bin", "batches.meta.txt", 1, 10)
    return _image_set(Path(root), layout)


def cifar100(root: str | Path) -> ImageSet:
    """CIFAR-100 from `train.bin` and `test.bin` (two label bytes a record; the second, fine one counts).

    A file may hold any number of records. Class names come from `fine_label_names.txt` where it lies beside.

    Raises:
        ValueError: a file that is missing or truncated, a label of 100 or more.
    """
    return _image_set(
        Path(root), _Layout("cifar100", "train.bin", "test.bin", "fine_label_names.txt", 2, 100)
    )


@dataclass(frozen=True)
class _Layout:
    name: str
    train: str  # a pattern
    test: str
    class_names: str
    label_bytes: int  # the last of them is the label
    classes: int

    @property
    def record(self) -> int:
        return self.label_bytes + PIXELS


def _image_set(folder: Path, layout: _Layout) -> ImageSet:
    files = [*sorted(folder.glob(layout.train)), *folder.glob(layout.test)]
    if len(files) < 2 or files[-1].name != layout.test:
        found = ", ".join(file.name for file in files) or "neither"
        raise ValueError(f"{layout.name}: {folder} must hold {layout.train} and {layout.test}, got {found}")
    *train, test = (_read(file, layout) for file in files)
    return ImageSet(
        name=layout.name,
        train=_joined(train),
        test=test,
        val=None,
        classes=_class_names(folder / layout.class_names, layout.classes),
        mean=MEAN,
        std=STD,
        crop=4,
        flip=True,
    )


def _read(file: Path, layout: _Layout) -> Images:
    found = file.stat().st_size
    if found == 0 or found % layout.record:
        raise ValueError(
            f"{layout.name}: {file} must be a multiple of {layout.record} bytes, got {found} bytes; "
            "it is truncated or of another layout"
        )
    records = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8).view(-1, layout.record)
    labels = records[:, layout.label_bytes - 1].long()
    wrong = (labels >= layout.classes).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"{layout.name}: labels of {file} must be below {layout.classes}, "
            f"got {int(labels[at])} in record {at}"
        )
    return Images(images=records[:, layout.label_bytes :].reshape(-1, 3, 32, 32), labels=labels)


def _joined(parts: Sequence[Images]) -> Images:
    images, labels = [part.images for part in parts], [part.labels for part in parts]
    return Images(images=torch.cat(images), labels=torch.cat(labels))


def _class_names(file: Path, classes: int) -> tuple[str, ...]:
    names = file.read_text().split() if file.is_file() else []
    return tuple(names) if len(names) == classes else tuple(str(label) for label in range(classes))
