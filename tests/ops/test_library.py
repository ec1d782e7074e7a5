"""torch.ops.litfast: opcheck, torch.compile with gradients, autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import ir_loss, kd_loss, lit_loss
from litfast.ops._dispatch import Call

# torch.compile imports and does what torch itself calls deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

IRS = [torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last), torch.randn(41).half()]
TEACHER_IRS = [torch.randn(2, 3, 5, 7), torch.randn(41).bfloat16()]
LOGITS = torch.randn(3, 41), torch.randn(41, 3).t()
TARGET = torch.tensor([0, -100, 40])
TENSORS = torch.tensor([4.0, 0.3, 0.6, 0.5], dtype=torch.float64)
KD = Call("kd_loss", [], [], *LOGITS, TARGET, label_smoothing=0.1, tau=4.0, alpha=0.3, beta=1.0, needs=[True])
IR = Call("ir_loss", IRS, TEACHER_IRS, None, None, None, penalty="l1", weights=[1.0, 0.5], needs=[True, True])
CALLS = {
    "kd": KD,
    "kd rows": KD._replace(reduction="none", needs=[False]),
    "kd tensors": KD._replace(reduction="sum", target=None, coefficients=TENSORS),
    "ir": IR,
    "ir fp64": IR._replace(
        student_irs=[IRS[1].double()], teacher_irs=[IRS[1].double()], weights=[1.0], needs=[False]
    ),
    "lit": IR._replace(
        who="lit_loss",
        student=LOGITS[0],
        teacher=LOGITS[1],
        target=TARGET,
        coefficients=TENSORS,
        needs=[True, False, True],
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_opcheck_is_clean(call: str, cpp: str) -> None:
    results = torch.library.opcheck(torch.ops.litfast.loss.default, tuple(CALLS[call]))
    assert set(results.values()) == {"SUCCESS"}


def step(weight: Tensor, x: Tensor, target: Tensor, backend: str) -> Tensor:
    z = torch.relu(x @ weight)
    kd = {"tau": 3.0, "alpha": 0.3, "backend": backend}
    lit = lit_loss([z, x @ weight], [x, x], z @ weight, x, target, beta=0.4, **kd)
    return 2 * lit.total + lit.ir.sum() + ir_loss([z], [x], backend=backend) + kd_loss(z, x, target, **kd)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "cpp"])
def test_a_compiled_step_is_one_graph_with_the_same_value_and_gradient(backend: str, cpp: str) -> None:
    weight, x, target = torch.randn(8, 8, requires_grad=True), torch.randn(16, 8), torch.randint(8, (16,))
    compiled = torch.compile(step, fullgraph=True)
    for rows in (16, 9):  # the second shape compiles with a symbolic batch
        plain, ours = (f(weight, x[:rows], target[:rows], backend) for f in (step, compiled))
        torch.testing.assert_close(ours, plain)
        gradients = [torch.autograd.grad(loss, weight)[0] for loss in (ours, plain)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("backend", "opaque"), [("auto", False), ("reference", False), ("cpp", True)])
def test_only_a_named_fused_backend_stays_an_op_under_compile(backend: str, opaque: bool, cpp: str) -> None:
    from torch._dynamo.backends.common import aot_autograd

    names: list[str] = []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(ir_loss, fullgraph=True, backend=aot_autograd(fw_compiler=note))
    compiled([torch.randn(3, requires_grad=True)], [torch.randn(3)], backend=backend)
    assert ("litfast.loss.default" in names) == opaque


@pytest.mark.parametrize("backend", ["auto", "reference", "cpp"])
def test_autocast_casts_nothing(backend: str, cpp: str) -> None:
    weight, x, target = torch.randn(8, 8), torch.randn(16, 8), torch.randint(8, (16,))
    z = x @ weight

    def losses(student: Tensor) -> tuple[Tensor, Tensor]:
        student = student.detach().requires_grad_()
        loss = lit_loss(
            [student], [x], student, x, target, tau=3.0, alpha=0.3, beta=0.4, backend=backend
        ).total
        return loss.detach(), torch.autograd.grad(loss, student)[0]

    for student in (z, z.bfloat16(), z.double()):
        if student.dtype == torch.float64 and backend == "cpp":
            continue  # refused with an fp32 teacher
        plain = losses(student)
        with torch.autocast("cpu", torch.bfloat16):
            cast = losses(student)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(plain, cast, strict=True))
