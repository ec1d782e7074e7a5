"""The meta-gradient by itself: toys whose answer is known on paper."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from litfast.methods._virtual_step import REACH, Theta, after_virtual_step

ETA = 0.3


def vector(seed: int, size: int = 7) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def outer_gradient(
    phi: Tensor, inner: Callable[[Tensor, Tensor], Tensor], *, second_order: bool
) -> tuple[Tensor, Tensor]:
    """L_out = 1/2 |theta' - y|^2 and dL_out/dphi, the parameters in two pieces."""
    theta, y = vector(1), vector(2)
    pieces = {"a": theta[:3], "b": theta[3:].reshape(2, 2)}
    kept = {name: value.clone() for name, value in pieces.items()}

    def whole(theta: Theta) -> Tensor:
        return torch.cat([theta["a"], theta["b"].flatten()])

    loss = after_virtual_step(
        pieces,
        run=whole,
        teach=lambda _: phi,
        inner=inner,
        outer=lambda moved: (whole(moved) - y).square().sum() / 2,
        eta=ETA,
        second_order=second_order,
    )
    assert all(torch.equal(pieces[name], value) for name, value in kept.items())
    return loss.detach(), torch.autograd.grad(loss, phi)[0]


@pytest.mark.parametrize("second_order", [True, False])
def test_of_the_quadratic_toy_the_gradient_is_eta_times_theta_prime_less_y(second_order: bool) -> None:
    """L_in = 1/2 |theta - phi|^2: theta' = theta - eta (theta - phi), dL_out/dphi = eta (theta' - y)."""
    phi = vector(0).requires_grad_()
    loss, found = outer_gradient(
        phi, lambda theta, phi: (theta - phi).square().sum() / 2, second_order=second_order
    )
    moved = vector(1) - ETA * (vector(1) - vector(0))
    torch.testing.assert_close(loss, (moved - vector(2)).square().sum() / 2, rtol=1e-14, atol=0)
    torch.testing.assert_close(found, ETA * (moved - vector(2)), rtol=1e-12, atol=0)


def test_first_order_is_its_definition_and_not_the_exact_gradient() -> None:
    """L_in = <phi, exp(theta)>: dL_out/dphi = -eta v exp(theta), and its difference over 2 REACH along v."""
    phi = vector(0).requires_grad_()

    def inner(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi * theta.exp()).sum()

    theta = vector(1)
    v = theta - ETA * vector(0) * theta.exp() - vector(2)
    far = REACH * v / v.norm()
    exact = -ETA * v * theta.exp()
    difference = -ETA * v.norm() * ((theta + far).exp() - (theta - far).exp()) / (2 * REACH)
    values, found = zip(
        *(outer_gradient(phi, inner, second_order=order) for order in (True, False)), strict=True
    )
    torch.testing.assert_close(found[0], exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], difference, rtol=1e-12, atol=0)
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    assert 1e-7 < (found[1] - exact).norm() / exact.norm() < REACH**2


@pytest.mark.parametrize("second_order", [True, False])
def test_an_outer_loss_without_slope_gives_no_gradient_and_no_nan(second_order: bool) -> None:
    phi = vector(0).requires_grad_()
    loss = after_virtual_step(
        {"a": vector(1)},
        run=lambda theta: theta["a"],
        teach=lambda _: phi,
        inner=lambda theta, phi: (theta - phi).square().sum(),
        outer=lambda moved: 0 * moved["a"].sum(),
        eta=ETA,
        second_order=second_order,
    )
    assert torch.equal(torch.autograd.grad(loss, phi)[0], torch.zeros_like(phi))


@pytest.mark.parametrize("second_order", [True, False])
def test_it_can_be_asked_where_no_gradient_is_taken(second_order: bool) -> None:
    phi = vector(0).requires_grad_()
    with torch.no_grad():
        loss = after_virtual_step(
            {"a": vector(1)},
            run=lambda theta: theta["a"],
            teach=lambda seen: seen.detach() * phi,
            inner=lambda theta, q: (theta - q).square().sum(),
            outer=lambda moved: moved["a"].square().sum(),
            eta=ETA,
            second_order=second_order,
        )
    moved = vector(1) - 2 * ETA * (vector(1) - vector(1) * vector(0))
    torch.testing.assert_close(loss.detach(), moved.square().sum(), rtol=1e-12, atol=0)
