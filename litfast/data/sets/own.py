"""A set of one's own: `FILE.py:function` gives an ImageSet, or Datasets for train, test and perhaps val."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from litfast import registry
from litfast.data.sets import field_set
from litfast.data.sets.field_set import FieldSet
from litfast.data.sets.image_set import ImageSet
from litfast.data.sets.items import Items
from litfast.data.shape import image_shape


def own(name: str, **options: Any) -> ImageSet | FieldSet:
    """The set that a function in a Python file returns.

    It returns an ImageSet, or a tuple of map-style Datasets (train, test) or (train, test, val), whose items
    `Items` describes. Such a tuple is neither cropped, mirrored nor normalised (bytes are scaled to 0..1)
    unless the recipe says so; its classes are the training set's attribute `classes` (names, or how many),
    or as many as its attribute `targets` or `labels` has numbers. Items whose inputs are a mapping by name
    make a FieldSet, for models of several inputs; the attribute `alphabet` of the training set says below
    which number the ids of the first input are, where the samples do not show it.

    Args:
        name: "FILE.py:function".
        options: keyword arguments of the function.

    Raises:
        ValueError: no such file or function, options that it does not take, unknown classes.
        TypeError: it returned something else.
    """
    read = registry.own(name, "data")
    try:
        inspect.signature(read).bind(**options)
    except TypeError as error:
        raise ValueError(f"data: {name} must take the given data.root and options, got: {error}") from None
    found = read(**options)
    if isinstance(found, ImageSet):
        return found
    if not isinstance(found, tuple) or len(found) not in (2, 3):
        raise TypeError(
            f"data: {name} must return an ImageSet, or (train, test) or (train, test, val) Datasets, "
            f"got {type(found).__name__}"
        )
    for split, dataset in zip(("train", "test", "val"), found, strict=False):
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(
                f"data: the {split} Dataset of {name} must be map-style (it has a length and items by "
                f"number), got {type(dataset).__name__}"
            )
    make = _field_set if field_set.is_fields(found[0]) else _image_set
    return make(name.rpartition(":")[2], found, _classes(name, found[0]))


def _classes(name: str, train: Any) -> tuple[str, ...]:
    classes = getattr(train, "classes", None)
    if classes is None:
        targets = next((getattr(train, key) for key in ("targets", "labels") if hasattr(train, key)), None)
        classes = None if targets is None or len(targets) == 0 else int(max(targets)) + 1
    if isinstance(classes, int) and classes > 0:
        return tuple(str(label) for label in range(classes))
    if isinstance(classes, Sequence) and classes and not isinstance(classes, str):
        return tuple(str(one) for one in classes)
    raise ValueError(
        f"data: the train Dataset of {name} must have an attribute `classes` (their names, or how many), got "
        + ("none" if classes is None else repr(classes))
    )


def _field_set(name: str, datasets: tuple[Any, ...], classes: tuple[str, ...]) -> FieldSet:
    train, test, *val = (field_set.read(dataset, len(classes)) for dataset in datasets)
    for split in (test, *val):
        shapes = [{key: list(value.shape[1:]) for key, value in one.inputs.items()} for one in (train, split)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"data: inputs of all splits must be {shapes[0]}, got {shapes[1]}")
    found = field_set.alphabets(train, test, *val)
    first, said = next(iter(train.inputs)), getattr(datasets[0], "alphabet", None)
    if first in found and isinstance(said, int):
        found[first] = max(found[first], said)
    return FieldSet(
        name=name, train=train, test=test, val=val[0] if val else None, classes=classes, alphabets=found
    )


def _image_set(name: str, datasets: tuple[Any, ...], classes: tuple[str, ...]) -> ImageSet:
    train, test, *val = (Items(dataset=dataset, classes=len(classes)) for dataset in datasets)
    channels = image_shape(train)[0]
    return ImageSet(
        name=name,
        train=train,
        test=test,
        val=val[0] if val else None,
        classes=classes,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        crop=0,
        flip=False,
    )
