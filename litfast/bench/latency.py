"""Latency of several models on the same samples, interleaved A B A B, behind a correctness gate."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from litfast.bench import clients as closed_loop
from litfast.bench import energy
from litfast.bench import modes as running
from litfast.bench.lane import Lane, block, build, calibrate, out_of_memory, truth
from litfast.bench.row import Row, of
from litfast.engine.trial import reason
from litfast.fields import each, first
from litfast.models import Input

MIN_ROUNDS, MAX_ROUNDS = 5, 200


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
    clients: Sequence[int] = (),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Time every contender in every cell (batch, mode, precision).

    Within a cell each round times every contender once, in the order given, so that a slow spell of the
    machine hits all of them. One timing is as many single calls as fill 5 ms; on CUDA events time the calls.
    Before that, each contender's outputs must agree with its own eager fp32 outputs on the same samples. All
    run in eval and inference mode, images channels-last. A compiled cell drops what this process compiled
    before. Where one contender finds no memory for the batch, all of them get half of it, and a line says so.

    Args:
        contenders: models by name; each takes one tensor [B, ...] and returns one, of any shape.
        input: what all of them read; a precision is that of floats, ids stay int64.
        modes: names of `modes.MODES`.
        seconds: time to spend on one row; at least 5 rounds are made, however slow the model.
        threads: torch's CPU threads while measuring; None leaves them as they are.
        clients: numbers of clients; with each, a closed loop gives the throughput (`clients.loads`).
        progress: told the cell about to be measured, one line each.

    Returns:
        One row a batch, mode, precision and contender, in that order: times or a reason in each.

    Raises:
        ValueError, TypeError: an empty, unknown or impossible argument; a contender that refuses the samples.
    """
    place = torch.device(device)
    _check_contenders(contenders, input)
    check_cells(batches=batches, modes=modes, precisions=precisions)
    check_conditions(seconds=seconds, device=place, threads=threads, clients=clients)
    found = energy.find(place)
    work = _Work(
        contenders=contenders,
        input=input,
        seconds=seconds,
        device=place,
        clients=clients,
        meter=None if isinstance(found, str) else found,
        seed=seed,
        say=progress or (lambda line: None),
    )
    rows: list[Row] = []
    with _threads(threads):
        for batch in batches:
            given = work.given(batch)
            for mode, precision in product(modes, precisions):
                cells = {(row.batch, row.mode, row.precision) for row in rows}
                taken = {cell[0] for cell in cells if cell[1:] == (mode, precision)} | set(batches)
                rows += work.cell(given, mode, precision, taken)
    return rows


Given = tuple[Any, dict[str, Tensor | Exception]]  # samples, and what each contender makes of them


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What all cells share."""

    contenders: Mapping[str, nn.Module]
    input: Input
    seconds: float
    device: torch.device
    clients: Sequence[int]
    meter: energy.Meter | None
    seed: int
    say: Callable[[str], None]

    def given(self, batch: int) -> Given:
        """The samples of a batch size and the truth about them.

        Raises:
            ValueError: the host has no memory for them, or a contender does not take them.
        """
        generator = torch.Generator().manual_seed(self.seed)
        try:
            samples = self.input.example(batch, generator=generator)
        except (RuntimeError, TypeError, MemoryError) as error:  # TypeError: a size beyond int64
            raise ValueError(f"measure: batches must fit into memory, got {batch}: {reason(error)}") from None
        try:
            samples = each(lambda x: x.to(self.device), samples)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return samples, dict.fromkeys(self.contenders, error)
        return samples, {name: truth(name, model, samples) for name, model in self.contenders.items()}

    def cell(self, given: Given, mode: str, precision: str, taken: set[int]) -> list[Row]:
        """One row a contender: of the batch as given, or of the first half of it that fits.

        A half that is `taken` has or gets rows of its own; then there is only a reason here.
        """
        asked = batch = len(first(given[0]))
        while True:
            name, half = f"{mode} {precision} batch {batch}", batch // 2
            self.say(name)
            running.forget(mode)
            lanes = self._built(given, mode, precision)
            last = not half or half in taken
            if last or not any(lane.full for lane in lanes):
                self._time([lane for lane in lanes if lane.gate])
            running.forget(mode)
            full = [lane.contender for lane in lanes if lane.full]
            if last or not full:
                return [of(lane, precision, asked) for lane in lanes]
            del lanes  # and the memory that they hold
            if self.device.type == "cuda":
                gc.collect()  # compiled code is held in circles
                torch.cuda.empty_cache()
            self.say(f"{name}: no memory for {', '.join(full)}; batch {half} instead")
            batch, given = half, self.given(half)

    def _built(self, given: Given, mode: str, precision: str) -> list[Lane]:
        samples, expected = given
        return [
            build(name, model, samples, expected[name], mode=mode, precision=precision)
            for name, model in self.contenders.items()
        ]

    def _time(self, lanes: Sequence[Lane]) -> None:
        """Fill the lanes that passed the gate; where there is no memory, all of them say so."""
        try:
            _interleave(lanes, self.seconds)
            closed_loop.loads(lanes, self.clients, self.seconds)
            if self.meter is not None:
                for lane in lanes:
                    lane.joules = _joules(lane, self.meter, self.seconds)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            for lane in lanes:
                lane.fail(error)


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


@torch.inference_mode()
def _joules(lane: Lane, meter: energy.Meter, seconds: float) -> float:
    """Of one sample. NVML counts some ten times a second: the calls take half a second or more."""
    runner, samples = lane.runner, lane.samples
    assert runner is not None, "only lanes that passed the gate are measured"

    def call() -> None:
        runner(samples)
        if samples.device.type == "cuda":
            torch.cuda.synchronize(samples.device)

    return energy.per_call(meter, call, max(seconds, 0.5)) / len(samples)


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


def check_cells(*, batches: Sequence[int], modes: Sequence[str], precisions: Sequence[str]) -> None:
    """Refuse what no cell can be made of.

    Raises:
        ValueError: an empty list, one that names something twice, a batch below 1, an unknown name.
    """
    for what, given in (("batches", batches), ("modes", modes), ("precisions", precisions)):
        if isinstance(given, str) or not given:
            raise ValueError(f"measure: {what} must be a list of at least one, got {given!r}")
        if len(set(given)) < len(given):
            raise ValueError(f"measure: {what} must differ, got {', '.join(map(str, given))}")
    if min(batches) < 1:
        raise ValueError(f"measure: batches must be 1 or more, got {list(batches)}")
    for mode in modes:
        running.MODES[mode]  # an unknown name raises, and names the nearest
    for precision in precisions:
        running.PRECISIONS[precision]


def check_conditions(
    *, seconds: float, device: torch.device, threads: int | None, clients: Sequence[int] = ()
) -> None:
    """Refuse conditions under which nothing can be timed.

    Raises:
        ValueError: a time, a count or a device that cannot be.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"measure: seconds must be positive and finite, got {seconds}")
    if threads is not None and threads < 1:
        raise ValueError(f"measure: threads must be 1 or more, got {threads}")
    if min(clients, default=1) < 1:
        raise ValueError(f"measure: clients must be 1 or more, got {list(clients)}")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"measure: device must be cpu or cuda, got {device}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"measure: device must be available, got {device} where torch sees no CUDA GPU")
