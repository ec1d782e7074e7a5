"""Latency of several models on the same samples, interleaved A B A B, behind a correctness gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from time import perf_counter
from typing import Any

import torch
from torch import nn

from litfast.bench import modes as running
from litfast.bench.lane import Lane, block, build, calibrate, truth
from litfast.bench.stats import percentile, summary
from litfast.models import Input

MIN_ROUNDS, MAX_ROUNDS = 5, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender in one mode, precision and batch size: its times, or the `reason` why there are none.

    `gate` says whether its outputs agreed with its own eager fp32 outputs (None: it could not run), `error`
    how far they lie apart (`modes.deviation`). Percentiles are over single calls; samples_per_s is that of
    the median call; spread is (p90 - p10) / p50. `peak_memory_bytes` is what one call takes beyond what was
    allocated before it (CUDA only). `round_ms` holds the median call of every round.
    """

    contender: str
    mode: str
    precision: str
    batch: int
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    mean_ms: float | None = None
    std_ms: float | None = None
    samples_per_s: float | None = None
    spread: float | None = None
    calls: int = 0
    rounds: int = 0
    gate: bool | None = None
    error: float | None = None
    tolerance: float | None = None
    peak_memory_bytes: int | None = None
    reason: str | None = None
    round_ms: tuple[float, ...] = ()

    def json(self) -> dict[str, Any]:
        """The row without its single rounds, in values that JSON has (an infinite error becomes null)."""
        values = asdict(self)
        del values["round_ms"]
        if self.error is not None and not math.isfinite(self.error):
            values["error"] = None
        return values


def measure(
    contenders: Mapping[str, nn.Module],
    *,
    input: Input,
    batches: Sequence[int] = (1, 128),
    modes: Sequence[str] = ("eager", "compile"),
    precisions: Sequence[str] = ("fp32", "bf16"),
    seconds: float = 1.0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Time every contender in every cell (batch, mode, precision).

    Within a cell each round times every contender once, in the order given, so that a slow spell of the
    machine hits all of them. One timing is as many single calls as fill 5 ms; on CUDA events time the calls.
    Before that, each contender's outputs must agree with its own eager fp32 outputs on the same samples. All
    run in eval and inference mode, images channels-last. A compiled cell drops what this process compiled
    before.

    Args:
        contenders: models by name; each takes one tensor [B, ...] and returns one, of any shape.
        input: what all of them read; a precision is that of floats, ids stay int64.
        seconds: time to spend on one row; at least 5 rounds are made, however slow the model.
        threads: torch's CPU threads while measuring; None leaves them as they are.
        progress: told the cell about to be measured, one line each.

    Returns:
        One row a batch, mode, precision and contender, in that order: times or a reason in each.

    Raises:
        ValueError, TypeError: an empty, unknown or impossible argument; a contender that refuses the samples.
    """
    place = torch.device(device)
    _check_contenders(contenders, input)
    _check_cells(batches, modes, precisions)
    _check_conditions(seconds, place, threads)
    generator = torch.Generator().manual_seed(seed)
    rows: list[Row] = []
    with _threads(threads):
        for batch in batches:
            samples = input.example(batch, generator=generator, device=place)
            expected = {name: truth(name, model, samples) for name, model in contenders.items()}
            for mode, precision in product(modes, precisions):
                if progress:
                    progress(f"{mode} {precision} batch {batch}")
                running.forget(mode)
                lanes = [
                    build(name, model, samples, expected[name], mode=mode, precision=precision)
                    for name, model in contenders.items()
                ]
                _interleave([lane for lane in lanes if lane.gate], seconds)
                rows += [_row(lane, mode, precision, batch) for lane in lanes]
                running.forget(mode)
    return rows


def _interleave(lanes: Sequence[Lane], seconds: float) -> None:
    """Calibrate, then A B A B: every round times each lane once."""
    if not lanes:
        return
    with torch.inference_mode():
        for lane in lanes:
            calibrate(lane)
        deadline = perf_counter() + seconds * len(lanes)
        for done in range(MAX_ROUNDS):
            if done >= MIN_ROUNDS and perf_counter() > deadline:
                break
            for lane in lanes:
                lane.rounds.append(block(lane))


def _row(lane: Lane, mode: str, precision: str, batch: int) -> Row:
    call_ms = [1000 * seconds for timing in lane.rounds for seconds in timing]
    return Row(
        contender=lane.contender,
        mode=mode,
        precision=precision,
        batch=batch,
        calls=len(call_ms),
        rounds=len(lane.rounds),
        gate=lane.gate,
        error=lane.error,
        tolerance=running.tolerance(precision, lane.samples.device),
        peak_memory_bytes=lane.peak_bytes,
        reason=lane.reason,
        round_ms=tuple(1000 * percentile(timing, 50) for timing in lane.rounds),
        **(summary(call_ms, batch) if call_ms else {}),
    )


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_contenders(contenders: Mapping[str, nn.Module], input: Input) -> None:
    if not contenders:
        raise ValueError("measure: contenders must hold at least one model, got none")
    for name, model in contenders.items():
        if not isinstance(model, nn.Module):
            raise TypeError(f"measure: {name} must be an nn.Module, got {type(model).__name__}")
    if min(input.shape, default=0) < 1:
        raise ValueError(f"measure: input.shape must be sizes from 1, got {list(input.shape)}")


def _check_cells(batches: Sequence[int], modes: Sequence[str], precisions: Sequence[str]) -> None:
    for what, given in (("batches", batches), ("modes", modes), ("precisions", precisions)):
        if isinstance(given, str) or not given:
            raise ValueError(f"measure: {what} must be a list of at least one, got {given!r}")
    if min(batches) < 1:
        raise ValueError(f"measure: batches must be 1 or more, got {list(batches)}")
    for mode in modes:
        running.MODES[mode]  # an unknown name raises, and names the nearest
    for precision in precisions:
        running.PRECISIONS[precision]


def _check_conditions(seconds: float, device: torch.device, threads: int | None) -> None:
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"measure: seconds must be positive and finite, got {seconds}")
    if threads is not None and threads < 1:
        raise ValueError(f"measure: threads must be 1 or more, got {threads}")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"measure: device must be cpu or cuda, got {device}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"measure: device must be available, got {device} where torch sees no CUDA GPU")
