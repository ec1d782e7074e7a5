"""What is known of one contender in one mode, precision and batch size."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from litfast.bench.lane import Lane, Load
from litfast.bench.stats import percentile, summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender in one mode, precision and batch size: its times, or the `reason` why there are none.

    `asked` is the batch that was asked for where there was no memory for it, and `batch` is the smaller one
    that was measured. `gate` says whether its outputs agreed with its own eager fp32 outputs (None: it could
    not run), `error` how far they lie apart (`modes.deviation`).

    Percentiles are over single calls: of the GPU's time on CUDA, of the host's on the CPU. `gpu_p50_ms` is
    the former alone (None on the CPU); `host_p50_ms` and `host_p99_ms` are the wall time of single calls from
    the launch to the result. samples_per_s is that of the median call; spread is (p90 - p10) / p50.

    `peak_memory_bytes` is what one call takes of torch's allocator beyond what was taken before it; None in
    modes whose memory that does not see (`modes.allocates`). `joules_per_sample` is what the device drew
    while it ran nothing else of ours; None where no meter is (`energy.find`).

    `round_ms` holds the median call of every round.
    """

    contender: str
    mode: str
    precision: str
    batch: int
    asked: int | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    mean_ms: float | None = None
    std_ms: float | None = None
    gpu_p50_ms: float | None = None
    host_p50_ms: float | None = None
    host_p99_ms: float | None = None
    samples_per_s: float | None = None
    spread: float | None = None
    calls: int = 0
    rounds: int = 0
    gate: bool | None = None
    error: float | None = None
    tolerance: float | None = None
    peak_memory_bytes: int | None = None
    joules_per_sample: float | None = None
    reason: str | None = None
    loads: tuple[Load, ...] = ()
    round_ms: tuple[float, ...] = ()

    def json(self) -> dict[str, Any]:
        """The row without its single rounds, in values that JSON has (an infinite error becomes null)."""
        values = asdict(self)
        del values["round_ms"]
        values["loads"] = [_json(load) for load in self.loads]
        if self.error is not None and not math.isfinite(self.error):
            values["error"] = None
        return values


def of(lane: Lane, precision: str, asked: int) -> Row:
    """What became of a lane; `asked` is the batch that it should have had."""
    batch = lane.batch
    call_ms = [1000 * seconds for timing in lane.rounds for seconds in timing]
    host_ms = [1000 * seconds for seconds in lane.host] or call_ms  # the CPU's calls are the host's
    times = summary(call_ms, batch) if call_ms else {}
    if call_ms:
        times |= {f"host_p{q}_ms": percentile(host_ms, q) for q in (50, 99)}
        times["gpu_p50_ms"] = times["p50_ms"] if lane.host else None
    return Row(
        contender=lane.contender,
        mode=lane.mode,
        precision=precision,
        batch=batch,
        asked=asked if asked != batch else None,
        calls=len(call_ms),
        rounds=len(lane.rounds),
        gate=lane.gate,
        error=lane.error,
        tolerance=lane.tolerance,
        peak_memory_bytes=lane.peak_bytes,
        joules_per_sample=lane.joules,
        reason=lane.reason,
        loads=tuple(lane.loads),
        round_ms=tuple(1000 * percentile(timing, 50) for timing in lane.rounds),
        **times,
    )


def _json(load: Load) -> dict[str, Any]:
    values = asdict(load)
    del values["rates"]
    return values
