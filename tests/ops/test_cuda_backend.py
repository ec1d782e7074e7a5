"""The CUDA backend without a GPU: why it cannot run or serve, and whose counters a launch gets."""

from __future__ import annotations

import contextlib
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from litfast.ops import _cuda, backends, kd_loss
from litfast.ops._dispatch import Call


def test_the_backend_says_why_it_cannot_run_here() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    reason = dict(backends())["cuda"]
    assert reason is not None
    assert re.match(
        r"no litfast._C|litfast._C without CUDA kernels|torch without CUDA|no CUDA device", reason
    )
    with pytest.raises(RuntimeError, match=r"kd_loss: backend 'cuda' must be installed, got "):
        kd_loss(torch.randn(2, 3), torch.randn(2, 3), tau=4.0, alpha=0.0, backend="cuda")


@pytest.mark.parametrize(
    ("driver", "reason"),
    [((12040, 13000), "a driver for CUDA 12, kernels built with CUDA 13"), ((13000, 13020), None)],
)
def test_an_old_driver_is_named(
    driver: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = type("C", (), {"CudaCall": object, "cuda_driver": staticmethod(lambda: driver)})
    monkeypatch.setattr(_cuda, "_C", module)
    monkeypatch.setattr(_cuda, "MISSING", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _cuda._missing() == reason


class _OnGpu:
    """What `_why_not` looks at of a tensor."""

    def __init__(
        self, dtype: torch.dtype = torch.float32, device: str = "cuda:0", grad: bool = False
    ) -> None:
        self.dtype, self.device, self.requires_grad = dtype, torch.device(device), grad


@pytest.mark.parametrize(
    ("student", "teacher", "capability", "reason"),
    [
        (_OnGpu(), _OnGpu(torch.float16), (9, 0), None),
        (_OnGpu(device="cpu"), _OnGpu(device="cpu"), (9, 0), "tensors on cpu"),
        (_OnGpu(), _OnGpu(grad=True), (9, 0), "a teacher that requires grad"),
        (_OnGpu(), _OnGpu(torch.float64), (9, 0), "torch.float64, which the kernel does not compute in"),
        (_OnGpu(), _OnGpu(), (7, 5), "a GPU older than compute capability 8.0"),
    ],
)
def test_what_the_kernel_cannot_serve_has_a_reason(
    student: Any,
    teacher: Any,
    capability: tuple[int, int],
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_cuda, "_capability", lambda device: capability)
    assert _cuda._why_not(Call("ir_loss", [student], [teacher], None, None, None)) == reason


def test_a_stream_keeps_its_counters_and_a_captured_launch_gets_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_cuda, "_slots", {})
    capturing = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    first, second = _cuda._slot(0, 0), _cuda._slot(0, 64)
    assert first != second
    assert _cuda._slot(0, 0) == first
    assert _cuda._slot(1, 0) not in (first, second)
    capturing = True
    assert len({first, *(_cuda._slot(0, 0) for _ in range(3))}) == 4


def test_backward_hands_over_addresses_sizes_and_the_dtypes_of_the_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[dict[str, Any]] = []
    module = type("C", (), {"cuda_scale": staticmethod(lambda **options: calls.append(options))})
    monkeypatch.setattr(_cuda, "_C", module)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=64))
    gradients = [torch.randn(3, 5), torch.randn(7), torch.randn(41).bfloat16()]
    out = [gradients[0], gradients[1].half(), gradients[2]]
    scale = torch.tensor(2.0)
    _cuda._scale_into(gradients, scale, out)
    (call,) = calls
    f32, bf16, f16 = 0, 2, 3
    assert call["tensors"] == [
        (g.data_ptr(), o.data_ptr(), g.numel(), dtype)
        for g, o, dtype in zip(gradients, out, (f32, f16, bf16), strict=True)
    ]
    assert (call["scale"], call["stream"]) == (scale.data_ptr(), 64)


def test_the_compiled_backward_takes_the_tuples_and_names_what_the_device_refuses() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    if not hasattr(_cuda._C, "cuda_scale"):
        pytest.skip("litfast._C without CUDA kernels")
    message = "litfast CUDA kernel: choosing the device must succeed, got cudaError"
    with pytest.raises(RuntimeError, match=message):
        _cuda._C.cuda_scale(tensors=[(0, 0, 0, 3)], scale=0, device=0, stream=0)
