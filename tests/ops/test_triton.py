"""The Triton kernels through the interpreter: many programs, odd cuts, nothing unwritten, refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import _autograd, ir_loss, kd_loss, lit_loss
from litfast.ops._dispatch import Call
from litfast.testing import Sample, misses

S, T = torch.randn(3, 5), torch.randn(3, 5)
OPTIONS: dict[str, Any] = {"tau": 4.0, "alpha": 0.0}


def normal(*shape: int) -> Tensor:
    return torch.randn(shape)


def everything(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Losses and gradients of a call that takes several programs a section, and several for the rows."""
    torch.manual_seed(0)
    irs, teacher_irs = ([normal(3, 4096).to(dtype), normal(1271, 41).to(dtype)] for _ in range(2))
    logits, teacher = normal(300, 10).to(dtype), normal(300, 10)
    target = torch.randint(10, (300,))
    target[::7] = -100
    students = [x.requires_grad_() for x in (*irs, logits)]
    options = {"alpha": 0.3, "beta": 0.6, "tau": 4.0, "label_smoothing": 0.1, "backend": "triton"}
    loss = lit_loss(irs, teacher_irs, logits, teacher, target, **options)
    return [*loss, *torch.autograd.grad(loss.total, students)]


@pytest.mark.parametrize("programs", [1, 3, 2048])
def test_any_number_of_programs_keeps_the_accuracy_rule(
    programs: int, triton: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litfast.ops.triton import ir

    monkeypatch.setattr(ir, "PROGRAMS", programs)
    shapes = [(5 * 4096,), (2, 4096 + 41), (41,)]
    students, teachers = ([normal(*shape) for shape in shapes] for _ in range(2))
    sample = Sample(
        op="ir", name=f"{programs}", args=(students, teachers), options={"weights": (0.5, 2.0, 3.0)}
    )
    assert misses(sample, triton) == []


@pytest.mark.parametrize(
    ("rows", "classes", "masked"),
    [
        (3, 1, 0.0),
        (300, 10, 0.3),  # several programs, the last one not full
        (2, 8192, 0.0),  # the longest row that stays in registers
        (3, 8193, 0.0),  # the shortest one that is read twice
        (3, 12_288, 0.5),  # a multiple of the block
        (40_000, 2, 0.5),  # several counters
    ],
)
def test_any_cut_of_the_rows_keeps_the_accuracy_rule(
    rows: int, classes: int, masked: float, triton: str
) -> None:
    target = torch.randint(classes, (rows,))
    target[torch.rand(rows) < masked] = -100
    logits = normal(rows, classes), normal(rows, classes), target
    options = {"tau": 3.0, "alpha": 0.4, "label_smoothing": 0.1, "beta": 0.5}
    sample = Sample(
        op="lit", name=f"{rows}x{classes}", args=([S], [T], *logits), options=options | {"soft": "kl"}
    )
    assert misses(sample, triton) == []


def test_the_longest_rows_are_served(triton: str) -> None:
    student, teacher = normal(2, 200_000).requires_grad_(), normal(2, 200_000)
    target = torch.tensor([199_999, 7])
    losses = [kd_loss(student, teacher, target, tau=4.0, alpha=0.3, backend=b) for b in (triton, "reference")]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in losses))


@pytest.mark.parametrize("place", [0, 4095, 4096, 9000])
def test_a_long_row_counts_ties_and_nan_as_argmax_does(place: int, triton: str) -> None:
    row = normal(9001).clamp(max=3)
    row[place] = row[5000] = 4.0
    for logits in (row, row.index_fill(0, torch.tensor(5000), torch.nan)):
        for target in {place, 5000}:
            args = logits[None], torch.zeros(1, 9001), torch.tensor([target])
            loss = lit_loss([], [], *args, alpha=0.3, beta=0.6, tau=4.0, backend=triton)
            assert loss.correct == int(logits.argmax() == target)


