"""Models that litfast does not bring along: `timm:NAME` and `FILE.py:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from litfast.errors import typed
from litfast.models.blocks import keep
from litfast.models.inputs import Input
from litfast.models.sectioned import SectionedModel
from litfast.models.stages import auto
from litfast.registry import is_own, own

TIMM = "timm:"
AUTO = "auto"
UNCUT = "boundaries are none"


def is_foreign(name: str) -> bool:
    """Whether a model's name is `timm:NAME` or `FILE.py:function`."""
    return name.startswith(TIMM) or is_own(name)


def reads(name: str) -> str | None:
    """What a foreign model reads: "images", "texts", or None where it does not say.

    A function of a file says so by its parameters: `channels` or `size` are an image's, `alphabet` a text's.

    Raises:
        ValueError: no such file or function.
    """
    if name.startswith(TIMM):
        return "images"
    takes = inspect.signature(own(name, "create")).parameters
    return "texts" if "alphabet" in takes else "images" if {"channels", "size"} & set(takes) else None


def foreign(
    name: str,
    *,
    classes: int,
    channels: int,
    size: Sequence[int] | None,
    alphabet: int | None,
    inputs: Sequence[Mapping[str, Any]],
    blocks: Sequence[int] | None,
    boundaries: str | Sequence[str] | None,
    options: dict[str, Any],
) -> SectionedModel:
    """A foreign model in its sections, freshly made; the arguments are those of `create`.

    timm's is `timm.create_model(NAME, num_classes=, in_chans=, **options)`, with `img_size` where the model
    takes images of one size alone. A file's function gets those of `classes`, `channels`, `size` and
    `alphabet` that it names, and the options; it returns an nn.Module, or a SectionedModel, which brings its
    own boundaries. One that cannot be cut has no sections, which some methods do not need.

    Raises:
        ValueError: timm is not installed or does not know the model or an option; no such file or function,
            or one that does not take the options or asks for more; named boundaries that do not fit.
        TypeError: the function returned something else.
    """
    facts: dict[str, Any] = dict(channels=channels) if alphabet is None else dict(alphabet=alphabet)
    facts |= {} if size is None else dict(size=list(size))
    made = _made(name, dict(classes=classes, **facts), options)
    own_inputs = made.inputs if isinstance(made, SectionedModel) else None
    given = tuple(one["name"] for one in inputs) or own_inputs
    model: nn.Module = made.model if isinstance(made, SectionedModel) else made
    names, uncut = _boundaries(made, boundaries, lambda: _sample(name, model, facts, inputs), given)
    counts = None if blocks is None else list(blocks)
    spec = dict(name=name, classes=classes, blocks=counts, boundaries=list(names), **facts, **options)
    spec |= {"inputs": [dict(one) for one in inputs]} if inputs else {}
    if counts is not None and not uncut:
        names = keep(model, names, counts)
    return SectionedModel(model, names, inputs=given, spec=spec, uncut=uncut)


def _boundaries(
    made: nn.Module,
    said: str | Sequence[str] | None,
    sample: Callable[[], Any],
    inputs: Sequence[str] | None,
) -> tuple[tuple[str, ...], str]:
    """The sections' names, or none and why: of a model that cannot be cut, unless they were named."""
    if said not in (None, AUTO):
        return tuple(said or ()), "" if said else UNCUT
    if isinstance(made, SectionedModel):
        return made.names, made.uncut
    x = sample()
    try:
        return auto(made, x, inputs), ""
    except ValueError as error:
        return (), str(error)


def _made(name: str, facts: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    if name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM), facts, options)
    function = own(name, "create")
    takes = inspect.signature(function).parameters
    given = {key: value for key, value in facts.items() if key in takes} | options
    try:
        inspect.signature(function).bind(**given)
    except TypeError as error:
        raise ValueError(f"create: {name} must take {', '.join(given)}, got: {error}") from None
    try:
        model = function(**given)
    except Exception as error:  # the user's code: anything may be raised
        raise ValueError(f"create: {name} must make a model, got {typed(error)}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"create: {name} must return an nn.Module, got {type(model).__name__}")
    if next(model.parameters(), None) is None:
        raise ValueError(f"create: {name} must return a model with parameters, got {type(model).__name__}")
    return model


def _sample(name: str, model: nn.Module, facts: dict[str, Any], inputs: Sequence[Mapping[str, Any]]) -> Any:
    if "size" not in facts:
        raise ValueError(f"create: size of what {name} reads must be given to find its boundaries, got none")
    alphabet = facts.get("alphabet")
    shape = facts["size"] if alphabet is not None else [facts["channels"], *facts["size"]]
    like = next(model.parameters())
    reads = Input.of(inputs) if inputs else Input(tuple(shape), alphabet=alphabet)
    return reads.example(2, generator=torch.Generator(), device=like.device, dtype=like.dtype)


def _timm(name: str, facts: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises a RuntimeError
        raise ValueError(
            f"create: timm must be installed for {TIMM}{name} (pip install 'litfast[timm]'), got: {error}"
        ) from None
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        near = ", ".join(get_close_matches(name, known, n=3, cutoff=0.0))
        raise ValueError(f"create: model must be one of timm's {len(known)}, got {name!r}; near are {near}")
    given = {"num_classes": facts["classes"], "in_chans": facts["channels"]} | options
    try:
        found = timm.models.get_pretrained_cfg(name)
        if "size" in facts and found is not None and found.fixed_input_size:
            given.setdefault("img_size", tuple(facts["size"]))
        model: nn.Module = timm.create_model(name, **given)
    except Exception as error:  # timm's models are many authors': anything may be raised
        raise ValueError(f"create: {TIMM}{name} must take {given}, got {typed(error)}") from error
    return model
