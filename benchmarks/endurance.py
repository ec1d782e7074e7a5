"""What a training survives: SIGKILL at random moments of every phase, and thousands of steps on end.

Each kill is a small LIT run (a teacher's phase, sections, fine-tuning) in a process of its own, killed at a
random time behind a random step, resumed in another process; its weights must be those of a run that nobody
killed, bit for bit. The long run is LIT with a loader's worker, a validation and a checkpoint every 20 steps;
memory, open files and what is on the disk are measured at every checkpoint.

python benchmarks/endurance.py --out benchmarks/results/endurance_cpu.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shlex
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

import litfast
from litfast.bench import record
from litfast.data import TorchLoader, sets
from litfast.data.resident import ResidentLoader
from litfast.engine.report import Report
from litfast.methods import lit, scratch

PHASES = ("teacher", "sections", "finetune")
EPOCHS, STEPS = 2, 4  # of a phase, of an epoch
SAMPLES, BATCH = 320, 16  # of the long run
LATEST = 0.03  # seconds between a step and its kill, at most: longer than a step, a checkpoint included
GROWTH_MIB = 8.0  # what an allocator may keep for itself between the second and the last quarter of a run


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where everything held, 1 where something did not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the record to write")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        killed = kills(Path(folder), given.kills, given.seed)  # first: what forks has no threads yet
        steady = soak(Path(folder, "soak"), given.steps)
    checks = {
        "every killed run died of SIGKILL": killed["died"] == given.kills,
        "every killed run resumed to equal bits": killed["bit_equal"] == given.kills,
        "memory is flat": steady["rss_growth_mib"] < GROWTH_MIB,
        "no file stays open": steady["open_files"][0] == steady["open_files"][-1],
        "checkpoints take no more room": steady["checkpoint_bytes_growth"] <= 0,
        "metrics.jsonl is readable while running": steady["journal_readable"],
        "TensorBoard is readable while running": steady["tensorboard_readable"],
    }
    words = ["--kills", str(given.kills), "--steps", str(given.steps), "--seed", str(given.seed)]
    line = shlex.join(["python", "benchmarks/endurance.py", "--out", given.out.name, *words])
    record.write(given.out, command=line, results={"kills": killed, "soak": steady}, checks=checks)
    for name, passed in checks.items():
        print(f"{'ok' if passed else 'FAILED':<8}{name}")
    return 0 if all(checks.values()) else 1


def kills(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill `count` runs, phase by phase in turn, and resume each."""
    draw = random.Random(seed)
    _forked(lambda: _finish(folder / "whole"))
    whole = (folder / "whole" / "digest").read_text()
    moments = []
    died = equal = 0
    for number in range(count):
        first = number % len(PHASES) * EPOCHS * STEPS
        last = first + EPOCHS * STEPS - (2 if number % len(PHASES) == len(PHASES) - 1 else 1)
        step, delay = draw.randint(first, last), draw.uniform(0.0, LATEST)
        out = folder / f"killed-{number}"
        status = _forked(lambda out=out, step=step, delay=delay: _finish(out, kill_at=step, delay=delay))  # type: ignore[misc]
        died += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        _forked(lambda out=out: _finish(out, resume=True))  # type: ignore[misc]
        equal += (out / "digest").read_text() == whole
        moments.append({"phase": PHASES[number % len(PHASES)], "step": step, "delay_ms": 1000 * delay})
    return {"count": count, "died": died, "bit_equal": equal, "moments": moments}


