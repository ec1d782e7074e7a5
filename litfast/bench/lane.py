"""A contender while it is measured: built, held to the gate, calibrated, timed block by block."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from litfast.bench import modes
from litfast.bench.memory import peak_bytes
from litfast.bench.modes import Runner
from litfast.engine.trial import reason
from litfast.fields import each, first

BLOCK_S = 0.005  # one timing lasts at least this long: far above the clock's and the scheduler's grain
HOST_CALLS = 5  # single calls a block whose wall time is taken on CUDA


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One contender under so many clients: its requests, or the `reason` why there are none.

    A request is one batch. requests_per_s is the median over the slices whose `rates` these are, percentiles
    are over the requests.
    """

    clients: int
    requests: int = 0
    requests_per_s: float | None = None
    samples_per_s: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    reason: str | None = None
    rates: tuple[float, ...] = ()


@dataclass(slots=True, kw_only=True)
class Lane:
    """One contender in one mode, precision and batch.

    `gate` is None until its outputs could be compared: whether `error` is at most `tolerance`. `full` says
    that `reason` is a lack of memory. `rounds` holds the seconds of every call, by block; on CUDA these are
    the GPU's, and `host` has the wall time of single calls up to their result.
    """

    contender: str
    mode: str
    samples: Any
    runner: Runner | None = None
    gate: bool | None = None
    error: float | None = None
    tolerance: float
    peak_bytes: int | None = None
    reason: str | None = None
    full: bool = False
    calls: int = 1
    rounds: list[list[float]] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    joules: float | None = None

    @property
    def batch(self) -> int:
        return len(first(self.samples))

    @property
    def device(self) -> torch.device:
        return first(self.samples).device

    def fail(self, error: Exception) -> None:
        """Note why it cannot be timed; what was timed of it goes."""
        self.rounds.clear()
        self.loads.clear()
        self.joules = None
        self.reason, self.full = reason(error), out_of_memory(error)


def out_of_memory(error: Exception) -> bool:
    """Whether it says that the batch is too large; torch's CPU allocator raises a plain RuntimeError."""
    said = re.search("out of memory|allocate memory|not enough memory", str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or said is not None


def truth(name: str, model: nn.Module, samples: Any) -> Tensor | Exception:
    """The eager fp32 outputs, or the error of a batch for which there is no memory.

    Raises:
        ValueError: the model does not take the samples.
        TypeError: it returns something else than one tensor.
    """
    try:
        runner = modes.prepare(model, "eager", "fp32", samples)
        with torch.inference_mode():
            outputs = runner(samples)
    except Exception as error:  # this runs the user's forward: anything may be raised
        if out_of_memory(error):
            return error.with_traceback(None)  # whose frames would keep the memory
        why = f"measure: {name} must take samples {each(_shape, samples)}, got: {reason(error)}"
        raise ValueError(why) from error
    if not isinstance(outputs, Tensor):
        raise TypeError(f"measure: {name} must return one tensor, got {type(outputs).__name__}")
    return outputs


def build(
    name: str, model: nn.Module, samples: Any, expected: Tensor | Exception, *, mode: str, precision: str
) -> Lane:
    """Make the contender and hold it to the gate; whatever goes wrong becomes its reason.

    Its outputs may lie as far from the eager fp32 ones as `modes.tolerance` says. A model that is more
    sensitive may err twice what it errs eagerly in that precision, up to `modes.COARSE`.
    """
    lane = Lane(
        contender=name,
        mode=mode,
        samples=samples,
        tolerance=modes.tolerance(precision, first(samples).device),
    )
    if isinstance(expected, Exception):
        lane.fail(expected)
        return lane
    try:
        lane.samples = samples = modes.converted(samples, mode, precision)
        lane.runner = modes.prepare(model, mode, precision, samples)
        with torch.inference_mode():
            lane.error = modes.deviation(lane.runner(samples), expected)
            if lane.tolerance < lane.error <= modes.COARSE:
                lane.tolerance = max(lane.tolerance, 2 * _own_error(model, samples, expected, precision))
    except Exception as error:  # a compiler that is missing or fails raises many types: the row says which
        lane.fail(error)
        return lane
    lane.gate = lane.error <= lane.tolerance
    if not lane.gate:
        lane.reason = "outputs, or its eager fp32 ones, are not finite, or their shapes differ"
        if math.isfinite(lane.error):
            lane.reason = (
                f"outputs differ from its eager fp32 outputs by {lane.error:.2g} of the largest one, "
                f"more than {lane.tolerance:.2g}"
            )
    return lane


def _own_error(model: nn.Module, samples: Any, expected: Tensor, precision: str) -> float:
    """What the precision alone costs: k-max pooling, for one, picks other values where some nearly tie."""
    samples = modes.converted(samples, "eager", precision)
    runner = modes.prepare(model, "eager", precision, samples)
    return modes.deviation(runner(samples), expected)


def calibrate(lane: Lane) -> None:
    """Choose the calls of one block, and note the memory of a call where torch's allocator sees it."""
    runner, samples = lane.runner, lane.samples
    assert runner is not None, "only lanes that passed the gate are timed"
    if modes.allocates(lane.mode, lane.device):
        lane.peak_bytes = peak_bytes(lambda: runner(samples), lane.device)
    once = min(block(lane))
    if once < 10 * BLOCK_S:  # one call may have been held up: look again
        lane.calls = 5
        lane.calls = math.ceil(BLOCK_S / min(block(lane)))
    lane.host.clear()


def block(lane: Lane) -> list[float]:
    """Seconds of each of `lane.calls` calls in a row."""
    assert lane.runner is not None, "only lanes that passed the gate are timed"
    if lane.calls > 1:  # short calls find the caches swept by the contender before them
        lane.runner(lane.samples)
    if lane.device.type == "cuda":
        lane.host += [_whole_call(lane.runner, lane.samples) for _ in range(min(lane.calls, HOST_CALLS))]
        return _block_cuda(lane.runner, lane.samples, lane.calls)
    took = []
    for _ in range(lane.calls):
        start = perf_counter()
        lane.runner(lane.samples)
        took.append(perf_counter() - start)
    return took


def _whole_call(runner: Runner, samples: Any) -> float:
    """From the launch to the result, as one who waits for it sees it."""
    torch.cuda.synchronize(first(samples).device)
    start = perf_counter()
    runner(samples)
    torch.cuda.synchronize(first(samples).device)
    return perf_counter() - start


def _block_cuda(runner: Runner, samples: Any, calls: int) -> list[float]:
    """From event to event: the GPU's time, and the host's where the GPU waits for it."""
    with torch.cuda.device(first(samples).device):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
        torch.cuda.synchronize()
        events[0].record()
        for event in events[1:]:
            runner(samples)
            event.record()
        torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in pairwise(events)]


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)
