"""benchmarks/bench_ops.py: who is timed when, what a row says, and that a red gate times nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

OPS = {
    "ir": {"sections": ((2, 3, 4, 4), (2, 5, 2, 2))},
    "kd": {"logits": (6, 5)},
    "lit": {"sections": ((2, 3, 4, 4),), "logits": (2, 5)},
    "channel_l1": {"sections": ((3,), (5,))},
}
every_op = pytest.mark.parametrize("op", OPS)


@pytest.fixture(scope="module")
def bench_ops(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("bench_ops")


def tiny(bench_ops: ModuleType, op: str, dtype: torch.dtype = torch.float32) -> Any:
    return bench_ops.Case(op=op, what="tiny", dtype=dtype, **OPS[op])


def test_a_red_gate_times_nothing(bench_ops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_ops.testing, "misses", lambda sample, backend: [f"{sample} errs by 1"])
    with pytest.raises(AssertionError, match="kd tiny float32 errs by 1"):
        bench_ops.measure(None, tiny(bench_ops, "kd"), "cpp")  # the fixture is not even asked for


def test_a_sample_too_large_is_skipped_with_its_reason(
    bench_ops: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_ops.ops, "backends", lambda: [("cpp", None)])
    monkeypatch.setattr(bench_ops, "DEVICE", torch.device("cpu"))
    large = bench_ops.Case(op="kd", what="large", dtype=torch.float32, logits=(4096, 32_000))
    with pytest.raises(pytest.skip.Exception, match="on a GPU only"):
        bench_ops.test_op(None, large, "cpp")
    gpu = SimpleNamespace(total_memory=8 * 2**30)
    monkeypatch.setattr(bench_ops, "DEVICE", torch.device("cuda"))
    monkeypatch.setattr(bench_ops.torch.cuda, "get_device_properties", lambda device: gpu)
    with pytest.raises(pytest.skip.Exception, match="the gate needs 12 GiB of memory, got 8"):
        bench_ops.test_op(None, large, "cpp")
    assert bench_ops.too_large(tiny(bench_ops, "kd")) is None


@every_op
def test_the_triad_adds_every_student_to_its_teacher(bench_ops: ModuleType, op: str) -> None:
    case = tiny(bench_ops, op)
    sample = bench_ops.make(case)
    added = bench_ops.contenders(sample)["triad"]()()
    assert [tuple(tensor.shape) for tensor in added] == list(case.shapes)
    for tensor, (student, teacher) in zip(added, bench_ops.pairs(sample), strict=True):
        assert torch.equal(tensor, student + teacher)
    assert str(sample) == str(case)


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_contenders_compute_what_the_op_computes(
    bench_ops: ModuleType, op: str, dtype: torch.dtype
) -> None:
    case = tiny(bench_ops, op, dtype)
    sample = bench_ops.make(case)
    makers = bench_ops.contenders(sample)
    makers.pop("compile")  # seconds; held to the same gate when it is timed
    makers.pop("liger", None)
    runs, absent = bench_ops.present(makers, bench_ops.litfast_op(sample, "reference"), dtype)
    assert absent == {}
    assert set(runs) == {"eager", "triad"} | ({"eager pow"} if op == "ir" else set())


def test_another_loss_is_no_contender(bench_ops: ModuleType) -> None:
    ours = [torch.ones(3)]
    with pytest.raises(AssertionError, match=r"twice: gradients must lie within .* got 1"):
        bench_ops.present({"twice": lambda: lambda: [2 * ours[0]]}, lambda: ours, torch.float32)


def test_a_contender_that_cannot_run_is_absent_with_its_reason(bench_ops: ModuleType) -> None:
    def missing() -> Any:
        raise ImportError("No module named 'liger_kernel'")

    runs, absent = bench_ops.present({"liger": missing}, lambda: [torch.ones(3)], torch.float32)
    assert (runs, absent) == ({}, {"liger": "No module named 'liger_kernel'"})
