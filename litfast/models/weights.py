"""Read a checkpoint into a model: safetensors, an `.lfc` file, or a torch file of plain tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litfast import lfc
from litfast.models.sectioned import SectionedModel

SHOWN, LONGEST = 3, 200  # keys of each sort that an error spells out, and their characters


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint's weights and buffers into `model`, bit for bit.

    A torch file is read with weights_only=True, so it cannot run code; the levels `state_dict` and `model`
    are unwrapped and the prefix `module.` (data parallel) is stripped.

    Raises:
        ValueError: the file is missing, truncated or no checkpoint, or its keys or shapes are not those of
            the model.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"load_weights: weights must be an existing file, got {path}")
    expected: Mapping[str, Tensor] = model.state_dict()
    # files older than torch 0.4.1 lack this counter, which no batch norm with a momentum reads
    counters = {key: value for key, value in expected.items() if key.endswith("num_batches_tracked")}
    weights = {**counters, **_plain(_read(path), path)}
    head = model.head.state_keys if isinstance(model, SectionedModel) else ()
    _check(weights, expected, head, path)
    model.load_state_dict(weights)


def _read(path: Path) -> Any:
    if path.suffix == ".lfc":
        return lfc.load(path)  # which says by itself what is wrong with a file
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ValueError(f"load_weights: {path} needs a package; pip install safetensors") from error
        read: Any = load_file
    else:
        read = _load_torch
    try:
        return read(path)
    except Exception as error:  # a damaged file may make the parsers raise anything
        raise ValueError(
            f"load_weights: {path} must be a complete checkpoint of plain tensors, "
            f"got {path.stat().st_size} bytes that do not load ({type(error).__name__})"
        ) from error


def _load_torch(path: Path) -> Any:
    return torch.load(path, weights_only=True, map_location="cpu")


def _plain(checkpoint: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by plain key, out of the levels and prefixes that training scripts put around them."""
    for level in ("state_dict", "model"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(level), Mapping):
            checkpoint = checkpoint[level]
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"load_weights: {path} must hold tensors by name, got a {type(checkpoint).__name__}")
    for key, value in checkpoint.items():
        if not isinstance(value, Tensor):
            got = f"{key!r}, a {type(value).__name__}"
            raise ValueError(f"load_weights: {path} must hold tensors by name, got {got}")
    return {str(key).removeprefix("module."): value for key, value in checkpoint.items()}


def _check(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: Sequence[str], path: Path
) -> None:
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected]
    differing = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    if not missing and not unexpected and differing and set(differing) <= set(head):
        ours, theirs = expected[differing[-1]], weights[differing[-1]]
        if ours.shape[1:] == theirs.shape[1:]:
            raise ValueError(
                f"load_weights: {path} must fit the model: weights have {theirs.shape[0]} classes, "
                f"the model {ours.shape[0]}; take the classes that the weights were trained for, or others"
            )
    strange = [key for key in expected if key in weights and not _is_like(weights[key], expected[key])]
    problems = [
        *_listed("missing", missing),
        *_listed("unexpected", unexpected),
        *_listed(
            "shapes", [f"{k} {list(weights[k].shape)} for {list(expected[k].shape)}" for k in differing]
        ),
        *_listed("kinds", [f"{k} {weights[k].dtype} for {expected[k].dtype}" for k in strange]),
    ]
    if problems:
        raise ValueError(f"load_weights: {path} must fit the model, got {'; '.join(problems)}")


def _is_like(found: Tensor, wanted: Tensor) -> bool:
    """Whether one can be copied to the other: a dense tensor on the CPU, of the same kind of number."""
    dense = found.layout == torch.strided and not found.is_quantized and found.is_cpu
    return dense and (found.dtype.is_floating_point, found.dtype.is_complex) == (
        wanted.dtype.is_floating_point,
        wanted.dtype.is_complex,
    )


def _listed(what: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    shown = [
        item if item.isprintable() and len(item) <= LONGEST else repr(item[:LONGEST])
        for item in items[:SHOWN]
    ]
    return [f"{what} {', '.join(shown)}{more}"]
