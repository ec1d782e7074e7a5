"""The Triton backend on a GPU: every sample, no host sync, capture and replay, offsets beyond 2^31."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import backends, ir_loss, kd_loss, lit_loss
from litfast.testing import FUNCTIONS, Sample, misses, on, samples

pytestmark = pytest.mark.gpu
SAMPLES = [s for op in FUNCTIONS for s in samples(op) if "float64" not in s.name]


@pytest.fixture(autouse=True)
def installed() -> None:
    if reason := dict(backends())["triton"]:
        pytest.skip(f"triton: {reason}")


@pytest.fixture
def no_sync() -> Iterator[Callable[[str], None]]:
    """Sets what happens when the host waits for the device."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


def inputs(rows: int = 128) -> dict[str, Any]:
    """A LIT step of a CIFAR ResNet, its students ready for a gradient."""
    shapes = [(rows, 16, 32, 32), (rows, 32, 16, 16), (rows, 64, 8, 8)]
    students, teachers = ([torch.randn(*shape, device="cuda") for shape in shapes] for _ in range(2))
    logits, teacher = (torch.randn(rows, 10, device="cuda") for _ in range(2))
    target = torch.randint(10, (rows,), device="cuda")
    for student in (*students, logits):
        student.requires_grad_()
    return {"irs": students, "teachers": teachers, "logits": logits, "teacher": teacher, "target": target}


def step(x: dict[str, Any], backend: str, scale: Tensor | None = None) -> list[Tensor]:
    """The losses of all ops, their gradients left in `.grad`."""
    kd = {"tau": 4.0, "alpha": 0.3, "backend": backend}
    logits = (x["logits"], x["teacher"], x["target"])
    lit = lit_loss(x["irs"], x["teachers"], *logits, beta=0.6, **kd)
    total = lit.total + ir_loss(x["irs"], x["teachers"], penalty="l1", backend=backend)
    total = total + kd_loss(*logits, **kd)
    (total if scale is None else total * scale).backward()
    return [total.detach(), *lit[1:]]


def students(x: dict[str, Any]) -> list[Tensor]:
    return [*x["irs"], x["logits"]]


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_triton_keeps_the_accuracy_rule_on_cuda(sample: Sample) -> None:
    assert misses(on(sample, "cuda"), "triton") == []


@pytest.mark.parametrize("classes", [8192, 8193, 32_000, 128_256])
def test_long_rows_are_served_on_cuda(classes: int) -> None:
    student, teacher = (torch.randn(64, classes, device="cuda") for _ in range(2))
    target = torch.randint(classes, (64,), device="cuda")
    target[::5] = -100
    args = (student, teacher, target)
    sample = Sample(op="kd", name=f"{classes}", args=args, options={"tau": 4.0, "alpha": 0.3})
    assert misses(sample, "triton") == []


def test_auto_takes_a_fused_backend_on_cuda() -> None:
    loss = ir_loss([torch.randn(3, device="cuda", requires_grad=True)], [torch.randn(3, device="cuda")])
    assert "Fused" in type(loss.grad_fn).__name__


@pytest.mark.parametrize("scale", [None, 0.5])
def test_neither_pass_waits_for_the_device(scale: float | None, no_sync: Callable[[str], None]) -> None:
    x = inputs()
    factor = None if scale is None else torch.tensor(scale, device="cuda")
    step(x, "triton", factor)
    torch.cuda.synchronize()
    no_sync("error")
    step(x, "triton", factor)


def test_a_captured_step_follows_new_inputs_and_a_new_scale() -> None:
    x, scale = inputs(), torch.ones((), device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(x, "triton", scale)
    torch.cuda.current_stream().wait_stream(side)
    for student in students(x):
        student.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step(x, "triton", scale)
    for value in (1.0, 0.5, 1.0):
        scale.fill_(value)
        with torch.no_grad():
            for tensor in (*students(x), *x["teachers"], x["teacher"]):
                tensor.normal_()
            x["target"].random_(10)
            x["target"][:5] = -100
        for student in students(x):
            assert student.grad is not None
            student.grad.zero_()
        graph.replay()
        replayed = [loss.clone() for loss in losses] + [student.grad.clone() for student in students(x)]
        fresh = {
            key: [t.detach().clone() for t in value] if isinstance(value, list) else value.detach().clone()
            for key, value in x.items()
        }
        for student in students(fresh):
            student.requires_grad_()
        eager = step(fresh, "reference", scale) + [student.grad for student in students(fresh)]
        torch.testing.assert_close(replayed, eager, rtol=1e-4, atol=1e-8)


def test_the_same_call_gives_the_same_bits_on_cuda() -> None:
    x = inputs(1024)
    results = []
    for _ in range(3):
        for student in students(x):
            student.grad = None
        results.append(step(x, "triton") + [student.grad for student in students(x)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_streams_do_not_disturb_one_another() -> None:
    batches = [inputs(256) for _ in range(4)]
    expected = [step(x, "triton") for x in batches]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in batches]
    for _ in range(5):
        got = []
        for stream, x in zip(streams, batches, strict=True):
            with torch.cuda.stream(stream):
                got.append(step(x, "triton"))
        torch.cuda.synchronize()
        for a, b in zip(got, expected, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
def test_offsets_beyond_2_to_the_31_are_reached() -> None:
    n = 2**31 + 4099
    if torch.cuda.get_device_properties(0).total_memory < 30 * 2**30:
        pytest.skip("takes 13 GiB of device memory")
    student = torch.zeros(n, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    teacher = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    teacher[-1] = teacher[2**31] = 1
    loss = ir_loss([student], [teacher], scale=float(n), backend="triton")
    loss.backward()
    assert loss == 2
    assert student.grad is not None
    assert (student.grad[[-1, 2**31]] == -2).all()
    assert student.grad.count_nonzero() == 2
