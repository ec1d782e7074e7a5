"""Every mistake gets one line, `<who>: <what> must <rule>, got <value>`, whichever backend is asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast import nn
from litfast.ops import ir_loss, kd_loss, lit_loss

S, T, Y = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([0, 4, 2])
META = torch.device("meta")
NUMBER = "a number or a 0-d float tensor, got"
FLOATS = "float32, float64, bfloat16 or float16, got"
LINE = r"\A{}_loss: [^\n]* must [^\n]*, got [^\n]*\Z"

fraction = [-0.1, 1.5, math.nan, math.inf, -math.inf]


def kd(student: Any = S, teacher: Any = T, target: Any = Y, **options: Any) -> Tensor:
    return kd_loss(student, teacher, target, **{"tau": 4.0, "alpha": 0.3} | options)


def ir(students: Any = (S,), teachers: Any = (T,), **options: Any) -> Tensor:
    return ir_loss(students, teachers, **options)


def lit(
    students: Any = (S,),
    teachers: Any = (T,),
    student: Any = S,
    teacher: Any = T,
    target: Any = Y,
    **options: Any,
) -> Tensor:
    options = {"tau": 4.0, "alpha": 0.3, "beta": 0.6} | options
    return lit_loss(students, teachers, student, teacher, target, **options).total


class Mistake:
    """One call, the error's type and a part of its line."""

    def __init__(self, op: Callable[..., Tensor], error: type, part: str, *args: Any, **options: Any) -> None:
        self.op, self.error, self.part, self.args, self.options = op, error, part, args, options

    def __str__(self) -> str:
        return f"{self.op.__name__} {self.part}"


