"""`torch.ops.litfast.augment`: what its backends are given, its schema and fake, and the backends themselves.

The op writes to `out` and returns nothing. An element is copied from the table, never computed, so every
backend gives the bits of the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..registry import Registry
from ._dispatch import Backend
from ._library import LIBRARY


class Augment(NamedTuple):
    """One call of the op, in the order of its schema; checked by the public function."""

    images: Tensor  # [N, H, W, C] uint8, contiguous
    chosen: Tensor  # [B] int64, the index of each sample: a tuple has an `index` of its own
    top: Tensor  # [B] int64
    left: Tensor  # [B] int64
    mirrored: Tensor  # [B] bool
    table: Tensor  # [C, 256]
    crop: int
    channels_last: bool
    out: Tensor  # [B, C, H, W] of the table's dtype, dense in the layout that channels_last says


def dense(call: Augment) -> tuple[Tensor, ...]:
    """The tensors as kernels take them: contiguous but for `out`."""
    images, chosen, top, left, mirrored, table, *_, out = call
    inputs = (images, chosen, top, left, mirrored, table)
    return (*(tensor.contiguous() for tensor in inputs), out)


def range_error(call: Augment, b: int) -> ValueError:
    """The error for sample b, whose index, top or left is out of range."""
    offsets = 2 * call.crop + 1
    for what, values, end in (
        ("index", call.chosen, len(call.images)),
        ("top", call.top, offsets),
        ("left", call.left, offsets),
    ):
        if not 0 <= (value := int(values[b])) < end:
            return ValueError(f"augment: {what}[{b}] must lie in [0, {end}), got {value}")
    raise AssertionError(b)


def define(name: str) -> Callable[..., Any]:
    """The op `litfast::name` with its fake: two backends of one device need ops of their own."""
    LIBRARY.define(
        f"{name}(Tensor images, Tensor index, Tensor top, Tensor left, Tensor mirrored, Tensor table, "
        "int crop, bool channels_last, Tensor(a!) out) -> ()",
        tags=torch.Tag.pt2_compliant_tag,
    )
    torch.library.register_fake(f"litfast::{name}", lambda *args: None, lib=LIBRARY)
    op: Callable[..., Any] = getattr(torch.ops.litfast, name).default
    return op


def implement(name: str, device: str, run: Callable[[Augment], None]) -> None:
    """Makes `run` what the op `litfast::name` does on `device`, CPU or CUDA."""
    LIBRARY.impl(name, lambda *args: run(Augment(*args)), device)


OP = define("augment")
BACKENDS: Registry[Backend[Augment]] = Registry("backend")
