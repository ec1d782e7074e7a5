"""MNIST and Fashion-MNIST from their IDX files, packed by gzip or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from litfast.data.sets.image_set import Images, ImageSet

SIDE, CLASSES = 28, 10
UINT8 = 0x08  # IDX's code of the element type
MOST = 1 << 32  # bytes that are read, 90 times MNIST: what is packed may hold more than any memory
FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def mnist(root: str | Path) -> ImageSet:
    """MNIST, handwritten digits of 28x28 pixels, [N, 1, 28, 28].

    The files are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, with a dot (`train-images.idx3-ubyte`) and packed (`.gz`) too; each may hold any
    number of samples. Normalised by the mean and deviation of the 60,000 training images. Random shifts by up
    to 2 pixels leave a digit (20x20) within its 28x28; no flip, a mirrored digit is another shape.

    Raises:
        ValueError: a file that is missing, truncated or no IDX file of the right shape, counts that disagree,
            a label of 10 or more.
    """
    return _image_set("mnist", Path(root), tuple(map(str, range(CLASSES))), (0.1307, 0.3081), 2, False)


def fashion_mnist(root: str | Path) -> ImageSet:
    """Fashion-MNIST, clothes of 28x28 pixels, [N, 1, 28, 28], from files that are named as MNIST's are.

    Normalised by the mean and deviation of the 60,000 training images; crops of the image padded by 4 pixels
    and flips as in Zhong et al., Random Erasing (AAAI 2020).

    Raises:
        ValueError: as for `mnist`.
    """
    return _image_set("fashion_mnist", Path(root), FASHION, (0.2860, 0.3530), 4, True)


def _image_set(
    name: str,
    folder: Path,
    classes: tuple[str, ...],
    normalisation: tuple[float, float],
    crop: int,
    flip: bool,
) -> ImageSet:
    mean, std = normalisation
    return ImageSet(
        name=name,
        train=_split(name, folder, "train"),
        test=_split(name, folder, "t10k"),
        val=None,
        classes=classes,
        mean=(mean,),
        std=(std,),
        crop=crop,
        flip=flip,
    )


def _split(name: str, folder: Path, split: str) -> Images:
    image_file = _file(name, folder, f"{split}-images", 3)
    label_file = _file(name, folder, f"{split}-labels", 1)
    images, labels = _read(name, image_file, 3), _read(name, label_file, 1).long()
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"{name}: {image_file} must hold images of {SIDE}x{SIDE} pixels, "
            f"got {images.shape[1]}x{images.shape[2]}"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{name}: {label_file} must hold a label for each of the {len(images)} images "
            f"of {image_file.name}, got {len(labels)}"
        )
    wrong = (labels >= CLASSES).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"{name}: labels of {label_file} must be below {CLASSES}, got {int(labels[at])} at {at}"
        )
    return Images(images=images[:, None], labels=labels)


def _file(name: str, folder: Path, stem: str, dims: int) -> Path:
    names = [f"{stem}{joint}idx{dims}-ubyte{packed}" for packed in ("", ".gz") for joint in ("-", ".")]
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise ValueError(f"{name}: {folder} must hold one of {', '.join(names)}, got none of them")


def _read(name: str, file: Path, dims: int) -> Tensor:
    """The uint8 array in an IDX file: 0, 0, type code, number of dimensions, sizes (big-endian), values."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            header = opened.read(4 + 4 * dims)
            magic = bytes([0, 0, UINT8, dims])
            if header[:4] != magic:
                got = header[:4].hex() or "nothing"
                raise ValueError(f"{name}: {file} must begin with the IDX magic {magic.hex()}, got {got}")
            shape = [int.from_bytes(header[at : at + 4], "big") for at in range(4, 4 + 4 * dims, 4)]
            values = _at_most(opened, min(math.prod(shape), MOST) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: {file} must be a whole file, got: {error}") from None
    if len(header) < 4 + 4 * dims or len(values) != math.prod(shape) or not values:
        raise ValueError(
            f"{name}: {file} must hold the {math.prod(shape)} bytes (1 at least) that its header "
            f"announces for {shape}, got {'more' if len(values) > math.prod(shape) else len(values)}"
        )
    return torch.frombuffer(values, dtype=torch.uint8).view(shape)


def _at_most(opened: BinaryIO | gzip.GzipFile, count: int) -> bytearray:
    """Up to `count` bytes; sets aside no more than there are, whatever a header announces."""
    read = bytearray()
    while piece := opened.read(min(count - len(read), 1 << 20)):
        read += piece
    return read
