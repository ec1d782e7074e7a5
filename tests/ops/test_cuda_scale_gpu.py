"""Backward of the CUDA backend on a GPU: every dtype, a scale of 1, capture and replay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import _cuda, backends, ir_loss, lit_loss

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def installed() -> None:
    if reason := dict(backends())["cuda"]:
        pytest.skip(f"cuda: {reason}")


def waiting(n: int, dtype: torch.dtype, offset: int = 0) -> Tensor:
    """A gradient of a student of `dtype`, as the forward pass leaves it."""
    wide = torch.float32 if dtype == torch.float16 else dtype
    return torch.randn(n + offset, device="cuda").to(wide)[offset:]


def product(gradient: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.mul(gradient.float(), scale).to(dtype)


def device_scale(value: float) -> Tensor:
    return torch.full((), value, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 41, 1271, 1 << 20, 30_000_001])
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_each_element_is_scaled_once(n: int, offset: int, dtype: torch.dtype) -> None:
    gradient, scale = waiting(n, dtype, offset), device_scale(0.37)
    for shift in {0, offset}:
        room = torch.full((n + shift + 1,), torch.nan, dtype=dtype, device="cuda")
        _cuda._scale_into([gradient], scale, [room[shift : shift + n]])
        assert torch.equal(room[shift : shift + n], product(gradient, scale, dtype))
        assert room[shift + n].isnan()
    if dtype != torch.float16:
        expected = product(gradient, scale, dtype)
        _cuda._scale_into([gradient], scale, [gradient])
        assert torch.equal(gradient, expected)


def kernels(call: Any) -> list[str]:
    """The launches of the backward kernel, the second time that `call` runs."""
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        call()
        torch.cuda.synchronize()
    return [event.name for event in recorded.events() if "multiply_kernel" in event.name]


def test_40_tensors_are_two_launches() -> None:
    gradients = [waiting(1 + 9973 * i, DTYPES[i % 3], offset=i % 2) for i in range(40)]
    out = [torch.empty_like(g, dtype=DTYPES[i % 3]) for i, g in enumerate(gradients)]
    scale = device_scale(65536.0)
    assert len(kernels(lambda: _cuda._scale_into(gradients, scale, out))) == 2
    for gradient, result in zip(gradients, out, strict=True):
        assert torch.equal(result, product(gradient, scale, result.dtype))


def test_a_scale_of_1_in_place_leaves_the_bits_alone_in_one_launch() -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (100_003,), dtype=torch.int32, device="cuda")  # with every NaN
    gradient = bits.clone().view(torch.float32)
    launched = kernels(lambda: _cuda._scale_into([gradient], device_scale(1.0), [gradient]))
    assert len(launched) == 1
    assert torch.equal(gradient.view(torch.int32), bits)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_graph_can_be_run_again_and_a_loss_scale_reaches_every_student(dtype: torch.dtype) -> None:
    students = [torch.randn(*shape, device="cuda").to(dtype) for shape in [(3, 4099), (41,), (9, 10)]]
    *irs, logits = (student.requires_grad_() for student in students)
    teachers = [torch.randn_like(student, dtype=torch.float32) for student in students]
    options: dict[str, Any] = {"alpha": 0.0, "beta": 0.5, "tau": 4.0}
    loss, plain = (
        lit_loss(irs, teachers[:2], logits, teachers[2], **options, backend=name).total
        for name in ("cuda", "reference")
    )
    inputs = [*irs, logits]
    expected = torch.autograd.grad(plain, inputs, device_scale(65536.0))
    once, first, last = (
        torch.autograd.grad(loss, inputs, device_scale(factor), retain_graph=not final)
        for factor, final in ((1.0, False), (65536.0, False), (65536.0, True))  # the last one works in place
    )
    for i, student in enumerate(inputs):
        assert first[i].dtype == once[i].dtype == student.dtype
        torch.testing.assert_close(first[i], expected[i])
        assert torch.equal(first[i], last[i])
        if dtype != torch.float16:  # whose unscaled gradients are rounded a second time
            assert torch.equal(first[i], once[i] * 65536)


def test_a_captured_backward_follows_the_scale() -> None:
    student = torch.randn(1271, 41, device="cuda", requires_grad=True)
    teacher, scale = torch.randn(1271, 41, device="cuda"), device_scale(1.0)

    def step() -> Tensor:
        loss = ir_loss([student], [teacher], backend="cuda")
        return torch.autograd.grad(loss, student, scale)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        once = step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for value in (1.0, 0.37, 65536.0, 1.0):
        scale.fill_(value)
        graph.replay()
        assert torch.equal(captured, once * scale)
