"""A named backend is served or refused with its reason; "auto" takes the first that can."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from litfast.ops import _dispatch, backends, ir_loss, kd_loss, lit_loss

S, T = torch.randn(3, 5), torch.randn(3, 5)
OPTIONS: dict[str, Any] = {"tau": 4.0, "alpha": 0.0}


def test_backends_lists_the_reference_last_and_always_there() -> None:
    assert backends()[-1] == ("reference", None)
    assert backends()[0][0] == "cpp"


def test_auto_takes_the_fused_backend_that_can_serve(cpp: str, ops_called: Callable[..., list[str]]) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: kd_loss(S, T, **OPTIONS),
        lambda: ir_loss([S], [T]),
        lambda: lit_loss([S], [T], S, T, beta=0.5, **OPTIONS),
    ]
    for call in calls:
        assert [name for name in ops_called(call) if "litfast" in name] == ["litfast.loss.default"]


@pytest.mark.parametrize(
    ("student", "teacher", "options", "reason"),
    [
        (S, T.clone().requires_grad_(), {}, "a teacher that requires grad"),
        (S, T.double(), {}, "a torch.float32 student with a torch.float64 teacher"),
        (S.double(), T.half(), {}, "a torch.float64 student with a torch.float16 teacher"),
        (S.to("meta"), T.to("meta"), {}, "tensors on meta"),
        (S, T, {"tau": torch.tensor(4.0, requires_grad=True)}, "a coefficient that requires grad"),
    ],
)
def test_what_cpp_cannot_serve_is_refused_by_name_and_served_by_the_reference(
    student: torch.Tensor, teacher: torch.Tensor, options: dict[str, Any], reason: str, cpp: str
) -> None:
    message = (
        f"kd_loss: backend 'cpp' must be able to serve the call, got {reason}; use backend=\"reference\""
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        kd_loss(student, teacher, **OPTIONS | options, backend="cpp")
    assert kd_loss(student, teacher, **OPTIONS | options).shape == ()


def test_a_teacher_that_requires_grad_is_served_where_no_gradient_is_recorded(cpp: str) -> None:
    teacher = T.clone().requires_grad_()
    with torch.no_grad():
        fused = kd_loss(S, teacher, **OPTIONS, backend="cpp")
        torch.testing.assert_close(fused, kd_loss(S, T, **OPTIONS, backend="reference"))


def test_a_backend_that_is_not_built_is_refused_by_name_and_passed_over_by_auto(
    monkeypatch: pytest.MonkeyPatch, ops_called: Callable[..., list[str]]
) -> None:
    absent = dataclasses.replace(_dispatch._BACKENDS["cpp"], missing=lambda: "no litfast._C (no such file)")
    monkeypatch.setitem(_dispatch._BACKENDS, "cpp", absent)
    with pytest.raises(
        RuntimeError, match=r"ir_loss: backend 'cpp' must be installed, got no litfast._C \(no such"
    ):
        ir_loss([S], [T], backend="cpp")
    assert not any("litfast" in name for name in ops_called(lambda: ir_loss([S], [T])))
    assert backends()[0] == ("cpp", "no litfast._C (no such file)")


def test_an_unknown_backend_names_the_nearest() -> None:
    known = ", ".join(sorted(["auto", *(name for name, _ in backends())]))
    message = f"ir_loss: backend must be one of {known}, got 'cp'; did you mean 'cpp'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        ir_loss([S], [T], backend="cp")
