from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import litfast
from litfast.data.resident import ResidentLoader
from litfast.engine import modes
from litfast.engine.compiled import CompiledStep
from litfast.engine.graph import GraphStep
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.phase import Phase

from .tape import TapeCapture

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "warp"}, "train: mode must be one of eager, compile, graph, compile-graph, got 'warp'"),
        ({"branches": "both"}, "train: branches must be one of serial, parallel, got 'both'"),
        ({"mode": "graph"}, "train: mode graph must have a CUDA device, got cpu"),
        ({"mode": "compile-graph"}, "train: mode compile-graph must have a CUDA device, got cpu"),
        ({"branches": "parallel"}, "train: branches parallel must have a CUDA device, got cpu"),
    ],
)
def test_what_a_device_cannot_do_is_refused_by_name(
    options: dict[str, str], message: str, toy: nn.Module, phase: Callable[..., Phase], data: ResidentLoader
) -> None:
    with pytest.raises(ValueError, match=message):
        list(litfast.train([phase(toy)], data, **options))


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[TapeCapture]:
    """Mode graph on the CPU, on tapes."""
    made: list[TapeCapture] = []

    def capture(device: torch.device) -> TapeCapture:
        made.append(TapeCapture())
        return made[-1]

    monkeypatch.setattr(modes, "CudaCapture", capture)
    monkeypatch.setattr(modes, "check", lambda *_: None)
    return made


def journal(out: Path) -> list[str]:
    rows = (out / "metrics.jsonl").read_text().splitlines()
    return [row.partition('"samples_per_s"')[0] for row in rows]


