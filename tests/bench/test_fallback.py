"""A batch for which there is no memory: half of it for everybody, with a line that says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.bench import compare, lane, latency, measure, modes, report
from litfast.models import Input

QUICK: dict[str, Any] = {
    "input": Input((3, 5, 5)),
    "modes": ("eager",),
    "precisions": ("fp32",),
    "seconds": 0.01,
    "threads": 1,
}
FULL = [
    RuntimeError("CUDA out of memory. Tried to allocate 2 TiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "BLOCK_S", 1e-9)
    monkeypatch.setattr(latency, "MAX_ROUNDS", 1)
    monkeypatch.setattr(latency, "MIN_ROUNDS", 1)


class Holds(nn.Module):
    """Takes so many samples at once and no more."""

    def __init__(self, most: int, error: Exception = FULL[0]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))  # sizes are counted where there is one
        self.most, self.error = most, error

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise self.error
        return images.mean((2, 3))


@pytest.mark.parametrize("error", FULL, ids=["cuda", "cpu", "python"])
def test_everybody_gets_the_first_half_that_fits(error: Exception) -> None:
    lines: list[str] = []
    models = {"large": Holds(5, error), "small": Holds(99)}
    rows = measure(models, batches=(16,), **QUICK, progress=lines.append)
    assert [(row.contender, row.batch, row.asked) for row in rows] == [("large", 4, 16), ("small", 4, 16)]
    assert all(row.p50_ms > 0 and row.reason is None for row in rows)
    assert [line for line in lines if "memory" in line] == [
        "eager fp32 batch 16: no memory for large; batch 8 instead",
        "eager fp32 batch 8: no memory for large; batch 4 instead",
    ]


def test_a_half_that_is_asked_for_anyhow_is_not_measured_twice() -> None:
    rows = measure({"large": Holds(4), "small": Holds(99)}, batches=(4, 8), **QUICK)
    assert [(row.contender, row.batch, row.asked, row.reason is None) for row in rows] == [
        ("large", 4, None, True),
        ("small", 4, None, True),
        ("large", 8, None, False),
        ("small", 8, None, True),
    ]


def test_only_the_mode_that_lacks_memory_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(model: nn.Module, *_: object) -> modes.Runner:
        return Holds(2)

    monkeypatch.setitem(modes.MODES, "greedy", greedy)
    rows = measure({"a": Holds(99)}, batches=(4,), **QUICK | {"modes": ("greedy", "eager")})
    assert [(row.mode, row.batch) for row in rows] == [("greedy", 2), ("eager", 4)]


def test_memory_that_runs_out_while_it_is_timed_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def clocked(contender: lane.Lane) -> list[float]:
        if len(contender.samples) > 2:
            raise FULL[0]
        return [0.001]

    monkeypatch.setattr(latency, "block", clocked)
    (row,) = measure({"a": Holds(99)}, batches=(4,), **QUICK)
    assert (row.batch, row.asked, row.p50_ms) == (2, 4, 1.0)


def test_samples_that_the_device_cannot_hold_are_halved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = Tensor.to

    def full(self: Tensor, *where: Any, **how: Any) -> Tensor:
        if self.shape == (16, 3, 5, 5) and where == (torch.device("cpu"),):
            raise FULL[0]
        return moved(self, *where, **how)

    monkeypatch.setattr(Tensor, "to", full)
    (row,) = measure({"a": Holds(99)}, batches=(16,), **QUICK)
    assert (row.batch, row.asked, row.reason) == (8, 16, None)


def test_a_contender_that_runs_out_of_memory_keeps_nothing_of_what_was_measured() -> None:
    ready = lane.Lane(contender="a", mode="eager", samples=torch.zeros(1), tolerance=1.0)
    ready.rounds, ready.joules = [[0.1]], 2.0
    ready.fail(FULL[0])
    assert ready.rounds == [] and ready.joules is None and ready.full


def test_another_error_is_no_lack_of_memory() -> None:
    assert not lane.out_of_memory(RuntimeError("unsupported memory format option"))
    with pytest.raises(ValueError, match="a must take samples"):
        measure({"a": Holds(1, RuntimeError("unsupported memory format"))}, batches=(2,), **QUICK)


def test_the_tables_say_which_batch_was_measured() -> None:
    document = compare({"a": Holds(1), "b": Holds(9)}, batches=(2,), **QUICK)
    assert [row["batch"] for row in document["rows"]] == [1, 1] and document["rows"][0]["asked"] == 2
    assert document["ratios"][0]["check"] == "eager fp32 batch 1"
    assert "eager fp32 batch 2: no memory for it, batch 1 was measured instead" in report.notes(document)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_that_is_full_measures_half() -> None:
    class Wide(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.empty(len(images) * total // 3, dtype=torch.uint8, device="cuda")
            return images.mean((2, 3))

    (row,) = measure({"a": Wide()}, batches=(4,), **QUICK, device="cuda")
    assert (row.batch, row.asked, row.reason) == (2, 4, None)
