"""A loss after one step that is not taken: how targets should change so that training on them goes better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Theta = dict[str, Tensor]  # what trains, by name
REACH = 0.01  # 2-norm of the way to both ends of the first-order difference


def after_virtual_step(
    theta: Theta,
    *,
    run: Callable[[Theta], Any],
    teach: Callable[[Any], Any],
    inner: Callable[[Any, Any], Tensor],
    outer: Callable[[Theta], Tensor],
    eta: float,
    second_order: bool = True,
) -> Tensor:
    """The outer loss after one virtual step of gradient descent on the inner loss.

        q      = teach(run(theta))                               constant in theta, a function of phi
        g(phi) = d inner(run(theta), q) / d theta
        theta' = theta - eta g(phi)
        L_out  = outer(theta')

    `backward` of the result gives dL_out/dphi to whatever `teach` depends on; theta gets no gradient and is
    not changed. With v = d outer / d theta', second order is the exact gradient, that of the gradient g:

        dL_out/dphi = -eta d/dphi <v, g(phi)>,   v held constant

    First order takes first derivatives only, <v, g> being a difference of two runs along v:

        dL_out/dphi = -eta |v| d/dphi [inner(run(ahead), q) - inner(run(behind), q)] / (2 r)
        ahead, behind = theta + r v/|v|, theta - r v/|v|

    with r = REACH and q as above. What it drops is the difference's error, O(r^2): a third derivative of the
    inner loss. It is exact for an inner loss that is quadratic in theta. It keeps no graph of a gradient,
    which saves memory and, with batch norm, time. Its two runs are done outside of autocast, whose rounding
    is as large as the difference.

    Args:
        theta: parameters by name, any shapes.
        run: what the network makes of the inner samples; may not change anything, nor draw random numbers
            in first order.
        teach: targets q for the outputs of `run`, which it must detach.
        inner: loss of outputs and targets.
        outer: loss of parameters, on the outer samples.
        eta: step size of the virtual step.

    Returns:
        [], the value of L_out.
    """
    with torch.enable_grad():
        start = {name: value.detach() for name, value in theta.items()}
        leaves = {name: value.detach().requires_grad_() for name, value in start.items()}
        outputs = run(leaves)
        targets = teach(outputs)
        slope = _gradient(inner(outputs, targets), leaves, create_graph=second_order)
        moved = {name: value - eta * slope[name] for name, value in start.items()}
        if second_order:
            return outer(moved)
        moved = {name: value.requires_grad_() for name, value in moved.items()}
        value = outer(moved)
        direction = _gradient(value, moved)
        norm = torch.linalg.vector_norm(torch.stack([part.norm() for part in direction.values()]))
        share = REACH / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        with torch.autocast(norm.device.type, enabled=False):
            ahead, behind = (
                inner(run({n: p + sign * share * direction[n] for n, p in start.items()}), targets)
                for sign in (1, -1)
            )
        estimate = -eta * norm * (ahead - behind) / (2 * REACH)
        return value.detach() + (estimate - estimate.detach())


def _gradient(loss: Tensor, theta: Theta, *, create_graph: bool = False) -> Theta:
    # not torch.func.grad: it refuses the saved-tensor hooks with which the engine counts a plan's memory
    parts = torch.autograd.grad(loss, list(theta.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(theta, parts, strict=True))