@pytest.mark.parametrize("options", [{"beta": 0.0, "noise": 0.1}, {"beta": 0.5}], ids=["apart", "joint"])
def test_a_run_of_lit_in_mode_graph_is_the_eager_run(
    options: dict[str, Any],
    taped: list[TapeCapture],
    lit: Any,
    data: ResidentLoader,
    val: ResidentLoader,
    tmp_path: Path,
) -> None:
    graph, eager = lit(**options), lit(**options)
    said = list(litfast.train(graph.phases, data, val, out=tmp_path / "graph", mode="graph", log_every=3))
    list(litfast.train(eager.phases, data, val, out=tmp_path / "eager", log_every=3))
    assert [note for report in said for note in report.notes] == []
    assert [(tape.records, tape.replays) for tape in taped] == [(1, 2 + 7)] * 2
    for name, value in eager.state().items():  # the learning rate is fp32 in a graph
        torch.testing.assert_close(graph.state()[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert len(journal(tmp_path / "graph")) == len(journal(tmp_path / "eager")) == 4


@pytest.mark.parametrize("stop", [1, 3, 6, 9])
def test_a_run_in_mode_graph_resumes_to_the_bit(
    stop: int, taped: list[TapeCapture], lit: Any, data: ResidentLoader, tmp_path: Path
) -> None:
    def train(run: Any, name: str, **options: Any) -> Any:
        return litfast.train(run.phases, data, out=tmp_path / name, mode="graph", ema=0.9, **options)

    whole, last = (lit(beta=0.0, noise=0.1) for _ in range(2))
    list(train(whole, "whole"))
    reports = train(lit(beta=0.0, noise=0.1), "parts")
    for _ in range(stop):
        next(reports)
    reports.close()
    list(train(last, "parts", resume=True))
    assert all(torch.equal(value, last.state()[name]) for name, value in whole.state().items())
    assert journal(tmp_path / "parts") == journal(tmp_path / "whole")


def test_a_note_of_the_engine_comes_with_the_next_report(
    taped: list[TapeCapture], toy: nn.Module, phase: Callable[..., Phase], data: ResidentLoader
) -> None:
    def loss(batch: Any) -> dict[str, torch.Tensor]:
        value = toy(batch.images).square().mean()
        return {"loss": value * max(value.item(), 1.0)}

    reports = list(litfast.train([phase(toy, loss=loss, epochs=1)], data, mode="graph"))
    assert [len(report.notes) for report in reports] == [0, 1, 0, 0, 0, 0]
    assert reports[1].notes[0].startswith("play: the step is not captured: operation not permitted")


def compiled(
    phase: Phase, data: ResidentLoader, compiler: Callable[[Any], Any]
) -> tuple[Step, list[dict[str, torch.Tensor]]]:
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU)
        runner = CompiledStep(step, step, compiler)
        torch.manual_seed(3)
        said = [runner(batch, step=at, progress=at / 4) for at, batch in enumerate(data.batches(0))]
    return step, said


def test_compiled_functions_stand_for_the_phases_own(lit: Any, data: ResidentLoader) -> None:
    calls: list[str] = []

    def compiler(function: Any) -> Any:
        def around(seen: Any) -> Any:
            calls.append(function.__name__)
            return function(seen)

        return around

    ours, plain = lit(beta=0.0, noise=0.1), lit(beta=0.0, noise=0.1)
    step, said = compiled(next(ours.phases), data, compiler)
    _, expected = compiled(next(plain.phases), data, lambda function: function)
    assert step.notes == [] and said == expected
    assert calls[0] == "neg"  # the probe
    assert calls.count("observe") == 2 + 4 and len(calls) == 1 + (2 + 4) * 4  # tried twice, then every step
    assert all(torch.equal(value, plain.state()[name]) for name, value in ours.state().items())


def test_a_compiler_that_fails_leaves_it_to_eager_with_one_line(lit: Any, data: ResidentLoader) -> None:
    def compiler(function: Any) -> Any:
        def around(seen: Any) -> Any:
            function(seen)
            raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: no g++\n\nset TORCHDYNAMO")

        return around

    ours, plain = lit(beta=0.0, noise=0.1), lit(beta=0.0, noise=0.1)
    step, said = compiled(next(ours.phases), data, compiler)
    _, expected = compiled(next(plain.phases), data, lambda function: function)
    assert step.notes == [
        "sections: the step is not compiled: InvalidCxxCompiler: no g++",
    ]
    assert said == expected
    assert all(torch.equal(value, plain.state()[name]) for name, value in ours.state().items())


def test_a_missing_compiler_shows_before_the_step_is_traced(lit: Any, data: ResidentLoader) -> None:
    calls: list[str] = []

    def compiler(function: Any) -> Any:
        def around(*args: Any) -> Any:
            calls.append(function.__name__)
            raise RuntimeError("no compiler")

        return around

    step, _ = compiled(next(lit(beta=0.0).phases), data, compiler)
    assert calls == ["neg"] and step.notes == ["sections: the step is not compiled: no compiler"]


@pytest.mark.parametrize("refuses", [False, True], ids=["compiled", "not compiled"])
def test_a_compiled_step_is_captured(lit: Any, data: ResidentLoader, refuses: bool) -> None:
    def compiler(function: Any) -> Any:
        def around(*args: Any) -> Any:
            if refuses:
                raise RuntimeError("no compiler")
            return function(*args)

        return around

    ours, plain, capture = lit(beta=0.0, noise=0.1), lit(beta=0.0, noise=0.1), TapeCapture()
    phase = next(ours.phases)
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU, captured=True)
        runner = CompiledStep(step, GraphStep(step, capture, rows=1), compiler)
        torch.manual_seed(3)
        for at, batch in enumerate(data.batches(0)):
            runner(batch, step=at, progress=at / 4)
    compiled(next(plain.phases), data, lambda function: function)
    assert step.notes == (["sections: the step is not compiled: no compiler"] if refuses else [])
    assert capture.records == 1 and capture.replays > 2
    for name, value in ours.state().items():
        torch.testing.assert_close(value, plain.state()[name], msg=name)


@pytest.mark.slow
def test_torch_compile_trains_lit_like_eager(lit: Any, data: ResidentLoader) -> None:
    options = {"beta": 0.0, "train_sections": ["layer3"]}
    ours, plain = lit(**options), lit(**options)
    reports = list(litfast.train([next(ours.phases)], data, mode="compile"))
    list(litfast.train([next(plain.phases)], data))
    assert [note for report in reports for note in report.notes] == []
    for name, value in plain.state().items():
        torch.testing.assert_close(ours.state()[name], value, rtol=1e-3, atol=1e-4, msg=name)
