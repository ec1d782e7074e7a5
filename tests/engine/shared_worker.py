"""One rank of test_shared.py: shares out steps in several ways and compares them with those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import litfast
from litfast.data.loader import Batch
from litfast.engine import ranks as all_ranks
from litfast.engine.placement import Block, Placement
from litfast.engine.ranks import Ranks
from litfast.engine.shared import SharedStep
from litfast.engine.step import Step, prepared
from litfast.models import SectionedModel
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


def phase(*, norms: bool, folded: bool) -> Phase:
    """Independent sections, the same ones at every call."""
    torch.manual_seed(0)
    teacher, student = (litfast.sectioned(Net(depth, norms=norms), SECTIONS) for depth in (2, 1))
    schedule = Schedule(epochs=2, lr=0.1)
    options: dict[str, Any] = {"beta": 0.0, "bn_stats": "ir", "sections": schedule, "finetune": schedule}
    observer = Inference(teacher) if folded else None
    return next(iter(litfast.methods.lit(teacher, student, observer=observer, **options)))


def run(name: str, ranks: Ranks, *, alone: bool) -> dict[str, Tensor]:
    """Weights, statistics, averages and momenta after some steps, and the metrics of the last."""
    world, relay, norms, blocks = CASES[name]
    made = phase(norms=norms, folded=relay)
    with prepared(made, CPU):
        step = Step(made, precision="fp32", device=CPU, ema=0.9)
        found = [Block(sections=sections, ranks=members) for sections, members in blocks]
        placement = Placement(blocks=tuple(found), relay=relay, seconds=(1.0,) * len(found), exact=True)
        runner = None if alone else SharedStep(step, placement, ranks)
        metrics: dict[str, Tensor] = {}
        for at in range(STEPS):
            torch.manual_seed(at)
            batch = Batch(torch.randn(BATCH, 3, 6, 6), torch.randint(4, (BATCH,)))
            metrics = (runner or step)(batch, step=at, progress=at / STEPS)
            if runner is not None and at == 1:
                runner.settle()  # in the midst of it, with messages under way
        if runner is not None:
            runner.close()
            runner.settle()
            metrics = {key: value for own in ranks.gather(metrics) for key, value in own.items()}
        momenta = {
            f"momentum {branch} {key}": slots["momentum_buffer"]
            for branch, optimizer in step.optimizers.items()
            for key, slots in optimizer.state_dict()["state"].items()
        }
        assert step.average is not None
        averages = {f"average {key}": value for key, value in step.average.state().items()}
        return dict(made.model.state_dict()) | averages | momenta | metrics


def check(ranks: Ranks) -> None:
    """Every case of this number of ranks, on all of its ranks."""
    for name, (world, _, norms, _) in CASES.items():
        if world == ranks.world:
            ours, one = run(name, ranks, alone=False), run(name, ranks, alone=True)
            assert set(ours) == set(one), name
            for key, value in one.items():
                if norms:
                    assert torch.equal(ours[key], value), f"{name}: {key}"
                else:
                    torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6, msg=f"{name}: {key}")


def start(world: int, port: int, *words: str) -> list[subprocess.Popen[str]]:
    """`world` processes of this file."""
    job = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    own = os.environ | job | {"PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    line = [sys.executable, "-W", "ignore", str(Path(__file__)), *words]
    return [
        subprocess.Popen(
            line, env=own | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with all_ranks.joined() as joined:
        check(joined)