def _forked(work: Callable[[], None]) -> int:
    """Run `work` in a fork of this process; its wait status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def _finish(out: Path, *, resume: bool = False, kill_at: int | None = None, delay: float = 0.0) -> None:
    """Train to the end and leave a digest of the weights, or die `delay` seconds after a step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher, student = litfast.create("resnet14", classes=4), litfast.create("resnet8", classes=4)
    images = sets.load("synthetic", size=8, train=BATCH * STEPS)
    assert isinstance(images, sets.ImageSet) and isinstance(images.train, sets.Images)
    data = ResidentLoader(
        images.train.images,
        images.train.labels,
        batch=BATCH,
        train=True,
        crop=1,
        mean=images.mean,
        std=images.std,
    )
    schedule = litfast.Schedule(epochs=EPOCHS, lr=0.05, schedule="cosine")
    phases = chain(
        scratch(teacher, train=schedule, name=PHASES[0]),
        lit(teacher, student, sections=schedule, finetune=schedule, beta=0.0, noise=0.1),
    )
    for report in litfast.train(phases, data, out=out, resume=resume):
        done = (report.index * EPOCHS + report.epoch) * STEPS + report.step
        if report.kind == "step" and kill_at is not None and done == kill_at + 1:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if kill_at is not None:
        time.sleep(LATEST)  # the run was faster than its end
    content = b"".join(value.numpy().tobytes() for value in student.state_dict().values())
    (out / "digest").write_text(hashlib.sha256(content).hexdigest())


def soak(out: Path, steps: int) -> dict[str, Any]:
    """One long run; what it takes of the machine at every checkpoint."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = sets.load("synthetic", size=8, train=SAMPLES, val=32)
    assert isinstance(images, sets.ImageSet)
    assert isinstance(images.train, sets.Images) and isinstance(images.val, sets.Images)
    words: dict[str, Any] = {"mean": images.mean, "std": images.std, "batch": BATCH, "device": device}
    data = TorchLoader(images.train, train=True, crop=1, workers=1, **words)
    val = TorchLoader(images.val, train=False, **words)
    teacher, student = litfast.create("resnet14", classes=4), litfast.create("resnet8", classes=4)
    once = litfast.Schedule(epochs=1, lr=0.01)
    many = litfast.Schedule(epochs=max(8, steps // data.steps), lr=0.01)
    taken: dict[str, list[float]] = {key: [] for key in ("rss", "files", "checkpoints", "run", "reserved")}
    readable, events, done = True, 0, 0
    began = time.perf_counter()
    phases = lit(teacher, student, sections=many, finetune=once, beta=0.0)
    for report in litfast.train(phases, data, val, device, out):
        done += report.kind == "step"
        if report.kind == "epoch" and report.index == 0:
            _take(taken, out, device)
            readable &= _rows(out) == report.epoch
            if report.epoch % (many.epochs // 4) == 0:
                events = _events(out, report)
    quarter = many.epochs // 4
    early, late = slice(quarter, 2 * quarter), slice(-quarter, None)
    growth = {
        key: statistics.median(values[late]) - statistics.median(values[early])
        for key, values in taken.items()
    }
    return {
        "device": device,
        "steps": done,
        "seconds": round(time.perf_counter() - began, 1),
        "rss_mib": round(taken["rss"][-1] / 2**20, 1),
        "rss_growth_mib": round(growth["rss"] / 2**20, 2),
        "gpu_reserved_growth_mib": round(growth["reserved"] / 2**20, 2),
        "open_files": [int(taken["files"][quarter]), int(taken["files"][-1])],
        "checkpoint_bytes": int(taken["checkpoints"][-1]),
        "checkpoint_bytes_growth": int(growth["checkpoints"]),
        "run_bytes_an_epoch": round(growth["run"] / (many.epochs / 2)),
        "journal_readable": readable,
        "tensorboard_readable": events == many.epochs // quarter * quarter,
    }


def _take(taken: dict[str, list[float]], out: Path, device: str) -> None:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    taken["rss"].append(resident)
    taken["files"].append(len(os.listdir("/proc/self/fd")))
    taken["checkpoints"].append(_bytes(out / "checkpoints"))
    taken["run"].append(_bytes(out))
    taken["reserved"].append(torch.cuda.memory_reserved() if device == "cuda" else 0)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _rows(out: Path) -> int:
    return len([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()])


def _events(out: Path, report: Report) -> int:
    """How many epochs TensorBoard finds so far."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(out / "tensorboard")).Reload()
    return len(found.Scalars(f"{report.phase}/samples_per_s"))


if __name__ == "__main__":
    sys.exit(main())
