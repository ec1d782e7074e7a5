"""One rank of test_shared.py: shared steps and runs, compared with those of one process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import litfast
from litfast.data import sets
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine import checkpoint
from litfast.engine import ranks as all_ranks
from litfast.engine.placement import Block, Placement
from litfast.engine.prepare import prepared
from litfast.engine.ranks import ALONE, RankLost, Ranks
from litfast.engine.shared import SharedStep, sharers
from litfast.engine.step import Step
from litfast.models.inference import Inference
from litfast.phase import Phase, Schedule

STEPS, BATCH, SECTIONS = 3, 8, ("a", "b", "c")
CPU = torch.device("cpu")
Blocks = list[tuple[tuple[int, ...], tuple[int, ...]]]  # sections, ranks
# name -> world, relay, batch norms, blocks; shared blocks are compared where no batch norm sees parts
CASES: dict[str, tuple[int, bool, bool, Blocks]] = {
    "apart": (2, False, True, [((0, 2), (0,)), ((1,), (1,))]),
    "relay": (2, True, True, [((0, 1), (0,)), ((2,), (1,))]),
    "an idle rank": (2, False, True, [((0, 1, 2), (1,))]),
    "rows": (2, False, False, [((0, 1, 2), (0, 1))]),
    "three blocks": (4, True, True, [((0,), (0,)), ((1,), (1,)), ((2,), (2,))]),
    "split, then whole": (4, True, False, [((0,), (0, 1)), ((1,), (2,)), ((2,), (3,))]),
    "whole, then split": (4, True, False, [((0, 1), (0,)), ((2,), (1, 2))]),
    "split apart": (4, False, False, [((0, 1), (2,)), ((2,), (0, 3))]),
}


class Net(nn.Module):
    """A stem, three sections of `depth` convolutions, a head."""

    def __init__(self, depth: int, *, norms: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        for name in SECTIONS:
            layers = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(depth)]
            after = [[nn.BatchNorm2d(4)] if norms else [] for _ in layers]
            parts = [part for layer, norm in zip(layers, after, strict=True) for part in (layer, *norm)]
            self.add_module(name, nn.Sequential(*parts, nn.ReLU()))
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.b(self.a(self.stem(x))))
        return self.head(x.mean((2, 3)))


def lit(*, norms: bool, folded: bool) -> Iterator[Phase]:
    """Independent sections and a fine-tuning, the same ones at every call."""
    torch.manual_seed(0)
    teacher, student = (litfast.sectioned(Net(depth, norms=norms), SECTIONS) for depth in (2, 1))
    schedule = Schedule(epochs=2, lr=0.1)
    options: dict[str, Any] = {"beta": 0.0, "bn_stats": "ir", "sections": schedule, "finetune": schedule}
    return litfast.methods.lit(teacher, student, observer=Inference(teacher) if folded else None, **options)


def steps(name: str, ranks: Ranks, *, alone: bool) -> dict[str, Tensor]:
    """Weights, statistics, averages and momenta after some steps, and the metrics of the last."""
    _, relay, norms, blocks = CASES[name]
    phase = next(lit(norms=norms, folded=relay))
    found = [Block(sections=sections, ranks=members) for sections, members in blocks]
    placement = Placement(blocks=tuple(found), relay=relay, seconds=(1.0,) * len(found), exact=True)
    group = ALONE if alone else sharers(placement, ranks)
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU, ema=0.9, ranks=group)
        shared = None if alone else SharedStep(step, placement, ranks)
        for at in range(STEPS):
            torch.manual_seed(at)
            batch = Batch(torch.randn(BATCH, 3, 6, 6), torch.randint(4, (BATCH,)))
            metrics = (shared or step)(batch, step=at, progress=at / STEPS)
            if shared is not None and at > 0:
                shared.settle()  # in the midst of it, with messages under way
        metrics = {name: value.double().clone() for name, value in metrics.items()}
        if shared is not None:
            ranks.mean(metrics.values())
        momenta = {
            f"momentum {branch} {key}": slots["momentum_buffer"]
            for branch, optimizer in step.optimizers.items()
            for key, slots in optimizer.state_dict()["state"].items()
        }
        assert step.average is not None
        averages = {f"average {key}": value for key, value in step.average.state().items()}
        return dict(phase.model.state_dict()) | averages | momenta | metrics


def check_steps(ranks: Ranks) -> None:
    """Every case of this number of ranks, on all of its ranks."""
    for name, (world, *_, blocks) in CASES.items():
        if world != ranks.world:
            continue
        ours, one = steps(name, ranks, alone=False), steps(name, ranks, alone=True)
        assert set(ours) == set(one), name
        for key, value in one.items():
            if all(len(members) == 1 for _, members in blocks):
                assert torch.equal(ours[key], value), f"{name}: {key}"
            else:
                torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5, msg=f"{name}: {key}")


def train(out: Path, *, stop: int = 0, kill: int = 0, **options: Any) -> None:
    """A whole run on whatever ranks there are; ended by closing it, or by its rank's death, at a step."""
    images = sets.load("synthetic", size=8, train=32)
    normalised: dict[str, Any] = {"mean": images.mean, "std": images.std}
    data = ResidentLoader(images.train.images, images.train.labels, batch=8, train=True, crop=1, **normalised)
    done = 0
    reports = litfast.train(
        lit(norms=True, folded=True), data, out=out, distributed="sections", log_every=1, **options
    )
    for report in reports:
        done += report.kind == "step"
        if done == stop > 0:
            reports.close()
        if done == kill > 0:
            os.kill(os.getpid(), signal.SIGKILL)


def check_sections(one: Path, other: Path) -> None:
    """The sections' phase ended alike, to the bit."""
    ours, theirs = (checkpoint.load(run / "checkpoints/0-sections.pt") for run in (one, other))
    for key, value in ours["model"].items():
        assert torch.equal(value, theirs["model"][key]), f"{other.name}: {key}"
    rows = [(run / "metrics.jsonl").read_text().splitlines()[:2] for run in (one, other)]
    assert len(rows[0]) == 2, rows


def check_runs(folder: Path, rank: int) -> None:
    """Runs of one rank and of two, each going on where the other stopped, and after the other's death."""
    if rank == 0:
        train(folder / "one")
        train(folder / "one, then two", stop=3)
    with all_ranks.joined() as ranks:
        check_steps(ranks)
        train(folder / "two")
        train(folder / "one, then two", relay=True, resume=True)
        train(folder / "two, then one", stop=6, relay=True)
    if rank == 0:
        train(folder / "two, then one", resume=True)


def check_loss(folder: Path, rank: int) -> None:
    """The second rank dies in its second epoch; the first one goes on alone."""
    try:
        with all_ranks.joined():
            train(folder / "killed", relay=True, kill=6 if rank == 1 else 0)
    except RankLost:
        train(folder / "killed", resume=True)
        for name in ("two", "one, then two", "two, then one", "killed"):
            check_sections(folder / "one", folder / name)
        ends = [checkpoint.load(folder / run / "checkpoints/1-finetune.pt") for run in ("one", "two")]
        for key, value in ends[0]["model"].items():
            torch.testing.assert_close(ends[1]["model"][key], value, rtol=1e-3, atol=1e-4, msg=key)
        (folder / "checked").touch()


def main(folder: Path) -> None:
    """All of it."""
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world > 2:
        with all_ranks.joined() as ranks:
            check_steps(ranks)
    else:
        check_runs(folder, rank)
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)  # the old one is still taken
        check_loss(folder, rank)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
