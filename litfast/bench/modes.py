"""How a contender is run: a mode and a precision make a callable out of a copy of the model."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litfast.bench.capture import Captured
from litfast.carried import reset
from litfast.fields import each, first
from litfast.models import Input
from litfast.models.inference import fused_model
from litfast.registry import Registry

Runner = Callable[[Any], Tensor]  # of a batch: a tensor, or several by name
# A mode makes a callable of a model (an fp32 copy, eval, on its device), the samples that it will read
# (already `converted`) and the dtype that it shall compute in.
Mode = Callable[[nn.Module, Any, torch.dtype], Runner]

MODES: Registry[Mode] = Registry("bench: mode")
PRECISIONS: Registry[torch.dtype] = Registry("bench: precision")
PRECISIONS["fp32"] = torch.float32
PRECISIONS["bf16"] = torch.bfloat16


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in its precision, channels-last."""
    model.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stub
    return model


def _eager(model: nn.Module, samples: Any, dtype: torch.dtype) -> Runner:
    return _cast(model, dtype)


def _compile(model: nn.Module, samples: Any, dtype: torch.dtype, *, mode: str | None = None) -> Runner:
    # fullgraph: a part that fell back to eager would be timed as compiled; it is refused, with torch's reason
    compiled: Runner = torch.compile(_cast(model, dtype), dynamic=False, fullgraph=True, mode=mode)
    return compiled


def _graph(model: nn.Module, samples: Any, dtype: torch.dtype) -> Runner:
    return Captured(_cast(model, dtype), samples)


def _folded(model: nn.Module, samples: Any, dtype: torch.dtype) -> Runner:
    return fused_model(model, samples, dtype=dtype)


def _onnx(model: nn.Module, samples: Any, dtype: torch.dtype) -> Runner:
    from litfast.export import onnx

    named = samples.items() if isinstance(samples, Mapping) else [("", samples)]
    reads = Input.of([{"name": name, "shape": x.shape[1:], "alphabet": _alphabet(x)} for name, x in named])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        onnx.save(file, model, reads)
        return onnx.runner(file, threads=torch.get_num_threads())


def _alphabet(x: Tensor) -> int | None:
    return None if x.is_floating_point() else int(x.max()) + 1


COMPILED = ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # torch's, beside its default
MODES["eager"] = _eager
MODES["compile"] = _compile
for _mode in COMPILED:
    MODES[f"compile:{_mode}"] = partial(_compile, mode=_mode)
MODES["graph"] = _graph
MODES["onnx"] = _onnx
MODES["folded"] = _folded

# On the CPU torch makes no CUDA graphs: these two are "compile" and "compile:max-autotune" there.
SAME_ON_CPU = ("compile:reduce-overhead", "compile:max-autotune-no-cudagraphs")


def refusal(mode: str, precision: str, device: torch.device) -> str | None:
    """Why a mode cannot serve a precision on a device; None where it can."""
    if mode == "graph" and device.type != "cuda":
        return f"graph: device must be cuda (the CPU has no CUDA graphs), got {device}"
    if mode == "onnx" and device.type != "cpu":
        return f"onnx: device must be cpu (it is ONNX Runtime's CPU provider), got {device}"
    if mode == "onnx" and precision != "fp32":
        return f"onnx: precision must be fp32 (ONNX Runtime's CPU kernels), got {precision}"
    return None


def every(device: torch.device) -> list[str]:
    """The modes that differ on this device, for `--mode all`."""
    same = SAME_ON_CPU if device.type == "cpu" else ()
    return [mode for mode in MODES if mode not in same and refusal(mode, "fp32", device) is None]


def prepare(model: nn.Module, mode: str, precision: str, samples: Any) -> Runner:
    """A runner over a copy of `model` on the samples' device; the model keeps its flags, dtype and layout.

    The copy is in eval mode, channels-last, and *converted* to the precision, as a deployed model is, where
    autocast would cast the weights at every call; on CIFAR ResNets both give the same outputs. A language
    model's copy begins at the start of a text.

    Args:
        samples: `converted` for this mode and precision; the runner reads such.

    Raises:
        ValueError: the mode cannot serve this (`refusal`), or an unknown name.
    """
    device = first(samples).device
    why = refusal(mode, precision, device)
    if why:
        raise ValueError(why)
    copied = copy.deepcopy(model).eval().to(device)
    reset(copied)
    return MODES[mode](copied, samples, PRECISIONS[precision])


def converted(samples: Any, mode: str, precision: str) -> Any:
    """A batch as `prepare`'s runners read it: floats in the precision, images channels-last, ids as is.

    ONNX has one layout: there images stay as they are, channels first.
    """

    def convert(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        layout = torch.channels_last if x.ndim == 4 and mode != "onnx" else torch.preserve_format
        return x.to(dtype=PRECISIONS[precision], memory_format=layout)

    return each(convert, samples)


def forget(mode: str) -> None:
    """Drop what `torch.compile` holds: its limit of 8 compilations a function then counts one cell alone."""
    if mode.startswith("compile"):
        torch.compiler.reset()


def allocates(mode: str, device: torch.device) -> bool:
    """Whether torch's allocator sees what a call takes.

    It does not see ONNX Runtime's memory, nor the pool that a CUDA graph has taken once and for all.
    """
    captured = device.type == "cuda" and mode in ("graph", "compile:reduce-overhead", "compile:max-autotune")
    return mode != "onnx" and not captured


COARSE = 0.25  # an output so far off is wrong, whatever the precision


def tolerance(precision: str, device: torch.device) -> float:
    """How far outputs may lie from the eager fp32 ones, as a share of their largest magnitude.

    Measured on CIFAR ResNets: 3e-7 in fp32, up to 1e-2 in bf16. CUDA convolutions may use TF32 in fp32.
    """
    if precision == "bf16":
        return 5e-2
    return 5e-3 if device.type == "cuda" else 1e-3


def deviation(outputs: Tensor, truth: Tensor) -> float:
    """max |outputs - truth| / max |truth|; infinite where shapes differ or anything is not finite."""
    if outputs.shape != truth.shape or not all(bool(torch.isfinite(x).all()) for x in (outputs, truth)):
        return float("inf")
    largest = truth.abs().max().item()
    difference = (outputs.float() - truth).abs().max().item()
    if largest > 0:
        return difference / largest
    return float("inf") if difference > 0 else 0.0
