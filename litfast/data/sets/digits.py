"""UCI handwritten digits, 1,797 real images of 8x8 pixels, shipped with the package (CC BY 4.0).

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49. See digits.LICENSE.txt beside this file.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from importlib.resources import files

import torch
from torch import Tensor

from litfast.data.sets.image_set import Images, ImageSet

VAL, TEST = 200, 400
SPLIT_SEED = 0


def digits() -> ImageSet:
    """The digits in a fixed split: 1,197 train, 200 validation, 400 test.

    The split is stratified (a class's share of val and of test is even to within one image) and never moves:
    it is drawn from Python's own generator under a fixed seed. Pixels 0..16 become round(x 255 / 16).
    No flip: a mirrored digit is another shape.
    """
    images, labels = _read()
    order = _by_class(labels.tolist())
    rest, test = _every(order, TEST)
    train, val = _every(rest, VAL)
    whole = Images(images=images, labels=labels)
    pixels = images[train].double() / 255
    return ImageSet(
        name="digits",
        train=whole.at(torch.tensor(train)),
        val=whole.at(torch.tensor(val)),
        test=whole.at(torch.tensor(test)),
        classes=tuple(str(digit) for digit in range(10)),
        mean=(round(float(pixels.mean()), 4),),
        std=(round(float(pixels.std()), 4),),
        crop=1,
        flip=False,
    )


def _read() -> tuple[Tensor, Tensor]:
    packed = (files("litfast.data.sets") / "digits.csv.gz").read_bytes()
    lines = gzip.decompress(packed).decode("ascii").split()
    table = torch.tensor([[int(value) for value in line.split(",")] for line in lines])  # [N, 64 + 1]
    pixels = (table[:, :64] * 255 / 16).round().to(torch.uint8)
    return pixels.view(-1, 1, 8, 8), table[:, 64].clone()


def _by_class(labels: Sequence[int]) -> list[int]:
    """All indices, class after class, shuffled within each."""
    order = list(range(len(labels)))
    random.Random(SPLIT_SEED).shuffle(order)
    return sorted(order, key=labels.__getitem__)


def _every(order: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """(rest, taken): `count` indices at even distances, so that each run of equal labels gives its share."""
    taken = {order[place * len(order) // count] for place in range(count)}
    return [index for index in order if index not in taken], [index for index in order if index in taken]
