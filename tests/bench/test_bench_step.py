"""benchmarks/bench_step.py: all contenders train alike, a red gate times nothing, what a row says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from litfast.engine import trial

LADDER = ["fused ops", "+ folded teacher", "+ work elimination"]
betas = pytest.mark.parametrize("beta", [0.75, 0])


class Fixture:
    """pytest-benchmark's fixture without its clock: every round of ours takes half a second."""

    def __init__(self) -> None:
        self.group = ""
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, target: Callable[[], Any], *, setup: Callable[[], None], rounds: int) -> None:
        for _ in range(rounds):
            setup()
            target()
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[0.5] * rounds, median=0.5))


@pytest.fixture(scope="module")
def bench_step(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("bench_step")


@pytest.fixture(autouse=True)
def on_cpu(bench_step: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_step, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(bench_step, "SECONDS", 1e-9)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def small(bench_step: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts and images that a test has time for."""
    models = sys.modules["step_models"]
    monkeypatch.setattr(models, "CHARACTERS", 61)
    monkeypatch.setattr(models, "PIXELS", 16)


def tiny(bench_step: ModuleType, beta: float) -> Any:
    return bench_step.Case(teacher=14, student=8, batch=4, beta=beta)


@pytest.mark.parametrize(
    ("models", "beta"),
    [
        ({"teacher": 14, "student": 8}, 0.75),
        ({"teacher": 14, "student": 8}, 0),
        ({"family": "vdcnn", "teacher": 17, "student": 9}, 0.05),
        ({"family": "vdcnn", "teacher": 17, "student": 9}, 0),
        ({"family": "stargan", "teacher": 2, "student": 1}, 0),
    ],
    ids=str,
)
def test_in_fp64_every_rung_ends_a_step_where_the_plain_loop_does(
    bench_step: ModuleType, stack: ExitStack, models: dict[str, Any], beta: float, small: None
) -> None:
    case = bench_step.Case(**models, batch=4 if len(models) == 2 else 2, beta=beta)
    start = bench_step.make(case)
    start.teacher.double(), start.student.double()
    if start.images.is_floating_point():
        start = replace(start, images=start.images.double())
    makers = bench_step.makers(start, case, stack)
    before, expected = bench_step.first_step(makers["plain"]())
    for name in LADDER if beta else LADDER[:2]:
        _, found = bench_step.first_step(makers[name]())
        assert all(map(torch.is_tensor, found[0]))
        off = [trial.deviation(*sides) for sides in zip(before, expected, found, strict=True)]
        assert max(off) <= 1e-10, f"{name}: {off}"


@betas
def test_a_measurement_has_a_row_for_everybody_and_a_reason_for_who_is_absent(
    bench_step: ModuleType, stack: ExitStack, beta: float
) -> None:
    benchmark = Fixture()
    request = SimpleNamespace(getfixturevalue=lambda name: benchmark)
    bench_step.measure(request, tiny(bench_step, beta), stack)
    names = ["plain", *(LADDER if beta else LADDER[:2])]
    info, rows = benchmark.extra_info, benchmark.extra_info["against"]
    assert benchmark.group == f"ResNet-14 -> 8 B=4 beta {beta} fp32"
    assert [row["contender"] for row in rows] + [info["contender"]] == names
    assert info["samples_per_s"] == 8
    for row in rows:
        assert {"median_ms", "speedup", "p10", "p90", "tie", "rounds"} <= set(row)
        assert row["samples_per_s"] == pytest.approx(4000 / row["median_ms"])
        assert row["rounds"] == 5
    assert all(row["peak_bytes"] > 0 for row in [*rows, info])
    everybody = {*bench_step.makers(bench_step.make(tiny(bench_step, beta)), tiny(bench_step, beta), stack)}
    assert set(info["absent"]) == everybody - set(names)
    assert info["absent"]["+ graph"] == "needs a CUDA device"


def test_no_rung_below_elimination_leaves_anything_out(bench_step: ModuleType, stack: ExitStack) -> None:
    """The first section runs on both paths, or once for both."""
    case = tiny(bench_step, 0.75)
    start, counts = bench_step.make(case), {}
    for name in ("plain", *LADDER):
        contender = bench_step.makers(start, case, stack)[name]()
        contender.run()
        calls: list[nn.Module] = []
        contender.student.layer1.register_forward_hook(lambda module, *_, calls=calls: calls.append(module))
        contender.run()
        counts[name] = len(calls)
    assert counts == {"plain": 2, "fused ops": 2, "+ folded teacher": 2, "+ work elimination": 1}


@pytest.mark.parametrize("what", ["parameters", "statistics", "loss"])
def test_a_contender_that_trains_otherwise_turns_the_case_red(
    bench_step: ModuleType, stack: ExitStack, what: str
) -> None:
    case = tiny(bench_step, 0.75)
    start = bench_step.make(case)

    def wrong() -> Any:
        right = bench_step.plain(start, case)

        def run() -> torch.Tensor:
            loss = right.run()
            with torch.no_grad():
                if what == "parameters":
                    right.student.layer1[0].conv1.weight.mul_(1.1)
                if what == "statistics":
                    right.student.layer3[0].bn2.running_var.mul_(1.1)
            return 1.1 * loss if what == "loss" else loss

        return replace(right, run=run)

    with pytest.raises(AssertionError, match=f"wrong: {what} after a step must be those of plain"):
        bench_step.present({"plain": lambda: bench_step.plain(start, case), "wrong": wrong}, case)


def test_a_red_gate_times_nothing(
    bench_step: ModuleType, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_step.trial, "deviation", lambda *sides: float("nan"))
    with pytest.raises(AssertionError, match="got nan"):
        bench_step.measure(None, tiny(bench_step, 0.75), stack)  # the fixture is not even asked for


def test_a_contender_that_cannot_run_is_absent_with_its_reason(
    bench_step: ModuleType, stack: ExitStack
) -> None:
    case = tiny(bench_step, 0)
    start = bench_step.make(case)

    def refused() -> Any:
        raise RuntimeError("No working C++ compiler found")

    found = {"plain": lambda: bench_step.plain(start, case), "plain compile": refused}
    runs, absent = bench_step.present(found, case)
    assert (list(runs), absent) == (["plain"], {"plain compile": "No working C++ compiler found"})


def test_a_case_that_is_not_measured_here_has_its_reason(
    bench_step: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_step, "fast_bf16", lambda device: False)
    here = [case for case in bench_step.cases() if bench_step.not_here(case) is None]
    assert sorted(case.size for case in here) == sorted(bench_step.ON_CPU)
    assert {case.precision for case in here} == {"fp32"}
    assert len({str(case) for case in bench_step.cases()}) == len([*bench_step.cases()])
    texts = bench_step.Case(family="vdcnn", teacher=29, student=9, batch=128, beta=0)
    assert bench_step.not_here(texts) == "half a minute a step on a CPU: no bf16 units on this machine"
    large = bench_step.Case(teacher=110, student=20, batch=1024, beta=0)
    with pytest.raises(pytest.skip.Exception, match="on a GPU only"):
        bench_step.test_step(None, large)
    with pytest.raises(pytest.skip.Exception, match="no bf16 units"):
        bench_step.test_step(None, replace(large, precision="bf16"))
