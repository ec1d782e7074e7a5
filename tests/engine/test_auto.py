"""What "auto" takes, with steps whose time is written down beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from litfast.data.resident import ResidentLoader
from litfast.engine import auto, modes
from litfast.engine.auto import Choice, choose, ways
from litfast.engine.step import Step
from litfast.phase import Phase

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_cpu_chooses_between_eager_and_compile_and_cuda_among_all() -> None:
    assert ways("auto", "auto", CPU) == [("eager", "serial"), ("compile", "serial")]
    assert ways("auto", "auto", CUDA) == [
        ("eager", "serial"),
        ("compile", "serial"),
        ("graph", "serial"),
        ("graph", "parallel"),
        ("compile-graph", "serial"),
        ("compile-graph", "parallel"),
    ]


@pytest.mark.parametrize(
    ("mode", "branches", "device", "left"),
    [
        ("eager", "auto", CPU, [("eager", "serial")]),
        ("graph", "auto", CUDA, [("graph", "serial"), ("graph", "parallel")]),
        (
            "auto",
            "serial",
            CUDA,
            [(mode, "serial") for mode in modes.MODES],
        ),
        ("eager", "parallel", CUDA, [("eager", "parallel")]),
        ("graph", "parallel", CPU, [("graph", "parallel")]),
    ],
)
def test_a_name_that_was_given_stays(
    mode: str, branches: str, device: torch.device, left: list[auto.Way]
) -> None:
    assert ways(mode, branches, device) == left


@pytest.fixture
def chosen(
    monkeypatch: pytest.MonkeyPatch, phase: Callable[..., Phase], data: ResidentLoader
) -> Callable[..., tuple[Choice, list[str]]]:
    """chosen(eager=1.0, compile=0.5): the choice for 400 steps of so many seconds, and what was tried."""

    def run(*, fails: str = "", epochs: int = 100, **cost: float) -> tuple[Choice, list[str]]:
        clock, tried = [0.0], []

        def make(phase: Phase, device: Any, *, mode: str, branches: str, **options: Any) -> Any:
            step = Step(phase, device=CPU, precision="fp32")
            name = mode if branches == "serial" else f"{mode}_{branches}"
            tried.append(name)

            def runner(batch: Any, **_: Any) -> dict[str, Any]:
                clock[0] += cost[name]
                if name == fails and not step.notes:
                    step.notes.append("does not work here")
                return {}

            return step, runner

        def walk() -> Iterator[Phase]:
            yield phase(nn.Linear(1, 1), epochs=epochs)
            yield phase(nn.Linear(1, 1), epochs=0)

        monkeypatch.setattr(auto.modes, "make", make)
        monkeypatch.setattr(auto.time, "perf_counter", lambda: clock[0])
        names = [tuple(f"{name}_serial".split("_")[:2]) for name in cost]
        found = choose(walk, data, device=CPU, candidates=names, options={})
        return found, tried

    return run


def test_the_fastest_is_taken_and_said(chosen: Any) -> None:
    found, tried = chosen(eager=1.0, compile=0.5, graph=0.25, graph_parallel=0.2)
    assert (found.mode, found.branches) == ("graph", "parallel")
    assert found.said == (
        "auto: graph with parallel branches (all steps of the run: eager 400 s, compile 200 s, graph 100 s, "
        "graph with parallel branches 80 s)"
    )
    assert tried == ["eager", "eager", "compile", "graph", "graph_parallel"]


def test_a_short_run_tries_nothing_that_it_cannot_repay(chosen: Any) -> None:
    found, tried = chosen(eager=0.1, compile=0.01)  # 40 s of training, 60 s to compile
    assert (found.mode, tried) == ("eager", ["eager"])
    assert found.said == "auto: eager (all steps of the run: eager 40 s; too short a run to try compile)"


def test_a_gain_within_the_noise_is_none(chosen: Any) -> None:
    assert chosen(eager=1.0, compile=0.98)[0].mode == "eager"
    assert chosen(eager=1.0, compile=0.9)[0].mode == "compile"


def test_what_falls_back_to_eager_is_not_taken(chosen: Any) -> None:
    found, _ = chosen(eager=1.0, compile=0.1, fails="compile")
    assert found.mode == "eager" and found.seconds == {"eager": 400.0}


def test_one_way_needs_no_measurement(chosen: Any) -> None:
    found, tried = chosen(compile=1.0)
    assert (found, tried) == (Choice(mode="compile", branches="serial", seconds={}, said=""), [])


def test_measuring_draws_no_random_numbers(phase: Callable[..., Phase], data: ResidentLoader) -> None:
    def walk() -> Iterator[Phase]:
        torch.rand(3)
        yield phase(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 4)))

    before = torch.get_rng_state()
    choose(walk, data, device=CPU, candidates=ways("auto", "auto", CPU), options={"precision": "fp32"})
    assert torch.equal(torch.get_rng_state(), before)
