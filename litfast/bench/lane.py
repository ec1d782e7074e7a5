"""A contender while it is measured: built, held to the gate, calibrated, timed block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter

import torch
from torch import Tensor, nn

from litfast.bench import modes
from litfast.bench.memory import peak_bytes
from litfast.bench.modes import Runner
from litfast.engine.trial import reason

BLOCK_S = 0.005  # one timing lasts at least this long: far above the clock's and the scheduler's grain


@dataclass(slots=True, kw_only=True)
class Lane:
    """One contender in one mode, precision and batch.

    `gate` is None until its outputs could be compared; `rounds` holds the seconds of every call, by block.
    """

    contender: str
    samples: Tensor
    runner: Runner | None = None
    gate: bool | None = None
    error: float | None = None
    peak_bytes: int | None = None
    reason: str | None = None
    calls: int = 1
    rounds: list[list[float]] = field(default_factory=list)


def truth(name: str, model: nn.Module, samples: Tensor) -> Tensor | str:
    """The eager fp32 outputs, or the line that says why there are none (no memory for this batch).

    Raises:
        ValueError, TypeError: the model does not take the samples, or returns something else than one tensor.
    """
    runner = modes.prepare(model, "eager", "fp32", samples.device)
    try:
        with torch.inference_mode():
            outputs = runner(samples)
    except (RuntimeError, MemoryError) as error:
        why = reason(error)
        if isinstance(error, MemoryError) or "memory" in why.lower():
            return why
        raise ValueError(f"measure: {name} must take samples {list(samples.shape)}, got: {why}") from error
    if not isinstance(outputs, Tensor):
        raise TypeError(f"measure: {name} must return one tensor, got {type(outputs).__name__}")
    return outputs


def build(
    name: str, model: nn.Module, samples: Tensor, expected: Tensor | str, *, mode: str, precision: str
) -> Lane:
    """Make the contender and hold it to the gate; whatever goes wrong becomes its reason."""
    samples = modes.converted(samples, precision)
    lane = Lane(contender=name, samples=samples)
    if isinstance(expected, str):
        lane.reason = expected
        return lane
    try:
        lane.runner = modes.prepare(model, mode, precision, samples.device)
        with torch.inference_mode():
            lane.error = modes.deviation(lane.runner(samples), expected)
    except Exception as error:  # a compiler that is missing or fails raises many types: the row says which
        lane.reason = reason(error)
        return lane
    allowed = modes.tolerance(precision, samples.device)
    lane.gate = lane.error <= allowed
    if not lane.gate:
        lane.reason = (
            f"outputs differ from its eager fp32 outputs by {lane.error:.2g} of the largest one, "
            f"more than {allowed:.2g}"
        )
    return lane


def calibrate(lane: Lane) -> None:
    """Choose the calls of one block; on CUDA also note the memory of a call."""
    runner, samples = lane.runner, lane.samples
    assert runner is not None, "only lanes that passed the gate are timed"
    if samples.device.type == "cuda":
        lane.peak_bytes = peak_bytes(lambda: runner(samples), samples.device)
    once = min(block(lane))
    if once < 10 * BLOCK_S:  # one call may have been held up: look again
        lane.calls = 5
        lane.calls = math.ceil(BLOCK_S / min(block(lane)))


def block(lane: Lane) -> list[float]:
    """Seconds of each of `lane.calls` calls in a row."""
    assert lane.runner is not None, "only lanes that passed the gate are timed"
    if lane.calls > 1:  # short calls find the caches swept by the contender before them
        lane.runner(lane.samples)
    if lane.samples.device.type == "cuda":
        return _block_cuda(lane.runner, lane.samples, lane.calls)
    took = []
    for _ in range(lane.calls):
        start = perf_counter()
        lane.runner(lane.samples)
        took.append(perf_counter() - start)
    return took


def _block_cuda(runner: Runner, samples: Tensor, calls: int) -> list[float]:
    """From event to event: the GPU's time, and the host's where the GPU waits for it."""
    with torch.cuda.device(samples.device):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
        torch.cuda.synchronize()
        events[0].record()
        for event in events[1:]:
            runner(samples)
            event.record()
        torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in pairwise(events)]
