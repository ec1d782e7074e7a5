"""`channel_l1`: the penalty of network slimming, on all batch-norm scales at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from ._autograd import fused
from ._checks import check_float, check_sequence, check_strength
from ._dispatch import Call, choose
from .reference import Coefficient

WHO = "channel_l1"


def channel_l1(
    scales: Sequence[Tensor],  # of any shape
    *,
    strength: Coefficient,
    backend: str = "auto",
) -> Tensor:
    """The sum of the absolute scales: its gradient pulls every scale towards 0 with the same force.

        loss = strength * sum_i sum |scales_i|        gradient at scales_i: strength * sign(scales_i), 0 at 0

    It is the l1 penalty of `ir_loss` between the scales as one section and zeros, and served by its kernels.

    Args:
        scales: the weights of batch norms, float32, float64, bfloat16 or float16, on one device.
        strength: s in the paper; a number or a 0-d tensor.
        backend: "auto", or one of `litfast.ops.backends()`.

    Returns:
        [], fp64 when a scale is fp64, fp32 otherwise.

    Raises:
        ValueError, TypeError: no scale, or a dtype, device or option that is not as above.
        RuntimeError: the named backend is not installed, or a fused backend is differentiated twice.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (ICCV 2017),
    equation 1, with the subgradient of section 4.
    """
    check_strength(WHO, strength)
    _check(scales)
    # Zeros up to a power of two: sum and mean then differ by a factor that rounds nothing, so that the
    # gradient is strength * sign to the bit.
    total = sum(scale.numel() for scale in scales)
    size = 1 << max(total - 1, 0).bit_length()
    dtype = torch.float64 if any(scale.dtype == torch.float64 for scale in scales) else scales[0].dtype
    zeros = scales[0].new_zeros(size, dtype=dtype)
    flat = torch.cat([*(scale.flatten() for scale in scales), zeros[total:]])
    call = Call(WHO, [flat], [zeros], None, None, None, penalty="l1", weights=[float(size)], scale=strength)
    if served_by := choose(backend, call):
        return fused(served_by, call)[0]
    return reference.channel_l1(scales, strength=strength)


def _check(scales: Sequence[Tensor]) -> None:
    check_sequence(WHO, "scales", scales, "tensors")
    if not scales:
        raise ValueError(f"{WHO}: scales must hold at least one tensor, got none")
    for i, scale in enumerate(scales):
        check_float(WHO, f"scales[{i}]", scale)
        if scale.device != scales[0].device:
            rule = f"be on scales[0]'s device {scales[0].device}"
            raise ValueError(f"{WHO}: scales[{i}] must {rule}, got {scale.device}")