ONE_HOT = torch.nn.functional.one_hot(Y, 5)
LOGITS = [
    Mistake(kd, ValueError, "[..., K] with K > 0, got []", S[0, 0], T[0, 0]),
    Mistake(kd, ValueError, "[..., K] with K > 0, got [5]", S[0], T[0], Y[0]),
    Mistake(lit, ValueError, "[..., K] with K > 0, got [5]", [S], [T], S[0], T[0], Y[0]),
    Mistake(kd, ValueError, "teacher_logits [3, 4], got [3, 5]", S, T[:, :4]),
    Mistake(lit, ValueError, "teacher_logits [3, 4], got [3, 5]", [S], [T], S, T[:, :4]),
    Mistake(kd, TypeError, f"student_logits must be {FLOATS} torch.bool", S > 0),
    Mistake(kd, TypeError, f"student_logits must be {FLOATS} torch.complex64", S.to(torch.complex64)),
    Mistake(kd, TypeError, f"teacher_logits must be {FLOATS} torch.int64", S, T.long()),
    Mistake(kd, TypeError, "student_logits must be a tensor, got NoneType", None),
    Mistake(kd, ValueError, "device cpu, got meta", S.to(META)),
    Mistake(kd, ValueError, "device meta, got cpu", S, T.to(META)),
    Mistake(kd, ValueError, "target must be on the logits' device meta, got cpu", S.to(META), T.to(META)),
]
TARGETS = [
    Mistake(op, error, part, *before, target)
    for op, before in ((kd, (S, T)), (lit, ([S], [T], S, T)))
    for error, part, target in (
        (TypeError, "int64 class indices, got torch.float32", Y.float()),
        (TypeError, "int64 class indices, got torch.int32", Y.int()),
        (TypeError, "int64 class indices, got torch.bool", Y > 0),
        (TypeError, "int64 class indices, got torch.float32", ONE_HOT.float()),
        (ValueError, "leading shape [3], got [3, 5]", ONE_HOT),
        (ValueError, "leading shape [3], got [2]", Y[:2]),
        (ValueError, "device cpu, got meta", Y.to(META)),
        (ValueError, "lie in [0, 5) or equal ignore_index -100, got 5", torch.tensor([0, 5, 2])),
        (ValueError, "lie in [0, 5) or equal ignore_index -100, got -1", torch.tensor([0, -1, 2])),
        (ValueError, "target must be given unless alpha is the number 0, got alpha 0.3", None),
    )
]
COEFFICIENTS = [
    *(
        Mistake(op, ValueError, f"tau must be positive and finite, got {x}", tau=x)
        for op in (kd, lit)
        for x in (0, 0.0, -1.0, math.nan, math.inf)
    ),
    *(
        Mistake(op, ValueError, f"{name} must lie in [0, 1], got {x}", **{name: x})
        for op, names in ((kd, ("alpha", "label_smoothing")), (lit, ("alpha", "beta", "label_smoothing")))
        for name in names
        for x in fraction
    ),
    *(
        Mistake(op, ValueError, f"{name} must be {NUMBER} {value.dtype} {list(value.shape)}", **{name: value})
        for op, names in ((kd, ("tau", "alpha", "scale")), (lit, ("beta", "tau")), (ir, ("scale",)))
        for name in names
        for value in (torch.ones(1), torch.ones(3, 1), torch.tensor(1))
    ),
    *(
        Mistake(kd, TypeError, f"{name} must be {NUMBER} {type(value).__name__}", **{name: value})
        for name in ("tau", "alpha", "scale")
        for value in (None, "4", True, 4j)
    ),
]
SECTIONS = [
    Mistake(ir, TypeError, "student_irs must be a sequence of tensors, got a tensor", S, [T]),
    Mistake(ir, TypeError, "teacher_irs must be a sequence of tensors, got a tensor", [S], T),
    Mistake(lit, TypeError, "student_irs must be a sequence of tensors, got a tensor", S, T),
    Mistake(ir, TypeError, "student_irs[0] must be a tensor, got list", [S.tolist()]),
    Mistake(ir, ValueError, "same number of sections, got 33 and 65", [S] * 33, [T] * 65),
    Mistake(ir, ValueError, "student_irs[32] must match teacher_irs[32]", [S] * 33, [*[T] * 32, T[:2]]),
    Mistake(ir, TypeError, f"student_irs[1] must be {FLOATS} torch.int64", [S, S.long()], [T, T]),
    Mistake(ir, ValueError, "teacher_irs[1]'s device meta, got cpu", [S, S], [T, T.to(META)]),
    *(
        Mistake(op, ValueError, f"one number a section (1), got {len(weights)}", weights=weights)
        for op in (ir, lit)
        for weights in ([], [1.0, 2.0])
    ),
]
CHOICES = [
    Mistake(kd, ValueError, "soft must be one of ce, kl, got None", soft=None),
    Mistake(kd, ValueError, "reduction must be one of mean, sum, none, got 1", reduction=1),
    Mistake(kd, ValueError, "convention must be one of lit, hinton", convention="kd"),
    Mistake(lit, ValueError, "penalty must be one of l2, l1, smooth_l1, got 2", penalty=2),
]
OTHERS = [
    Mistake(kd, TypeError, "student_logits must be a tensor, got list", S.tolist(), convention="hinton"),
    Mistake(kd, ValueError, "K > 0, got [3, 0]", S[:, :0], T[:, :0], convention="deit"),
    Mistake(kd, TypeError, "target must be a tensor, got list", S, T, Y.tolist()),
    Mistake(kd, TypeError, "ignore_index must be an integer, got NoneType", ignore_index=None),
    Mistake(kd, TypeError, "ignore_index must be an integer, got float", ignore_index=1.5),
    Mistake(kd, ValueError, "tau must be on", tau=torch.tensor(4.0, device=META)),
    Mistake(ir, ValueError, "scale must be on", scale=torch.tensor(4.0, device=META)),
    Mistake(ir, TypeError, "student_irs must be a sequence of tensors, got NoneType", None),
    Mistake(ir, TypeError, "student_irs must be a sequence of tensors, got generator", (x for x in [S])),
    Mistake(ir, TypeError, "weights must be a sequence of numbers, got float", weights=2.0),
    Mistake(ir, TypeError, "weights[0] must be a number, got str", weights=["1"]),
    Mistake(ir, TypeError, "weights[0] must be a number, got NoneType", weights=[None]),
    Mistake(ir, ValueError, "student_irs[1] must be on", [S, S.to(META)], [T, T.to(META)]),
    Mistake(ir, ValueError, "must be dense", [S.to_sparse()]),
]
MISTAKES = [*LOGITS, *TARGETS, *COEFFICIENTS, *SECTIONS, *CHOICES, *OTHERS]


