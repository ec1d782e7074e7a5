"""Independent sections on 2 ranks of 1 thread against 1 process of 2 threads, and the cost model's word.

Two processes are started once. Every round times the same number of steps by each contender in turn: one
process with two threads and with one (the other rank waits), the sections apart, and with a relay. The
sections' costs are measured at one thread, on both ranks at once, as they compete for the machine's memory
in training. From one start, both ways must end where one process of one thread ends, to the bit.

From the checkout, so that the record knows its commit:

python -m benchmarks.record_parts --out benchmarks/results/parts_cpu.json
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from litfast import create, methods
from litfast.bench import record
from litfast.bench.stats import percentile, speedup
from litfast.data.loader import Batch
from litfast.engine import ranks as all_ranks
from litfast.engine.costs import Costs, Network
from litfast.engine.placement import Placement, place
from litfast.engine.prepare import prepared
from litfast.engine.ranks import Ranks
from litfast.engine.section_times import measure
from litfast.engine.shared import SharedStep, sharers
from litfast.engine.step import Runner, Step
from litfast.models.inference import Inference
from litfast.phase import Phase, Schedule

WORLD = 2
LONE = {WORLD: f"one process, {WORLD} threads", 1: "one process, 1 thread"}
PORT = "29517"
CPU = torch.device("cpu")
ALIKE = 2  # steps before weights are compared
WAYS = {"apart": False, "relay": True}  # whether the teacher's IRs are handed on


def main() -> None:
    """Start the ranks; each of them comes by here again."""
    given = _arguments()
    if "RANK" not in os.environ:
        job = os.environ | {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT}
        line = [sys.executable, "-m", "benchmarks.record_parts", *sys.argv[1:]]
        started = [subprocess.Popen(line, env=job | {"RANK": str(rank)}) for rank in range(WORLD)]
        sys.exit(max(process.wait() for process in started))
    torch.set_num_threads(1)
    with all_ranks.joined() as ranks:
        results, checks = compare(given, ranks)
    if ranks.is_first:
        words = [given.out.name if word == str(given.out) else word for word in sys.argv[1:]]
        command = shlex.join(["python", "-m", "benchmarks.record_parts", *words])
        record.write(given.out, command=command, results=results, checks=checks)
        for row in results["contenders"]:
            print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the record to write")
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5, help="of a contender in a round")
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


def compare(given: Any, ranks: Ranks) -> tuple[dict[str, Any], dict[str, bool]]:
    """The results and checks of a record."""
    batch = Batch(torch.randn(given.batch, 3, 32, 32), torch.randint(10, (given.batch,)))
    ranks.broadcast(batch)
    lone = lone_step(given)
    costs = measure(lone, batch)
    ways = {name: shared_step(given, costs, ranks, relay=relay) for name, relay in WAYS.items()}
    checks = {f"{name} ends where one process does": same for name, same in _alike(lone, ways, batch).items()}
    ranks.barrier()
    runs: dict[str, tuple[int, Runner | None]] = {
        name: (threads, lone if ranks.is_first else None) for threads, name in LONE.items()
    }
    runs |= {f"{WORLD} ranks, {name}": (1, shared) for name, (_, shared) in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds + 1):
        for name, (threads, run) in runs.items():
            taken[name].append(_seconds(run, threads, batch, given.steps, ranks))
    times = {name: seconds[1:] for name, seconds in taken.items()}  # the first round warms up
    predicted = {f"{WORLD} ranks, {name}": shared.placement.step for name, (_, shared) in ways.items()}
    predicted[LONE[1]] = costs.together()
    baseline = times[LONE[WORLD]]
    rows = [
        _row(name, seconds, baseline, predicted.get(name), given.batch) for name, seconds in times.items()
    ]
    case = {key: getattr(given, key) for key in ("teacher", "student", "batch", "steps", "rounds")}
    placements = {name: shared.placement.json() for name, (_, shared) in ways.items()}
    results = {"case": case, "costs": asdict(costs), "network": asdict(Network()), "placements": placements}
    return {**results, "contenders": rows}, checks


def lone_step(given: Any) -> Step:
    """The step of one process; the same start at every call."""
    phase = _phase(given)
    with prepared(phase, CPU):
        pass  # in the layout that training has
    _train(phase)
    return Step(phase, precision="fp32", device=CPU)


def shared_step(given: Any, costs: Costs, ranks: Ranks, *, relay: bool) -> tuple[Step, SharedStep]:
    """The same shared out, as the first rank's costs have it."""
    placement = Placement.from_json(ranks.gather(place(costs, ranks.world, relay=relay).json())[0])
    phase = _phase(given)
    with prepared(phase, CPU):
        pass
    _train(phase)
    step = Step(phase, precision="fp32", device=CPU, ranks=sharers(placement, ranks))
    return step, SharedStep(step, placement, ranks)


def _phase(given: Any) -> Phase:
    """LIT's first phase with beta = 0, from random weights and the statistics of random images."""
    torch.manual_seed(0)
    teacher, student = create(given.teacher), create(given.student)
    with torch.no_grad():
        teacher(torch.randn(32, 3, 32, 32))
    schedule = Schedule(epochs=1, lr=0.1)
    options: dict[str, Any] = {"beta": 0.0, "alpha": 0.0, "bn_stats": "ir"}
    options |= {"sections": schedule, "finetune": schedule}
    return next(methods.lit(teacher, student, observer=Inference(teacher), **options))


def _train(phase: Phase) -> None:
    for module in phase.trains:
        module.train()


def _alike(lone: Step, ways: dict[str, tuple[Step, SharedStep]], batch: Batch) -> dict[str, bool]:
    """Whether a few steps of each way end in the weights of one process, on every rank."""

    def ends(run: Runner, step: Step, settle: Callable[[], None]) -> list[Tensor]:
        for at in range(ALIKE):
            run(batch, step=at, progress=0.0)
        settle()
        return [value.clone() for value in step.phase.model.state_dict().values()]

    expected = ends(lone, lone, lone.settle)
    found = {name: ends(shared, step, shared.settle) for name, (step, shared) in ways.items()}
    return {
        name: all(torch.equal(a, b) for a, b in zip(expected, values, strict=True))
        for name, values in found.items()
    }


def _seconds(run: Runner | None, threads: int, batch: Batch, steps: int, ranks: Ranks) -> float:
    """Of a step, the mean over some; all ranks begin together and end with the last one."""
    torch.set_num_threads(threads)
    ranks.barrier()
    started = perf_counter()
    for at in range(steps if run is not None else 0):
        assert run is not None
        run(batch, step=at, progress=0.0)
    ranks.barrier()
    seconds = perf_counter() - started
    torch.set_num_threads(1)
    return seconds / steps


def _row(
    name: str, times: list[float], baseline: list[float], predicted: float | None, batch: int
) -> dict[str, Any]:
    """What was measured of a contender beside what was predicted."""
    seconds = partial(percentile, times)
    ratio = speedup(baseline, times)
    found = {"contender": name, "step_s": seconds(50), "p10_s": seconds(10), "p90_s": seconds(90)}
    found |= {"samples_per_s": batch / seconds(50), "predicted_s": predicted}
    found["off"] = None if predicted is None else predicted / seconds(50) - 1
    return {**found, "speedup": ratio.speedup, "p10": ratio.p10, "p90": ratio.p90, "tie": ratio.tie}


if __name__ == "__main__":
    main()
