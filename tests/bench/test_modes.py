"""bench/modes.py: what each mode makes of a model, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.bench import capture, measure, modes
from litfast.export import onnx
from litfast.models import Input, create

from .conftest import convnet, texts

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-6), ("bf16", 3e-2)])
def test_a_folded_resnet_agrees_and_leaves_the_model_alone(precision: str, allowed: float) -> None:
    torch.manual_seed(0)
    model = create("resnet8", classes=4)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    plain = Input((3, 16, 16)).example(3)
    samples = modes.converted(plain, "folded", precision)
    with torch.inference_mode():
        runner = modes.prepare(model, "folded", precision, samples)
        truth = modes.prepare(model, "eager", "fp32", plain)(plain)
        out = runner(samples)
    assert isinstance(runner, nn.Module)
    assert not [part for part in runner.modules() if isinstance(part, nn.BatchNorm2d)]
    assert out.dtype == samples.dtype
    assert modes.deviation(out, truth) <= allowed
    assert [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)] and model.training


def test_ids_are_folded_too_and_what_cannot_be_traced_is_refused() -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    ids = Input((20,), alphabet=9).example(2)
    with torch.inference_mode():
        runner = modes.prepare(texts(), "folded", "bf16", ids)
        assert modes.deviation(runner(ids), texts().eval()(ids)) < 3e-2
    with pytest.raises(ValueError, match=r"folded: the model must be traceable by torch\.fx, got Loop"):
        modes.prepare(Loop(), "folded", "fp32", torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("mode", "precision", "device", "said"),
    [
        ("graph", "fp32", CPU, "graph: device must be cuda (the CPU has no CUDA graphs), got cpu"),
        ("onnx", "fp32", GPU, "onnx: device must be cpu (it is ONNX Runtime's CPU provider), got cuda"),
        ("onnx", "bf16", CPU, "onnx: precision must be fp32 (ONNX Runtime's CPU kernels), got bf16"),
        ("graph", "bf16", GPU, None),
        ("eager", "bf16", CPU, None),
    ],
)
def test_a_mode_says_what_it_cannot_serve(
    mode: str, precision: str, device: torch.device, said: str | None
) -> None:
    assert modes.refusal(mode, precision, device) == said
    if said and device == CPU:
        with pytest.raises(ValueError, match=said.partition(" (")[0]):
            modes.prepare(convnet(4), mode, precision, torch.zeros(1, 3, 5, 5))


def test_all_modes_are_those_that_differ_on_the_device() -> None:
    assert modes.every(CPU) == ["eager", "compile", "compile:max-autotune", "onnx", "folded"]
    compiled = ["compile", *(f"compile:{mode}" for mode in modes.COMPILED)]
    assert modes.every(GPU) == ["eager", *compiled, "graph", "folded"]


def test_torchs_modes_of_compile_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(options["mode"]) or model)
    for mode in ("compile", "compile:max-autotune"):
        modes.prepare(convnet(4), mode, "fp32", torch.zeros(1, 3, 5, 5))
    assert asked == [None, "max-autotune"]


def test_images_are_channels_last_but_for_onnx() -> None:
    images = torch.zeros(2, 3, 5, 5)
    assert modes.converted(images, "eager", "bf16").is_contiguous(memory_format=torch.channels_last)
    assert modes.converted(images, "onnx", "fp32").is_contiguous()
    ids = torch.zeros(2, 3, dtype=torch.int64)
    assert modes.converted(ids, "eager", "bf16") is ids


def test_onnx_is_written_and_run_by_our_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself is in tests/export."""
    model, asked = convnet(4).eval(), []

    def save(path: Path, model: nn.Module, input: Input) -> None:
        asked.append((input, model.training))
        path.write_bytes(b"onnx")

    def runner(path: Path, *, threads: int) -> modes.Runner:
        asked.append((path.read_bytes(), threads))
        return model

    monkeypatch.setattr(onnx, "save", save)
    monkeypatch.setattr(onnx, "runner", runner)
    cells: dict[str, Any] = {"batches": (3,), "modes": ("onnx",), "precisions": ("fp32",), "seconds": 0.01}
    (row,) = measure({"a": model}, input=Input((3, 5, 5)), threads=1, **cells)
    assert asked == [(Input((3, 5, 5)), False), (b"onnx", 1)]
    assert row.gate and row.p50_ms is not None, row.reason
    assert row.peak_memory_bytes is None  # ONNX Runtime's memory is its own


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_graph_replays_on_what_it_is_given() -> None:
    model = convnet(4).eval().cuda()
    samples = torch.randn(2, 3, 5, 5, device="cuda")
    with torch.inference_mode():
        runner = capture.Captured(model, samples)
        for _ in range(2):
            other = torch.randn_like(samples)
            assert torch.allclose(runner(other), model(other), rtol=1e-4, atol=1e-5)


def test_nothing_agrees_with_what_is_not_finite() -> None:
    for value in (torch.nan, torch.inf):
        assert modes.deviation(torch.zeros(2), torch.tensor([1.0, value])) == float("inf")
        assert modes.deviation(torch.tensor([1.0, value]), torch.zeros(2)) == float("inf")
