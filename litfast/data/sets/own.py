"""A set of one's own: `FILE.py:function` gives an ImageSet, or Datasets for train, test and perhaps val."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from litfast.data.sets.image_set import ImageSet
from litfast.data.sets.items import Items
from litfast.data.shape import image_shape
from litfast.registry import unknown


def is_own(name: str) -> bool:
    """Whether a set's name is `FILE.py:function`."""
    return name.rpartition(":")[0].endswith(".py")


def own(name: str, **options: Any) -> ImageSet:
    """The set that a function in a Python file returns.

    It returns an ImageSet, or a tuple of map-style Datasets (train, test) or (train, test, val), whose items
    `Items` describes. Such a tuple is neither cropped, mirrored nor normalised (bytes are scaled to 0..1)
    unless the recipe says so; its classes are the training set's attribute `classes` (names, or how many),
    or as many as its attribute `targets` or `labels` has numbers.

    Args:
        name: "FILE.py:function".
        options: keyword arguments of the function.

    Raises:
        ValueError: no such file or function, options that it does not take, unknown classes.
        TypeError: it returned something else.
    """
    file, _, function = name.rpartition(":")
    read = _function(Path(file), function)
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
    return _image_set(function, found, _classes(name, found[0]))


def _function(file: Path, name: str) -> Callable[..., Any]:
    if not file.is_file():
        raise ValueError(f"data: {file} must be a Python file, got no such file")
    spec = importlib.util.spec_from_file_location(f"_litfast_data_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # classes in it are looked up here when a worker is not forked
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ValueError(f"data: {file} must be a Python file that can be imported, got: {error}") from None
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"data: {unknown(f'function of {file}', name, _functions(module))}")
    return found


def _functions(module: ModuleType) -> list[str]:
    members = inspect.getmembers(module, inspect.isfunction)
    return [name for name, value in members if value.__module__ == module.__name__]


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