@pytest.mark.parametrize("masked", [slice(0, 4096), slice(4096, 9000), slice(0, 9000)])
def test_classes_at_minus_inf_in_both_networks_give_the_hard_term_of_the_rest(
    masked: slice, triton: str
) -> None:
    student, teacher = normal(1, 9001), normal(1, 9001)
    student[:, masked] = -torch.inf
    student.requires_grad_()
    args = student, teacher, torch.tensor([9000])
    losses = [kd_loss(*args, tau=2.0, alpha=1.0, soft="ce", backend=b) for b in (triton, "reference")]
    torch.testing.assert_close(*losses, equal_nan=True)
    parts = [
        lit_loss([], [], *args, tau=2.0, alpha=1.0, beta=1.0, backend=b).hard for b in (triton, "reference")
    ]
    torch.testing.assert_close(*parts)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in losses), equal_nan=True)


def test_the_same_call_gives_the_same_bits(triton: str) -> None:
    assert all(torch.equal(a, b) for a, b in zip(everything(), everything(), strict=True))


def test_nothing_is_read_before_it_is_written_and_every_gradient_is(
    triton: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = everything()
    poisoned = []

    def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make_poisoned(*args: Any, **options: Any) -> Tensor:
            poisoned.append(make(*args, **options).fill_(torch.nan))
            return poisoned[-1]

        return make_poisoned

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))
    assert all(torch.equal(a, b) for a, b in zip(plain, everything(), strict=True))
    assert len(poisoned) == 4  # three gradients and the workspace


def test_the_op_is_two_launches_and_one_where_nothing_is_summed_up(
    triton: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.runtime.interpreter import InterpretedFunction

    grids = []
    launch = InterpretedFunction.run
    monkeypatch.setattr(
        InterpretedFunction,
        "run",
        lambda self, *a, grid, **o: (grids.append(self.__name__), launch(self, *a, grid=grid, **o)),
    )
    y = torch.tensor([0, 1, 2])
    for call, expected in (
        (lambda: lit_loss([S] * 32, [T] * 32, S, T, y, alpha=0.5, beta=0.5, tau=1.0, backend=triton), 2),
        (lambda: lit_loss([S] * 33, [T] * 33, S, T, y, alpha=0.5, beta=0.5, tau=1.0, backend=triton), 3),
        (lambda: kd_loss(S, T, y, alpha=0.5, tau=1.0, backend=triton), 2),
        (lambda: kd_loss(S, T, y, alpha=0.5, tau=1.0, reduction="none", backend=triton), 1),
        (lambda: ir_loss([S], [T], backend=triton), 2),
    ):
        grids.clear()
        call()
        assert len(grids) == expected, grids


@pytest.mark.parametrize(
    ("student", "teacher", "options", "reason"),
    [
        (S, T.clone().requires_grad_(), {}, "a teacher that requires grad"),
        (S.double(), T.double(), {}, "torch.float64 tensors (the kernels compute in float32)"),
        (S, T.double(), {}, "torch.float64 tensors (the kernels compute in float32)"),
        (S.to("meta"), T.to("meta"), {}, "tensors on meta"),
        (S, T, {"tau": torch.tensor(4.0, requires_grad=True)}, "a coefficient that requires grad"),
    ],
)
def test_what_triton_cannot_serve_is_refused_with_its_reason(
    student: Tensor, teacher: Tensor, options: dict[str, Any], reason: str, triton: str
) -> None:
    message = f"kd_loss: backend 'triton' must be able to serve the call, got {reason}; use backend=\"refe"
    with pytest.raises(ValueError, match=re.escape(message)):
        kd_loss(student, teacher, **OPTIONS | options, backend=triton)


def test_without_the_interpreter_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch, triton: str) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match=re.escape("got tensors on cpu (TRITON_INTERPRET=1 serves them")):
        ir_loss([S], [T], backend=triton)


def test_auto_never_interprets(
    triton: str, monkeypatch: pytest.MonkeyPatch, ops_called: Callable[..., list[str]]
) -> None:
    import dataclasses

    from litfast.ops import _dispatch

    absent = dataclasses.replace(_dispatch._BACKENDS["cpp"], missing=lambda: "not built")
    monkeypatch.setitem(_dispatch._BACKENDS, "cpp", absent)
    assert not any("litfast" in name for name in ops_called(lambda: ir_loss([S], [T])))
    assert ops_called(lambda: ir_loss([S], [T], backend=triton)) == ["litfast.triton_loss.default"]


