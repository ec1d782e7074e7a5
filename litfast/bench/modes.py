"""How a contender is run: a mode and a precision make a callable out of a copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from litfast.carried import reset
from litfast.registry import Registry

Runner = Callable[[Tensor], Tensor]

# A mode turns a model that is ready to run (a copy, eval, on its device, in its precision) into a callable.
MODES: Registry[Callable[[nn.Module], Runner]] = Registry("bench: mode")
PRECISIONS: Registry[torch.dtype] = Registry("bench: precision")

MODES["eager"] = lambda model: model
# fullgraph: a part that fell back to eager would be timed as compiled; so it is refused, with torch's reason
MODES["compile"] = lambda model: torch.compile(model, dynamic=False, fullgraph=True)
PRECISIONS["fp32"] = torch.float32
PRECISIONS["bf16"] = torch.bfloat16


def prepare(model: nn.Module, mode: str, precision: str, device: torch.device) -> Runner:
    """A runner over a copy of `model`; the model itself keeps its flags, dtype and layout.

    The copy is in eval mode, channels-last, and *converted* to the precision, as a deployed model is, where
    autocast would cast the weights at every call; on CIFAR ResNets both give the same outputs. What it reads
    must be `converted` likewise. A language model's copy begins at the start of a text.
    """
    copied = copy.deepcopy(model).eval().to(device=device, dtype=PRECISIONS[precision])
    copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
    reset(copied)
    return MODES[mode](copied)


def converted(samples: Tensor, precision: str) -> Tensor:
    """A batch as `prepare`'s runners read it: floats in the precision, images channels-last, ids as is."""
    if not samples.is_floating_point():
        return samples
    layout = torch.channels_last if samples.ndim == 4 else torch.preserve_format
    return samples.to(dtype=PRECISIONS[precision], memory_format=layout)


def forget(mode: str) -> None:
    """Drop what `torch.compile` holds: its limit of 8 compilations a function then counts one cell alone."""
    if mode == "compile":
        torch.compiler.reset()


COARSE = 0.25  # an output so far off is wrong, whatever the precision


def tolerance(precision: str, device: torch.device) -> float:
    """How far outputs may lie from the eager fp32 ones, as a share of their largest magnitude.

    Measured on CIFAR ResNets: 3e-7 in fp32, up to 1e-2 in bf16. CUDA convolutions may use TF32 in fp32.
    """
    if precision == "bf16":
        return 5e-2
    return 5e-3 if device.type == "cuda" else 1e-3


def deviation(outputs: Tensor, truth: Tensor) -> float:
    """max |outputs - truth| / max |truth|; infinite where shapes differ or a value is not finite."""
    if outputs.shape != truth.shape or not bool(torch.isfinite(outputs).all()):
        return float("inf")
    largest = truth.abs().max().item()
    difference = (outputs.float() - truth).abs().max().item()
    if largest > 0:
        return difference / largest
    return float("inf") if difference > 0 else 0.0
