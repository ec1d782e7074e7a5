"""`augment`: a batch of normalised images out of a uint8 set that stays on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from ._augment import BACKENDS, Augment, range_error
from ._checks import DTYPES, check_number, check_sequence, is_transformed, shown
from ._dispatch import serving

WHO = "augment"
WIDEST = 1 << 20  # pixels of padding
NAMES = ("index", "top", "left", "mirrored")


def augment(
    images: Tensor,  # [N, H, W, C] uint8, contiguous
    index: Tensor,  # [B] int64
    top: Tensor,  # [B] int64
    left: Tensor,  # [B] int64
    mirrored: Tensor,  # [B] bool
    *,
    table: Tensor,  # [C, 256]
    crop: int = 0,
    channels_last: bool = True,
    out: Tensor | None = None,  # [B, C, H, W]
    backend: str = "auto",
) -> Tensor:
    """Gather, random crop, flip, normalisation, layout and dtype in one pass.

        out[b, c, y, x] = table[c, padded[index_b, top_b + y, left_b + (W - 1 - x if mirrored_b else x), c]]

    where `padded` are the images with `crop` zeros (raw, before the table) on each side. All backends give
    the same bits. There is no gradient.

    Args:
        images: the whole set; any number of channels.
        index: which images, each in [0, N).
        top, left: offsets of the window in the padded image, each in [0, 2 crop].
        mirrored: whether to flip left to right, after the crop.
        table: the value of channel c and raw pixel v, in float32, float64, bfloat16 or float16;
            `augment_table` makes that of the usual normalisation.
        crop: padding in pixels, also more than the image has.
        channels_last: memory format of the result; False: contiguous.
        out: written to and returned; in the table's dtype and in that memory format. None makes a new one.
        backend: "auto", or one of `litfast.ops.backends()`.

    Returns:
        [B, C, H, W] in the table's dtype.

    Raises:
        ValueError, TypeError: a shape, dtype, device, layout or option is not as above. An index, top or
            left out of range is found on the CPU alone, before anything is written: elsewhere the host would
            have to wait for the device. There nothing is read out of bounds, and that sample becomes NaN.
        RuntimeError: the named backend is not installed.
    """
    _check(images, (index, top, left, mirrored), table, crop, channels_last)
    _, H, W, C = images.shape
    size = (index.shape[0], C, H, W)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if out is None:
        out = torch.empty(size, dtype=table.dtype, device=images.device, memory_format=layout)
    else:
        _check_out(out, size, table, layout)
    call = Augment(images, index, top, left, mirrored, table, crop, channels_last, out)
    if served_by := serving(BACKENDS, backend, WHO, images.device, call):
        served_by.op(*call)
        if not torch.compiler.is_compiling():
            torch.autograd.graph.increment_version(out)  # backward must notice that its input is gone
        return out
    _check_range(call)
    return out.copy_(reference.augment(*call[:7]))


def augment_table(
    mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:  # [C, 256]
    """The normalisation `(v / 255 - mean_c) / std_c` of every raw pixel v, for `augment`.

    Computed in fp32 on the CPU in this order, then rounded to `dtype`: what torchvision's ToTensor and
    Normalize give, on whichever device the table is used.

    Raises:
        ValueError: mean and std differ in length, or a number of std is not positive.
    """
    for what, given in (("mean", mean), ("std", std)):
        check_sequence("augment_table", what, given, "numbers")
        for number in given:
            check_number("augment_table", what, number)
    if len(mean) != len(std) or not all(s > 0 for s in std):
        raise ValueError(
            f"augment_table: std must hold {len(mean)} positive numbers, one a channel, got {list(std)}"
        )
    raw, *numbers = (torch.tensor(v, dtype=torch.float32, device="cpu") for v in (range(256), mean, std))
    centre, spread = (number[:, None] for number in numbers)
    return raw.div(255).sub(centre).div(spread).to(dtype)


def _check(images: Tensor, draws: tuple[Tensor, ...], table: Tensor, crop: int, channels_last: bool) -> None:
    for what, tensor in zip(("images", *NAMES, "table"), (images, *draws, table), strict=True):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{WHO}: {what} must be a tensor, got {type(tensor).__name__}")
        if tensor.device != images.device:
            rule = f"be on the images' device {images.device}"
            raise ValueError(f"{WHO}: {what} must {rule}, got {tensor.device}")
    if images.dtype != torch.uint8:
        raise TypeError(f"{WHO}: images must be uint8, got {images.dtype}")
    if images.dim() != 4 or not images.is_contiguous():
        got = f"{list(images.shape)} with strides {images.stride()}"
        raise ValueError(f"{WHO}: images must be [N, H, W, C] and contiguous, got {got}")
    batch = draws[0].shape
    for what, tensor in zip(NAMES, draws, strict=True):
        dtype = torch.bool if what == "mirrored" else torch.int64
        if tensor.dtype != dtype:
            raise TypeError(f"{WHO}: {what} must be {dtype}, got {tensor.dtype}")
        if tensor.shape != batch or len(batch) != 1:
            rule = "be [B]" if what == "index" else f"be {list(batch)}, as index"
            raise ValueError(f"{WHO}: {what} must {rule}, got {list(tensor.shape)}")
    if table.dtype not in DTYPES or table.requires_grad:
        got = f"{table.dtype}{' that requires grad' if table.requires_grad else ''}"
        raise TypeError(f"{WHO}: table must be float32, float64, bfloat16 or float16 without grad, got {got}")
    if table.shape != (images.shape[3], 256):
        raise ValueError(f"{WHO}: table must be [{images.shape[3]}, 256], got {list(table.shape)}")
    if not isinstance(channels_last, bool):
        raise TypeError(f"{WHO}: channels_last must be a bool, got {type(channels_last).__name__}")
    if isinstance(crop, bool) or not isinstance(crop, int) or not 0 <= crop <= WIDEST:
        raise ValueError(f"{WHO}: crop must be a whole number from 0 to {WIDEST}, got {shown(crop)}")


def _check_out(out: Tensor, size: tuple[int, ...], table: Tensor, layout: torch.memory_format) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"{WHO}: out must be a tensor, got {type(out).__name__}")
    if out.shape != size:
        raise ValueError(f"{WHO}: out must be {list(size)}, got {list(out.shape)}")
    if out.dtype != table.dtype or out.device != table.device:
        rule = f"match the table's {table.dtype} on {table.device}"
        raise ValueError(f"{WHO}: out must {rule}, got {out.dtype} on {out.device}")
    if not out.is_contiguous(memory_format=layout):
        raise ValueError(f"{WHO}: out must be dense in {layout}, got strides {out.stride()}")


def _check_range(call: Augment) -> None:
    """Raises ValueError for a sample out of range, where that can be read without waiting for a device."""
    if not call.images.is_cpu or torch.compiler.is_compiling() or is_transformed():
        return
    bad = ~reference.inside(call.images, call.chosen, call.top, call.left, call.crop)
    if bad.any():
        raise range_error(call, int(bad.nonzero()[0]))
