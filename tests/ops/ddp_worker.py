"""One process of test_ddp.py: `ddp_worker.py RANK WORLD FOLDER` leaves its losses and gradients in FOLDER."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import litfast

ROWS, MICRO_BATCHES = 24, 2


class Network(nn.Module):
    """One section and a head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.section, self.head = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ir = self.section(x)
        return ir, self.head(ir.relu())


def total(student: nn.Module, x: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    ir, logits = student(x)
    with torch.no_grad():
        teacher_ir, teacher_logits = Network(seed=9)(x)
    options = {"alpha": 0.3, "beta": 0.6, "tau": 4.0, "scale": scale}
    return litfast.lit_loss([ir], [teacher_ir], logits, teacher_logits, target, **options).total


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(ROWS, 8, generator=generator), torch.randint(10, (ROWS,), generator=generator)


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        store=distributed.FileStore(str(folder / "store"), world),
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=30),
    )
    x, target = batch()
    plain, student = Network(seed=0), DistributedDataParallel(Network(seed=0))
    whole = total(plain, x, target)
    whole.backward()
    losses = []
    rows = torch.arange(rank, ROWS, world).chunk(MICRO_BATCHES)
    with student.no_sync():
        losses.append(total(student, x[rows[0]], target[rows[0]], scale=1 / MICRO_BATCHES))
        losses[-1].backward()
    losses.append(total(student, x[rows[1]], target[rows[1]], scale=1 / MICRO_BATCHES))
    losses[-1].backward()
    distributed.destroy_process_group()
    result = {
        "loss": torch.stack(losses).sum().detach(),
        "gradients": [p.grad for p in student.parameters()],
        "whole loss": whole.detach(),
        "whole gradients": [p.grad for p in plain.parameters()],
    }
    torch.save(result, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