def test_a_target_out_of_range_gives_nan_where_the_host_does_not_look(
    triton: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litfast.ops.triton import kd

    monkeypatch.setattr(kd, "check_target_range", lambda *_: None)
    monkeypatch.setattr(kd.tl, "device_assert", lambda *_: None)
    for bad in (5, -1, 2**40):
        target = torch.tensor([0, bad, 2])
        assert kd_loss(S, T, target, tau=4.0, alpha=0.3, backend=triton).isnan()


LOGITS = (torch.randn(3, 41), torch.randn(41, 3).t(), torch.tensor([0, -100, 40]))
IRS = (
    [torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last), torch.randn(41).half()],
    [torch.randn(2, 3, 5, 7), torch.randn(41).bfloat16()],
)
TENSORS = torch.tensor([4.0, 0.3, 0.6, 0.5], dtype=torch.float64)


KD = Call("kd_loss", [], [], *LOGITS, label_smoothing=0.1, tau=4.0, alpha=0.3, beta=1.0, needs=[True])
IR = Call("ir_loss", *IRS, None, None, None, penalty="l1", weights=[1.0, 0.5], needs=[True, True])
LIT = Call("lit_loss", *IRS, *LOGITS, weights=[1.0, 1.0], coefficients=TENSORS, needs=[True, False, True])


@pytest.mark.parametrize(
    "call",
    [
        KD._replace(reduction="none", needs=[False]),
        KD._replace(reduction="sum", coefficients=TENSORS),
        IR,
        LIT,
    ],
    ids=["kd rows", "kd tensors", "ir", "lit"],
)
def test_opcheck_is_clean(call: Call, triton: str) -> None:
    results = torch.library.opcheck(torch.ops.litfast.triton_loss.default, tuple(call))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_step_is_one_graph_with_the_same_value_and_gradient(triton: str) -> None:
    def step(weight: Tensor, x: Tensor, target: Tensor) -> Tensor:
        z = torch.relu(x @ weight)
        kd = {"tau": 3.0, "alpha": 0.3, "backend": triton}
        lit = lit_loss([z, x @ weight], [x, x], z @ weight, x, target, beta=0.4, **kd)
        return 2 * lit.total + lit.ir.sum() + ir_loss([z], [x], backend=triton) + kd_loss(z, x, target, **kd)

    weight, x, target = normal(8, 8).requires_grad_(), normal(16, 8), torch.randint(8, (16,))
    losses = [f(weight, x, target) for f in (step, torch.compile(step, fullgraph=True, backend="aot_eager"))]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, weight)[0] for loss in losses))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_backward_off_the_cpu_scales_out_of_place_until_the_graph_is_freed(
    dtype: torch.dtype, triton: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_autograd, "_readable", lambda _: False)
    students = [normal(3, 4099).to(dtype).requires_grad_(), normal(41).to(dtype).requires_grad_()]
    teachers = [normal(3, 4099), normal(41)]

    def gradients(loss: Tensor, factor: float, **options: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, students, torch.tensor(factor), **options)

    loss = ir_loss(students, teachers, scale=64.0, backend=triton)
    once, half, double, last = (
        gradients(loss, factor, retain_graph=factor != -1) for factor in (1.0, 0.5, 2.0, -1.0)
    )
    expected = torch.autograd.grad(ir_loss(students, teachers, scale=64.0, backend="reference"), students)
    for i, student in enumerate(students):
        assert once[i].dtype == student.dtype
        torch.testing.assert_close(once[i], expected[i])
        torch.testing.assert_close(half[i] * 2, once[i])
        torch.testing.assert_close(double[i], once[i] * 2)
        assert torch.equal(last[i], -once[i])


def test_backward_off_the_cpu_needs_no_memory_where_the_graph_is_freed(
    triton: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_autograd, "_readable", lambda _: False)
    student = normal(3, 41).requires_grad_()
    loss = ir_loss([student], [normal(3, 41)], backend=triton)
    (saved,) = loss.grad_fn.saved_tensors
    (kept,) = torch.autograd.grad(loss, student, retain_graph=True)
    (last,) = torch.autograd.grad(loss, student)
    assert kept.data_ptr() != saved.data_ptr() == last.data_ptr()
