"""benchmarks/bench_ops.py: who is timed when, what a row says, and that a red gate times nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

OPS = {
    "ir": {"sections": ((2, 3, 4, 4), (2, 5, 2, 2))},
    "kd": {"logits": (6, 5)},
    "lit": {"sections": ((2, 3, 4, 4),), "logits": (2, 5)},
}
every_op = pytest.mark.parametrize("op", OPS)


class Fixture:
    """pytest-benchmark's fixture without its clock: as many rounds as asked for, each takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(self, target: Callable[[], Any], *, setup: Callable[[], None], rounds: int) -> None:
        for _ in range(rounds):
            setup()
            target()
            self.stats.stats.data.append(self.seconds)


@pytest.fixture(scope="module")
def bench_ops(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("bench_ops")


def tiny(bench_ops: ModuleType, op: str, dtype: torch.dtype = torch.float32) -> Any:
    return bench_ops.Case(op=op, what="tiny", dtype=dtype, **OPS[op])


def test_everybody_is_timed_once_a_round_and_the_others_take_turns(bench_ops: ModuleType) -> None:
    calls: list[str] = []

    def run(name: str) -> Callable[[], Sequence[Tensor]]:
        return lambda: calls.append(name) or []  # type: ignore[func-returns-value]

    others = {name: run(name) for name in "abc"}
    rows = bench_ops.interleave(Fixture(1.0), run("ours"), others, seconds=1e-9)
    timed = calls[-4 * bench_ops.MIN_ROUNDS :]
    rounds = [tuple(timed[start : start + 4]) for start in range(0, len(timed), 4)]
    turns = [("a", "b", "c", "ours"), ("b", "c", "a", "ours"), ("c", "a", "b", "ours")]
    assert rounds == [*turns, *turns[:2]]
    assert [row["contender"] for row in rows] == ["a", "b", "c"]


def test_a_row_holds_the_ratio_within_the_rounds(
    bench_ops: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"slow": iter([2.0] * 20), "near": iter([0.4, 0.6] * 10), "ours": iter([0.5] * 20)}
    monkeypatch.setattr(bench_ops, "timed", lambda run: next(seconds[run()[0]]))
    others = {name: lambda name=name: [name] for name in ("slow", "near")}
    slow, near = bench_ops.interleave(Fixture(0.5), lambda: ["ours"], others, seconds=21)
    assert slow == {
        "contender": "slow",
        "rounds": 7,  # of 3 seconds each in 21
        **{"median_ms": 2000, "q1_ms": 2000, "q3_ms": 2000},
        **{"speedup": 4, "p10": 4, "p90": 4, "tie": False},
    }
    assert near["tie"] is True


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
