"""A small LIT run that kills its own process, as a power cut would, at a given step: `killed.py OUT STEP`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import litfast
from litfast.data import sets
from litfast.data.resident import ResidentLoader


def run(out: Path, *, resume: bool = False, kill_at: int | None = None) -> dict[str, Any]:
    """Train (two phases of two epochs of four steps); returns the student's weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher, student = litfast.create("resnet14", classes=4), litfast.create("resnet8", classes=4)
    images = sets.load("synthetic", size=8, train=64)
    normalised = {"mean": images.mean, "std": images.std}
    data = ResidentLoader(
        images.train.images, images.train.labels, batch=16, train=True, crop=1, **normalised
    )
    schedule = litfast.Schedule(epochs=2, lr=0.05, schedule="cosine")
    phases = litfast.methods.lit(teacher, student, sections=schedule, finetune=schedule, beta=0.0, noise=0.1)
    steps = 0
    for report in litfast.train(phases, data, out=out, resume=resume):
        steps += report.kind == "step"
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    return dict(student.state_dict())


if __name__ == "__main__":
    run(Path(sys.argv[1]), kill_at=int(sys.argv[2]))
