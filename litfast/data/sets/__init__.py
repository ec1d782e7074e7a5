"""Sets of images, of texts and of words by name: `load("cifar10", root)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from litfast.data.sets.amazon import amazon_full, amazon_polarity
from litfast.data.sets.celeba import celeba
from litfast.data.sets.cifar import cifar10, cifar100
from litfast.data.sets.digits import digits
from litfast.data.sets.field_set import FieldSet as FieldSet
from litfast.data.sets.idx import fashion_mnist, mnist
from litfast.data.sets.image_folder import image_folder
from litfast.data.sets.image_set import Images as Images
from litfast.data.sets.image_set import ImageSet as ImageSet
from litfast.data.sets.image_set import hold_out as hold_out
from litfast.data.sets.own import own
from litfast.data.sets.synthetic import synthetic
from litfast.data.sets.text import text
from litfast.data.sets.text_set import Corpus as Corpus
from litfast.data.sets.text_set import TextSet as TextSet
from litfast.data.sets.unlabelled import unlabelled
from litfast.data.sets.webdataset import webdataset
from litfast.registry import Registry, is_own, unknown

DATASETS: Registry[Callable[..., ImageSet | TextSet | Corpus]] = Registry("data set")
DATASETS.update(
    digits=digits,
    cifar10=cifar10,
    cifar100=cifar100,
    mnist=mnist,
    fashion_mnist=fashion_mnist,
    image_folder=image_folder,
    unlabelled=unlabelled,
    webdataset=webdataset,
    celeba=celeba,
    amazon_polarity=amazon_polarity,
    amazon_full=amazon_full,
    text=text,
    war_and_peace=text,
    synthetic=synthetic,
)


def load(name: str, root: str | Path | None = None, **options: Any) -> ImageSet | TextSet | Corpus | FieldSet:
    """A set by name.

    Args:
        name: one of DATASETS, or "FILE.py:function" (see `own`).
        root: the folder that holds the set's files; None for the sets that need none.
        options: keyword arguments of the set's own function.

    Raises:
        ValueError: an unknown name or option (the nearest known one is named), a root that is missing or not
            wanted, a missing, truncated or inconsistent file.
    """
    if is_own(name):
        return own(name, **({} if root is None else {"root": str(root)}), **options)
    read = DATASETS[name]
    known = dict(inspect.signature(read).parameters)
    wants_root = known.pop("root", None) is not None
    for option in options:
        if option not in known:
            raise ValueError(f"load: {unknown(f'option of {name}', option, known)}")
    if wants_root and root is None:
        raise ValueError(f"load: root must be the folder that holds {name}, got none")
    if not wants_root and root is not None:
        raise ValueError(f"load: root must be left out for {name}, which reads no files, got {root}")
    return read(root, **options) if wants_root else read(**options)
