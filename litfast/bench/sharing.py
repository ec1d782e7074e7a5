"""What sharing sections out over ranks should bring: the cost model's answer for 1, 2, 4 ... of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from typing import Any

import torch

from litfast.data.loader import Batch
from litfast.engine.costs import Costs, Network
from litfast.engine.placement import Placement, place
from litfast.engine.prepare import prepared
from litfast.engine.section_times import measure
from litfast.engine.step import Step
from litfast.phase import Phase

MOST = 1024  # ranks
WAYS = ((False, False), (False, True), (True, False), (True, True))  # relay, split


def check_ranks(ranks: int) -> None:
    """Raise ValueError for fewer than 1 or more than MOST ranks."""
    if not 1 <= ranks <= MOST:
        raise ValueError(f"plan: --ranks must lie in 1 to {MOST}, got {ranks}")


def worlds(ranks: int) -> list[int]:
    """1, 2, 4 ... up to `ranks`, and that number itself."""
    powers = [1 << n for n in range(ranks.bit_length()) if 1 << n < ranks]
    return [*powers, ranks]


def measured(
    phase: Phase, batch: Batch, *, device: torch.device, precision: str = "fp32", rounds: int = 5
) -> Costs:
    """The costs of a phase's sections at a batch on this device, at torch's number of threads.

    Raises:
        ValueError: a phase whose branches cannot be shared out.
    """
    if phase.line is None:
        raise ValueError(f"plan: phase {phase.name!r} must have independent sections, got one loss for all")
    with prepared(phase, device):
        return measure(Step(phase, precision=precision, device=device), batch, rounds=rounds)


def predict(costs: Costs, ranks: int, network: Network) -> dict[str, Any]:
    """What the cost model says of every number of ranks and every way, in values that JSON has.

    `step_s` is the slowest block's time and `speedup` how many times that is shorter than one process takes
    for all sections. A job that more ranks would slow down is given fewer; `used` counts them.

    Raises:
        ValueError: fewer than 1 or more than MOST ranks.
    """
    check_ranks(ranks)
    return {
        "costs": asdict(costs),
        "network": asdict(network),
        "one_process_s": costs.together(),
        "predictions": list(_predictions(costs, ranks, network)),
    }


def _predictions(costs: Costs, ranks: int, network: Network) -> Iterator[dict[str, Any]]:
    for world, (relay, split) in product(worlds(ranks), WAYS):
        found = place(costs, world, relay=relay, split=split, network=network)
        yield {
            "ranks": world,
            "split": split,
            "used": found.used,
            "step_s": found.step,
            "speedup": costs.together() / found.step,
            **_plain(found),
        }


def _plain(placement: Placement) -> dict[str, Any]:
    document = placement.json()
    blocks = [
        {**block, "step_s": seconds}
        for block, seconds in zip(document["blocks"], placement.seconds, strict=True)
    ]
    return {"relay": placement.relay, "exact": placement.exact, "blocks": blocks}
