"""Throughput under load: N clients, each of which asks again as soon as it has its answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier, BrokenBarrierError
from time import perf_counter
from typing import Any

import torch

from litfast.bench.lane import Lane, Load
from litfast.bench.stats import percentile
from litfast.engine.trial import reason

SLICES = 5  # of the time of one contender, taken in turn with the others


@dataclass(slots=True)
class _Slice:
    """What one stretch of load gave: seconds of every request, and requests a second."""

    took: list[float]
    rate: float


def loads(lanes: Sequence[Lane], counts: Sequence[int], seconds: float) -> None:
    """Put every contender under the load of so many clients, in turn, and note it in its lane.

    A closed loop: each client is a thread that sends one batch, waits for the outputs and sends the next. All
    share the one model; on CUDA each has a stream of its own, on the CPU each call takes torch's threads.

    Args:
        lanes: calibrated.
        counts: numbers of clients.
        seconds: to spend on one contender with one number of clients.
    """
    for clients in counts:
        found: dict[str, list[_Slice]] = {lane.contender: [] for lane in lanes}
        reasons: dict[str, str] = {}
        for _ in range(SLICES):
            for lane in lanes:
                if lane.contender in reasons:
                    continue
                try:
                    found[lane.contender].append(_slice(lane, clients, seconds / SLICES))
                except Exception as error:  # a compiler or a GPU may refuse several threads: the row says so
                    reasons[lane.contender] = reason(error)
        for lane in lanes:
            slices, why = found[lane.contender], reasons.get(lane.contender)
            lane.loads.append(_summed(slices, clients, lane.batch) if why is None
                              else Load(clients=clients, reason=why))  # fmt: skip


def _slice(lane: Lane, clients: int, seconds: float) -> _Slice:
    if lane.mode == "graph" and clients > 1:
        raise ValueError(f"graph: clients must be 1 (its requests share one memory), got {clients}")
    together = Barrier(clients)
    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(_client, lane, together, seconds) for _ in range(clients)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:  # that of a client which only found the barrier broken comes last
        raise min(errors, key=lambda error: isinstance(error, BrokenBarrierError))
    each = [future.result() for future in futures]
    return _Slice([one for took, _ in each for one in took], sum(len(took) / spent for took, spent in each))


def _client(lane: Lane, together: Barrier, seconds: float) -> tuple[list[float], float]:
    """Seconds of every request, at least one, and of all of them together."""
    runner, samples = lane.runner, lane.samples
    assert runner is not None, "only lanes that passed the gate are timed"
    stream = torch.cuda.Stream(lane.device) if lane.device.type == "cuda" else None

    def request() -> None:
        runner(samples)
        if stream is not None:
            stream.synchronize()

    with torch.inference_mode(), torch.cuda.stream(stream):
        try:
            request()  # a thread's first starts its workers
        except BaseException:
            together.abort()
            raise
        together.wait()
        took: list[float] = []
        began = now = perf_counter()
        while not took or now - began < seconds:
            request()
            took.append(perf_counter() - now)
            now += took[-1]
    return took, now - began


def _summed(slices: Sequence[_Slice], clients: int, batch: int) -> Load:
    took = [1000 * seconds for part in slices for seconds in part.took]
    rates = tuple(part.rate for part in slices)
    rate = percentile(rates, 50)
    times: dict[str, Any] = {f"p{q}_ms": percentile(took, q) for q in (50, 90, 95, 99)}
    return Load(
        clients=clients,
        requests=len(took),
        requests_per_s=rate,
        samples_per_s=rate * batch,
        rates=rates,
        **times,
    )
