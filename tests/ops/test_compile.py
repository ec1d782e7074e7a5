"""A user's compiled function around the ops: a named backend serves it whole or refuses in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import ir_loss, kd_loss

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
S, T, Y = torch.randn(9, 5), torch.randn(9, 5), torch.arange(9) % 5
KD: dict[str, Any] = {"tau": 4.0, "alpha": 0.3}


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch.compiler.reset()


@pytest.fixture(params=["auto", "reference", "cpp", "triton"])
def where(request: pytest.FixtureRequest) -> str:
    """Every value of `backend` that can be asked here."""
    named = request.param in ("cpp", "triton")
    return request.getfixturevalue(request.param) if named else request.param


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """One graph through AOT autograd, without a code generator, which is slow."""
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


def agree(function: Callable[[Tensor, str], Tensor], student: Tensor, where: str) -> None:
    """Value and gradient, compiled with `where`, plain with the reference."""
    results = []
    for call, name in ((compiled(function), where), (function, "reference")):
        leaf = student.clone().requires_grad_()
        loss = call(leaf, name)
        results.append((loss, torch.autograd.grad(loss.sum(), leaf)[0]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_compiled_loss_gives_each_dtype_its_gradient(dtype: torch.dtype, where: str) -> None:
    agree(lambda s, b: 3 * kd_loss(s, T, Y, **KD, backend=b), S.to(dtype), where)


def test_compiled_rows_get_their_own_incoming_gradients(where: str) -> None:
    weights = torch.linspace(-1, 1, 9)
    agree(lambda s, b: weights * kd_loss(s, T, Y, **KD, reduction="none", backend=b), S, where)


def test_a_compiled_loss_follows_new_sizes_and_coefficients(where: str) -> None:
    def loss(student: Tensor, teacher: Tensor, target: Tensor, tau: float, alpha: Tensor) -> Tensor:
        return kd_loss(student, teacher, target, tau=tau, alpha=alpha, backend=where)

    call = compiled(loss, dynamic=True)
    for rows, tau, alpha in ((9, 4.0, 0.3), (4, 2.5, 0.7)):
        args = S[:rows], T[:rows], Y[:rows]
        expected = kd_loss(*args, tau=tau, alpha=alpha, backend="reference")
        torch.testing.assert_close(call(*args, tau, torch.tensor(alpha)), expected)


def test_a_compiled_loss_casts_nothing_under_autocast(where: str) -> None:
    call = compiled(lambda s: ir_loss([s], [T], backend=where))
    with torch.autocast("cpu", torch.bfloat16):
        loss = call(S)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ir_loss([S], [T], backend="reference"))


def test_a_graph_of_a_compiled_loss_can_be_run_twice(where: str) -> None:
    student = S.clone().requires_grad_()
    loss = compiled(lambda s: 2 * ir_loss([s], [T], backend=where))(student)
    first, second = (torch.autograd.grad(loss, student, retain_graph=again)[0] for again in (True, False))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, 4 * (S - T) / S.numel())


@pytest.mark.parametrize(
    ("student", "options", "line"),
    [
        (S.double(), {"backend": "cpp"}, "backend 'cpp' must be able to serve the call, got a torch.float64"),
        (S[:, :4], {}, "student_irs[0] must match teacher_irs[0] [9, 5], got [9, 4]"),
        (S, {"penalty": "l3"}, "penalty must be one of l2, l1, smooth_l1, got 'l3'"),
    ],
)
def test_a_mistake_inside_a_compiled_function_shows_its_line(
    student: Tensor, options: dict[str, Any], line: str, cpp: str
) -> None:
    """Dynamo wraps the error, because it is raised while it traces."""
    with pytest.raises(torch._dynamo.exc.Unsupported) as caught:
        compiled(lambda s: ir_loss([s], [T], **options))(student)
    assert line in str(caught.value).replace("\\'", "'")


def test_export_holds_plain_torch_only() -> None:
    class Loss(torch.nn.Module):
        def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
            return kd_loss(student, teacher, target, **KD)

    program = torch.export.export(Loss(), (S, T, Y))
    assert not any("litfast" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(S, T, Y), kd_loss(S, T, Y, **KD, backend="reference"))