@pytest.fixture(params=["auto", "reference", "cpp", "triton"])
def where(request: pytest.FixtureRequest) -> str:
    """Every value of `backend` that can be asked here."""
    named = request.param in ("cpp", "triton")
    return request.getfixturevalue(request.param) if named else request.param


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_gets_one_line(mistake: Mistake, where: str) -> None:
    with pytest.raises(mistake.error, match=LINE.format(mistake.op.__name__)) as caught:
        mistake.op(*mistake.args, **mistake.options, backend=where)
    assert mistake.part in str(caught.value)


@pytest.mark.parametrize("name", [None, "cp", "CPP", ""])
def test_a_name_that_is_no_backend_gets_one_line(name: Any) -> None:
    for op in (kd, ir, lit):
        with pytest.raises(ValueError, match=LINE.format(op.__name__)):
            op(backend=name)


@pytest.mark.parametrize("sections", [33, 65])
@pytest.mark.parametrize("kind", ["ir", "lit"])
def test_more_sections_than_one_launch_takes_are_split_not_refused(
    kind: str, sections: int, backend: str
) -> None:
    students = [torch.full((2,), float(i), requires_grad=True) for i in range(sections)]
    weights = [1.0 + i for i in range(sections)]
    results = []
    for name in (backend, "reference"):
        args, options = (students, [torch.zeros(2)] * sections), {"weights": weights, "backend": name}
        loss = ir(*args, **options) if kind == "ir" else lit(*args, **options)
        results.append([loss, *torch.autograd.grad(loss, students)])
    torch.testing.assert_close(*results)


def test_an_empty_batch_gives_loss_0_and_empty_gradients(backend: str) -> None:
    section, logits = torch.empty(0, 4, 2, 2, requires_grad=True), torch.empty(0, 5, requires_grad=True)
    nobody = torch.empty(0, dtype=torch.int64)
    for loss in (
        kd(logits, logits.detach(), nobody, backend=backend),
        ir([section], [section.detach()], backend=backend),
        lit([section], [section.detach()], logits, logits.detach(), nobody, backend=backend),
    ):
        assert loss == 0
        loss.backward()
    assert section.grad is not None and section.grad.shape == section.shape
    assert logits.grad is not None and logits.grad.shape == logits.shape
    rows = kd(logits, logits.detach(), nobody, reduction="none", backend=backend)
    assert rows.shape == (0,)
    rows.sum().backward()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("of", ["student", "teacher"])
def test_what_is_not_finite_stays_in_its_row_as_in_torch(of: str, value: float, backend: str) -> None:
    student, teacher = S.clone(), T.clone()
    (student if of == "student" else teacher)[1, 2] = value
    results = []
    for name in (backend, "reference"):
        leaf = student.clone().requires_grad_()
        rows = kd(leaf, teacher, reduction="none", backend=name)
        rows.sum().backward()
        results.append((rows, leaf.grad))
    ruled_out = of == "teacher" and value == -math.inf  # a class of probability 0, nothing strange
    assert results[1][0][1].isfinite() == ruled_out
    assert results[1][0][::2].isfinite().all()
    torch.testing.assert_close(*results, equal_nan=True)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (nn.KDLoss, {"tau": 0.0, "alpha": 0.3}, "kd_loss: tau must be positive and finite, got 0.0"),
        (nn.LITLoss, {"tau": 4.0, "alpha": 0.3, "beta": 2.0}, "lit_loss: beta must lie in"),
    ],
)
def test_a_module_passes_on_the_line_of_its_function(
    module: type, options: dict[str, Any], message: str
) -> None:
    args = (S, T, Y) if module is nn.KDLoss else ([S], [T], S, T, Y)
    with pytest.raises(ValueError, match=f"^{message}"):
        module(**options)(*args)
