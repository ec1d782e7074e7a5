"""`channel_l1`: its gradient to the bit, and one clear line for each mistake."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import channel_l1

A = torch.randn(3)


def served(backend: str, dtype: torch.dtype) -> str:
    return "reference" if backend == "triton" and dtype == torch.float64 else backend


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("strength", [1e-4, 1e-5, 0.1, 3.7])
def test_the_gradient_is_strength_times_sign_to_the_bit(
    strength: float, dtype: torch.dtype, backend: str
) -> None:
    scales = [torch.randn(n).to(dtype) for n in (16, 7, 64, 1, 1271)]
    scales[1][3] = 0
    leaves = [scale.requires_grad_() for scale in scales]
    channel_l1(leaves, strength=strength, backend=served(backend, dtype)).backward()
    for leaf in leaves:
        assert torch.equal(leaf.grad, torch.tensor(strength, dtype=dtype) * leaf.detach().sign())


def test_the_value_is_the_sum_of_all_scales(backend: str) -> None:
    loss = channel_l1([torch.tensor([1.0, -2.0]), torch.tensor([[0.5]])], strength=2.0, backend=backend)
    assert loss == 7


def test_a_scale_without_gradient_stays_without(backend: str) -> None:
    moved, still = torch.randn(5, requires_grad=True), torch.randn(5)
    channel_l1([still, moved], strength=0.5, backend=backend).backward()
    assert still.grad is None
    assert torch.equal(moved.grad, 0.5 * moved.detach().sign())


def test_it_adds_to_what_another_loss_gives(backend: str) -> None:
    scale = torch.randn(41, requires_grad=True)
    (scale.square().sum() + channel_l1([scale], strength=0.25, backend=backend)).backward()
    torch.testing.assert_close(scale.grad, (2 * scale + 0.25 * scale.sign()).detach(), rtol=1e-6, atol=1e-7)


def test_few_ops_serve_many_scales(ops_called: Callable[..., list[str]], cpp: str) -> None:
    scales = [torch.randn(16) for _ in range(57)]
    few, many = (
        ops_called(lambda part=part: channel_l1(part, strength=1e-4, backend=cpp))
        for part in (scales[:2], scales)
    )
    assert [name for name in few if "view" not in name] == [name for name in many if "view" not in name]


@pytest.mark.parametrize(
    ("scales", "strength", "error", "message"),
    [
        ([], 1.0, ValueError, "scales must hold at least one tensor, got none"),
        (A, 1.0, TypeError, "scales must be a sequence of tensors, got a tensor"),
        ([A, A.long()], 1.0, TypeError, "scales[1] must be float32, float64, bfloat16 or float16, got"),
        ([A, A.to("meta")], 1.0, ValueError, "scales[1] must be on scales[0]'s device cpu, got meta"),
        ([A], -1.0, ValueError, "strength must be 0 or more and finite, got -1.0"),
        ([A], "1", TypeError, "strength must be a number or a 0-d float tensor, got str"),
    ],
)
def test_a_mistake_gets_one_line(scales: Any, strength: Any, error: type, message: str) -> None:
    with pytest.raises(error, match="^channel_l1: " + re.escape(message)):
        channel_l1(scales, strength=strength)


def test_compiled_it_is_the_same() -> None:
    torch.compiler.reset()

    def gradient(function: Callable[..., Tensor]) -> Tensor:
        leaf = torch.linspace(-1, 1, 41).requires_grad_()
        return torch.autograd.grad(function([leaf], strength=1e-4), leaf)[0]

    compiled = torch.compile(channel_l1, fullgraph=True, backend="aot_eager")
    assert torch.equal(gradient(compiled), gradient(channel_l1))
