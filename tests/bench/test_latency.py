"""Interleaving, the gate, reasons instead of silence, and models that are left alone."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.bench import lane as lanes
from litfast.bench import latency, measure, modes
from litfast.models import Input

from .conftest import Spy, convnet

INPUT = Input((3, 5, 5))
# torch.compile imports what torch itself calls deprecated
COMPILES = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
QUICK: dict[str, Any] = {
    "input": INPUT,
    "batches": (2,),
    "modes": ("eager",),
    "precisions": ("fp32",),
    "seconds": 0.01,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "BLOCK_S", 1e-9)  # one call a timing
    monkeypatch.setattr(latency, "MIN_ROUNDS", 3)
    monkeypatch.setattr(latency, "MAX_ROUNDS", 3)


def test_contenders_take_turns_in_every_round(contenders: dict[str, nn.Module], calls: list[str]) -> None:
    measure(contenders, **QUICK)
    assert calls[-6:] == ["a", "b", "a", "b", "a", "b"]


def test_blocks_of_short_calls_take_turns(
    contenders: dict[str, nn.Module], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(lanes, "perf_counter", lambda: next(ticks) / 512)
    monkeypatch.setattr(lanes, "BLOCK_S", 5 / 512)
    rows = measure(contenders, **QUICK)
    turns = [name for name, _ in groupby(calls)]
    assert turns[-6:] == ["a", "b", "a", "b", "a", "b"]
    assert [(row.rounds, row.calls) for row in rows] == [(3, 15)] * 2  # 5 calls fill a block


def test_every_cell_gets_its_row_in_order() -> None:
    model = convnet(4)
    rows = measure(
        {"a": model, "b": model},
        input=INPUT,
        batches=(1, 3),
        modes=("eager",),
        precisions=("fp32", "bf16"),
        seconds=0.01,
    )
    assert [(row.batch, row.precision, row.contender) for row in rows] == [
        (batch, precision, name) for batch in (1, 3) for precision in ("fp32", "bf16") for name in ("a", "b")
    ]
    for row in rows:
        assert row.reason is None and row.gate is True
        assert 0 < row.p50_ms <= row.p90_ms <= row.p95_ms <= row.p99_ms
        assert row.gpu_p50_ms is None and row.host_p50_ms == row.p50_ms
        assert row.peak_memory_bytes > 0
        assert row.samples_per_s == pytest.approx(1000 * row.batch / row.p50_ms)
        assert len(row.round_ms) == row.rounds == 3
        assert json.loads(json.dumps(row.json(), allow_nan=False)) == row.json()
    assert all(row.error > 0 for row in rows if row.precision == "bf16")


def test_times_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(lanes, "perf_counter", lambda: 0.25 * next(ticks))
    (row,) = measure({"a": convnet(4)}, **QUICK)
    assert (row.p50_ms, row.p99_ms, row.mean_ms, row.std_ms) == (250, 250, 250, 0)
    assert row.samples_per_s == 8


def test_wrong_outputs_are_not_timed_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_a_tenth(model: nn.Module, *_: object) -> modes.Runner:
        return lambda images: 1.1 * model(images)

    monkeypatch.setitem(modes.MODES, "wrong", off_by_a_tenth)
    (row,) = measure({"a": convnet(4)}, **QUICK | {"modes": ("wrong",)})
    assert row.gate is False
    assert row.error == pytest.approx(0.1, rel=1e-3)
    assert row.p50_ms is None and row.samples_per_s is None and row.calls == 0
    assert (
        row.reason == "outputs differ from its eager fp32 outputs by 0.1 of the largest one, more than 0.001"
    )


def test_a_nan_fails_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(modes.MODES, "nan", lambda model, *_: lambda images: model(images) * math.nan)
    (row,) = measure({"a": convnet(4)}, **QUICK | {"modes": ("nan",)})
    assert row.gate is False and row.reason is not None
    assert row.reason.startswith("outputs, or its eager fp32 ones, are not finite")
    assert row.json()["error"] is None  # JSON has no infinity


def test_a_mode_that_cannot_run_here_becomes_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(model: nn.Module, *_: object) -> modes.Runner:
        def run(images: Tensor) -> Tensor:
            raise RuntimeError("No working compiler in /opt/secret/bin/g++\nset CXX")

        return run

    monkeypatch.setitem(modes.MODES, "absent", no_compiler)
    rows = measure({"a": convnet(4)}, **QUICK | {"modes": ("absent", "eager")})
    assert rows[0].gate is None
    assert rows[0].reason == "No working compiler in g++"
    assert rows[1].p50_ms > 0


def test_a_failing_contender_leaves_the_other_one_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_narrow(model: nn.Module, *_: object) -> modes.Runner:
        if model[0].out_channels > 4:
            raise NotImplementedError("too wide")
        return model

    monkeypatch.setitem(modes.MODES, "narrow", only_narrow)
    wide, narrow = measure({"wide": convnet(8), "narrow": convnet(4)}, **QUICK | {"modes": ("narrow",)})
    assert wide.reason == "too wide"
    assert narrow.p50_ms > 0


def test_a_batch_that_does_not_fit_becomes_a_reason() -> None:
    class Greedy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 TiB")

    (row,) = measure({"a": Greedy()}, **QUICK)
    assert row.reason.startswith("CUDA out of memory")
    assert (row.batch, row.asked) == (1, 2)


def test_models_are_left_as_they_were() -> None:
    model = convnet(4).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    measure({"a": model}, **QUICK | {"precisions": ("bf16",), "threads": 1})
    assert model.training and torch.get_num_threads() == threads
    assert model[0].weight.is_contiguous()
    after = model.state_dict()
    assert all(
        after[key].dtype == value.dtype and torch.equal(after[key], value) for key, value in before.items()
    )


def test_models_run_in_eval_and_inference_mode_channels_last_in_their_precision() -> None:
    seen: list[tuple[Any, ...]] = []

    class Witness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            layout = images.is_contiguous(memory_format=torch.channels_last)
            seen.append((self.training, torch.is_inference_mode_enabled(), layout, images.dtype))
            return images.mean((2, 3))

    measure({"a": Witness()}, **QUICK | {"precisions": ("bf16",)})
    assert seen[-1] == (False, True, True, torch.bfloat16)
    assert {entry[:2] for entry in seen} == {(False, True)}


def test_threads_and_progress_are_obeyed(contenders: dict[str, nn.Module]) -> None:
    threads: list[int] = []
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        threads.append(torch.get_num_threads())

    measure(contenders, **QUICK | {"threads": 1, "batches": (1, 2), "progress": note})
    assert lines == ["eager fp32 batch 1", "eager fp32 batch 2"]
    assert threads == [1, 1]


@pytest.mark.slow
@COMPILES
def test_compiled_outputs_pass_the_gate_and_are_timed() -> None:
    rows = measure({"a": convnet(4), "b": convnet(8)}, **QUICK | {"modes": ("compile",)})
    for row in rows:
        assert row.gate, row.reason
        assert row.p50_ms > 0 and row.error <= row.tolerance


@COMPILES
def test_more_compilations_than_torch_keeps_are_still_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch stops after 8 compilations of one function; each batch size is one
    traced = partial(torch.compile, dynamic=False, fullgraph=True, backend="eager")
    monkeypatch.setitem(modes.MODES, "compile", lambda model, *_: traced(model))
    cells = {"modes": ("compile",), "batches": tuple(range(1, 11))}
    assert [row.reason for row in measure({"a": convnet(4)}, **QUICK | cells)] == [None] * 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": Input(())}, r"measure: input\.shape must be sizes from 1, got \[\]"),
        ({"input": Input((3, 0, 5))}, r"measure: input\.shape must be sizes from 1, got \[3, 0, 5\]"),
        ({"batches": ()}, r"measure: batches must be a list of at least one, got \(\)"),
        ({"batches": (0,)}, r"measure: batches must be 1 or more, got \[0\]"),
        ({"batches": (1, 2, 1)}, "measure: batches must differ, got 1, 2, 1"),
        ({"batches": (10**15,)}, r"measure: batches must fit into memory, got 10{15}: .*"),
        ({"batches": (10**20,)}, r"measure: batches must fit into memory, got 10{20}: .*"),
        ({"modes": "eager"}, "measure: modes must be a list of at least one, got 'eager'"),
        ({"modes": ("eagr",)}, "mode must be one of .*, got 'eagr'; did you mean 'eager'?"),
        ({"precisions": ("fp8",)}, "precision must be one of bf16, fp32, got 'fp8'"),
        ({"seconds": 0}, "measure: seconds must be positive and finite, got 0"),
        ({"seconds": math.nan}, "measure: seconds must be positive and finite, got nan"),
        ({"threads": 0}, "measure: threads must be 1 or more, got 0"),
        ({"clients": (1, 0)}, r"measure: clients must be 1 or more, got \[1, 0\]"),
        ({"device": "meta"}, "measure: device must be cpu or cuda, got meta"),
        ({"input": Input((1, 5, 5))}, r"measure: a must take samples \[2, 1, 5, 5\], got: .*"),
    ],
)
def test_a_bad_argument_gets_one_clear_line(
    contenders: dict[str, nn.Module], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        measure(contenders, **QUICK | change)
    assert "\n" not in str(caught.value)


def test_contenders_must_be_models_that_return_a_tensor(calls: list[str]) -> None:
    class Pair(Spy):
        def forward(self, images: Tensor) -> Any:
            return images, images

        def __deepcopy__(self, memo: dict[int, Any]) -> Pair:
            return self

    with pytest.raises(ValueError, match="contenders must hold at least one model, got none"):
        measure({}, **QUICK)
    with pytest.raises(TypeError, match=r"measure: a must be an nn\.Module, got str"):
        measure({"a": "resnet20"}, **QUICK)  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="measure: a must return one tensor, got tuple"):
        measure({"a": Pair("a", calls)}, **QUICK)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_gpu_that_is_not_there_is_refused(contenders: dict[str, nn.Module]) -> None:
    with pytest.raises(ValueError, match="device must be available, got cuda where torch sees no CUDA GPU"):
        measure(contenders, **QUICK | {"device": "cuda"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_is_timed_by_events_and_tells_its_memory() -> None:
    (row,) = measure({"a": convnet(16)}, **QUICK | {"device": "cuda", "batches": (64,)})
    assert row.gate and row.p50_ms > 0
    assert row.gpu_p50_ms == row.p50_ms and row.host_p50_ms > 0
    assert row.peak_memory_bytes > 0
