"""Batch norm over the batch of all ranks, for whatever module, pass or order of derivative asks for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from litfast.engine.ranks import Ranks


class JointBatchNorm(TorchFunctionMode):
    """Inside, batch norms in train mode take mean and variance over the ranks' batches, all of one size.

        m = mean_r m_r,   v = mean_r (v_r + m_r^2) - m^2,   m_r and v_r of rank r

    Output, running statistics and all derivatives are those of one process with the joined batch, up to
    rounding. It is a mode and no module, so that models stay as they are, and code that calls
    `torch.nn.functional.batch_norm` in ways of its own is served too; torch's SyncBatchNorm can be
    differentiated once and has no CPU version. A layer costs one message of 2 C numbers forward and one back.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(self._ranks, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def statistics(model: nn.Module) -> list[Tensor]:
    """The running statistics that training moves."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
    buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
    return [buffer for buffer in buffers if buffer is not None]


def _batch_norm(
    ranks: Ranks,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of x [B, C, ...], with the statistics of all ranks."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, [0, *range(2, x.dim())], correction=0)  # [C]
    moments = torch.stack([mean, var]).double()  # squares of large means cancel in fp32
    joint = _Mean.apply(torch.stack([moments[0], moments[1] + moments[0].square()]), ranks)
    mean, var = joint[0], joint[1] - joint[0].square()
    if running_mean is not None and running_var is not None:
        _move(running_mean, running_var, mean.detach(), var.detach(), momentum, ranks.world * _count(x))
    scale = (var + eps).rsqrt().to(wide.dtype)
    if weight is not None:
        scale = scale * weight
    shape = (1, -1, *[1] * (x.dim() - 2))
    out = (wide - mean.to(wide.dtype).view(shape)) * scale.view(shape)
    return (out if bias is None else out + bias.view(shape)).to(x.dtype)


def _move(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, momentum: float, count: int
) -> None:
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)


def _count(x: Tensor) -> int:
    """Values of a channel."""
    return x.numel() // x.shape[1]


class _Mean(torch.autograd.Function):
    """The mean over ranks; its gradient is the mean over ranks of the gradients, at any order.

    The losses of the ranks are averaged as well, so that the mean of 1/R of each rank's gradient, which
    reaches every rank's own statistics, is right where their gradients are averaged afterwards.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        mean = value.clone()
        ranks.mean([mean])
        return mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient: Tensor = _Mean.apply(gradients[0], ctx.ranks)
        return gradient, None
