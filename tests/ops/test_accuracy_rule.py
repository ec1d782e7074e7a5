"""The accuracy rule finds a backend that is wrong, and the samples hold what their names promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from litfast import testing
from litfast.ops import ir_loss
from litfast.testing import FUNCTIONS, Sample, misses, samples


@pytest.mark.parametrize("op", FUNCTIONS)
def test_names_are_unique_and_samples_reproducible(op: str) -> None:
    first, second = samples(op), samples(op)
    assert len({sample.name for sample in first}) == len(first)
    for a, b in zip(_floats(first[0]), _floats(second[0]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda student, teacher: ir_loss([student * 1.00001], [teacher]), ["losses[0]", "gradients[0]"]),
        (lambda student, teacher: ir_loss([student], [teacher]).double(), ["losses[0]"]),
        (
            lambda student, teacher: ir_loss([student], [teacher]) + (student * torch.nan).sum(),
            ["losses[0]", "grad"],
        ),
        (
            lambda student, teacher: ir_loss([student], [teacher]).detach() + 0 * student.sum(),
            ["gradients[0]"],
        ),
    ],
    ids=["imprecise", "another dtype", "NaN", "no gradient"],
)
def test_a_wrong_backend_is_found(wrong: Any, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def function(students: list[Tensor], teachers: list[Tensor], *, backend: str) -> Tensor:
        return (
            wrong(students[0], teachers[0])
            if backend == "wrong"
            else ir_loss(students, teachers, backend=backend)
        )

    monkeypatch.setitem(testing.FUNCTIONS, "ir", function)
    sample = Sample(op="ir", name="x", args=([torch.randn(7, 41)], [torch.randn(7, 41)]), options={})
    lines = misses(sample, "wrong")
    assert len(lines) == len(found)
    assert all(
        part in line and line.startswith("ir x on wrong: ") for part, line in zip(found, lines, strict=True)
    )


def _floats(sample: Sample) -> list[Tensor]:
    args = [arg if isinstance(arg, list) else [arg] for arg in sample.args]
    return [tensor for arg in args for tensor in arg]
