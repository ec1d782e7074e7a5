"""Loss ops against what one would write without litfast, interleaved, behind the correctness gate.

python -m benchmarks.ratios_ops --out benchmarks/results/ops_cpu.json

Contenders, loss and gradient each: "eager", plain torch as its users write it; "compile", torch.compile of
the same formula; "cpp", litfast. "triad", c = a + b over the same bytes, is the roof of an op that reads
student and teacher once and writes the gradient once; it allocates its result as the op does.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litfast import ops, testing
from litfast.bench import record
from litfast.bench.stats import percentile, speedup
from litfast.testing import Sample

SECTIONS = ((128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8))  # irs[1:] of a CIFAR ResNet at batch 128
ALPHA, TAU = 0.3, 4.0
Run = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratios of the loss ops on the CPU.")
    parser.add_argument("--out", type=Path, required=True, help="the record to write")
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each row of contenders")
    given = parser.parse_args()
    results, checks = [], {}
    for sample in samples():
        wrong = testing.misses(sample, "cpp")
        checks[str(sample)] = not wrong
        if wrong:
            print(f"{sample}: not timed: {'; '.join(wrong)}")
            continue
        results += rows(str(sample), contenders(sample), given.seconds)
    command = shlex.join(["python", "-m", "benchmarks.ratios_ops", *sys.argv[1:]])
    record.write(given.out, command=command, results=results, checks=checks, threads=torch.get_num_threads())


def samples() -> Iterator[Sample]:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        pairs = [tuple(torch.randn(shape).to(dtype) for _ in range(2)) for shape in SECTIONS]
        name = "CIFAR sections B=128 " + str(dtype).removeprefix("torch.")
        yield Sample(op="ir", name=name, args=([s for s, _ in pairs], [t for _, t in pairs]), options={})
    for rows_, classes in ((128, 10), (1024, 1000), (512, 32_000)):
        logits = [torch.randn(rows_, classes) for _ in range(2)]
        args = (*logits, torch.randint(classes, (rows_,)))
        yield Sample(
            op="kd", name=f"{rows_}x{classes} float32", args=args, options={"tau": TAU, "alpha": ALPHA}
        )


def contenders(sample: Sample) -> dict[str, Run]:
    """What is timed, by name."""
    torch.compiler.reset()
    formula = eager_ir if sample.op == "ir" else eager_kd
    students = sample.args[0] if sample.op == "ir" else [sample.args[0]]
    teachers = sample.args[1] if sample.op == "ir" else [sample.args[1]]
    leaves = [student.requires_grad_() for student in students]
    compiled = torch.compile(formula, dynamic=False, fullgraph=True)
    ours = ops.ir_loss if sample.op == "ir" else ops.kd_loss
    a, b = (torch.cat([t.detach().flatten() for t in side]) for side in (students, teachers))
    return {
        "eager": lambda: torch.autograd.grad(formula(*sample.args), leaves),
        "compile": lambda: torch.autograd.grad(compiled(*sample.args), leaves),
        "cpp": lambda: torch.autograd.grad(ours(*sample.args, **sample.options, backend="cpp"), leaves),
        "triad": lambda: torch.add(a, b),
    }


def eager_ir(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    total = F.mse_loss(students[0], teachers[0])
    for student, teacher in zip(students[1:], teachers[1:], strict=True):
        total = total + F.mse_loss(student, teacher)
    return total


def eager_kd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    soft = F.cross_entropy(student / TAU, F.softmax(teacher / TAU, -1))
    return ALPHA * F.cross_entropy(student, target) + (1 - ALPHA) * TAU**2 * soft


def rows(group: str, runs: dict[str, Run], seconds: float) -> list[dict[str, Any]]:
    """A B C D A B C D ...: every contender once a round, so that all see the same machine."""
    for run in runs.values():
        for _ in range(3):
            run()
    took: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took["cpp"]) < 10:
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            took[name].append(time.perf_counter() - started)
    found = []
    for name, times in took.items():
        row: dict[str, Any] = {"group": group, "contender": name, "check": group}
        row["median_ms"] = 1000 * percentile(times, 50)
        if name != "cpp":
            against = speedup(times, took["cpp"])
            row |= {"speedup_of_cpp": against.speedup, "p10": against.p10, "p90": against.p90}
            row |= {"rounds": against.rounds, "tie": against.tie}
            print(f"{group:<36} {name:<8} {row['median_ms']:9.3f} ms   cpp is {against.speedup:6.2f}x")
        else:
            print(f"{group:<36} {name:<8} {row['median_ms']:9.3f} ms")
        found.append(row)
    return found


if __name__ == "__main__":
    main()
