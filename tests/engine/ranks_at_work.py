"""One of several ranks, doing everything that `test_ranks.py` looks at: `ranks_at_work.py OUT`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import litfast
from litfast import methods
from litfast.data import sets
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.data.tokens import StreamLoader
from litfast.engine import ranks
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.models import Input, SectionedModel
from litfast.models.stargan import Discriminator, Generator
from litfast.phase import Phase, Schedule

CPU = torch.device("cpu")
SGD = Schedule(epochs=2, lr=0.05, clip=0.5)
ADAM = Schedule(epochs=2, lr=1e-3, optimizer="adam", weight_decay=0.0)
BATCH, STEPS = 8, 2
CASES = {  # by name: a method's phase, and whether its losses are means over samples
    "scratch": (0, True),
    "kd": (0, True),
    "ban": (0, True),
    "fitnets": (0, True),
    "lit": (0, True),
    "lit_joint": (0, True),
    "lit_finetune": (1, True),
    "slimming": (0, True),
    "deep_compression": (0, True),
    "deep_compression_share": (1, True),
    "groupreduce": (0, True),
    "metadistiller": (0, False),  # one half of each rank's part teaches, the other judges
    "adversarial": (0, False),  # goals change places within each rank's part
}
FEW = (
    "lit",
    "groupreduce",
    "metadistiller",
    "adversarial",
)  # of more than two ranks


def model(name: str, seed: int) -> SectionedModel:
    torch.manual_seed(seed)
    return litfast.create(name, classes=4).double()


def words(classes: int) -> SectionedModel:
    torch.manual_seed(3)
    return litfast.create("lstm_lm", classes=classes, width=8, layers=1, dropout=0.0).double()


def phases(case: str) -> Iterator[Phase]:
    """All phases of a method on models that are the same in every process."""
    pair = (model("resnet14", 0), model("resnet8", 1))
    both = {"sections": SGD, "finetune": SGD}
    shape = Input((3, 8, 8))
    critic = Discriminator(4, image_size=8, channels=3, width=4).double()
    compressed = partial(
        methods.deep_compression, pair[0], copy.deepcopy(pair[0]), prune=SGD, share=SGD, removed=0.5, bits=2
    )
    made: dict[str, Callable[[], Iterator[Phase]]] = {
        "scratch": lambda: methods.scratch(pair[1], train=SGD),
        "kd": lambda: methods.kd(*pair, distill=SGD),
        "ban": lambda: methods.ban(*pair, distill=SGD),
        "fitnets": lambda: methods.fitnets(*pair, hint=SGD, distill=SGD, input=shape),
        "lit": lambda: methods.lit(*pair, **both, beta=0.0),
        "lit_joint": lambda: methods.lit(*pair, **both, beta=0.5),
        "lit_finetune": lambda: methods.lit(*pair, **both, beta=0.0),
        "slimming": lambda: methods.slimming(
            pair[0], copy.deepcopy(pair[0]), sparse=SGD, finetune=SGD, strength=1e-2
        ),
        "deep_compression": compressed,
        "deep_compression_share": compressed,
        "groupreduce": lambda: methods.groupreduce(
            words(60), words(60), finetune=SGD, counts=torch.arange(60), compression=2.0, blocks=3
        ),
        "metadistiller": lambda: methods.metadistiller(pair[1], train=SGD, input=shape, width=4),
        "adversarial": lambda: methods.adversarial(_generator(), critic, train=ADAM, domains=4),
    }
    return made[case]()


def _generator() -> SectionedModel:
    torch.manual_seed(5)
    return SectionedModel(Generator([1], classes=4, channels=3, width=4), ["bottleneck"]).double()


def batches(case: str) -> list[Batch]:
    """The batches of all ranks together."""
    generator = torch.Generator().manual_seed(2)
    if case == "groupreduce":
        drawn = [torch.randint(60, (BATCH, 5), generator=generator) for _ in range(STEPS)]
        return [Batch(ids[:, :-1], ids[:, 1:]) for ids in drawn]
    drawn = [torch.randn(BATCH, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(STEPS)]
    return [Batch(images, torch.arange(BATCH) % 4) for images in drawn]


def parts(batch: Batch, world: int) -> list[Batch]:
    """What each rank is given, as the loaders share out an epoch."""
    return [Batch(batch.images[rank::world], batch.target[rank::world]) for rank in range(world)]


def trained(case: str, given: Sequence[Batch], **options: Any) -> dict[str, Any]:
    """The model and the last metrics after a step on each batch."""
    phase = next(islice(phases(case), CASES[case][0], None))
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU, **options)
        step.wrap(_seeded)
        for number, batch in enumerate(given):
            metrics = step(batch, step=number, progress=0.0)
        step.settle()
    row = torch.stack([value.double() for value in metrics.values()])
    step.ranks.mean([row])
    own = [p.detach() for branch in phase.branches for p in branch.params]
    state = {k: v.clone() for k, v in phase.model.state_dict().items()}
    return {"params": own, "model": state, "metrics": dict(zip(metrics, row.tolist(), strict=True))}


def _seeded(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Random numbers that follow from the samples alone: one process draws for a part what a rank draws."""

    def call(seen: Any) -> Any:
        torch.manual_seed(int(seen.images.double().sum().abs() * 1e6))
        return function(seen)

    return call


def images(train: bool, every: ranks.Ranks) -> ResidentLoader:
    found = sets.load("synthetic", size=8, train=32, val=30)
    split = found.train if train else found.val
    assert split is not None
    return ResidentLoader(
        split.images,
        split.labels,
        batch=16 // every.world if train else 12,
        train=train,
        crop=1 if train else 0,
        seed=3,
        mean=found.mean,
        std=found.std,
        dtype=torch.float64,
        num_shards=every.world,
        shard_id=every.rank,
    )


def run(
    every: ranks.Ranks, out: Path | None = None, *, stop: int = 0, patience: int = 0, **options: Any
) -> dict[str, Any]:
    """Two phases of two epochs of LIT through `litfast.train`, with validation; closed after `stop` steps."""
    student = model("resnet8", 1)
    schedule = Schedule(epochs=2, lr=0.05, patience=patience)
    found = methods.lit(model("resnet14", 0), student, sections=schedule, finetune=schedule, beta=0.0)
    data, val = images(True, every), images(False, every)
    reports = litfast.train(found, data, val, out=out, ema=0.5, keep="best", log_every=2, **options)
    said = []
    for report in reports:
        said.append((report.kind, dict(report.metrics), report.val))
        if stop and sum(kind == "step" for kind, *_ in said) == stop:
            reports.close()  # type: ignore[attr-defined]
    return {"model": {k: v.clone() for k, v in student.state_dict().items()}, "said": said}


def text(every: ranks.Ranks, out: Path, *, stop: int = 0, resume: bool = False) -> dict[str, Any]:
    """An epoch of a language model, whose state goes from step to step."""
    ids = torch.randint(7, (300,), generator=torch.Generator().manual_seed(4))
    shard = {"num_shards": every.world, "shard_id": every.rank}
    data = StreamLoader(ids, batch=4 // every.world, length=8, train=True, **shard)
    net = words(7)
    reports = litfast.train(
        methods.scratch(net, train=Schedule(epochs=1, lr=0.5, clip=1.0)), data, out=out, resume=resume
    )
    for number, _ in enumerate(reports, 1):
        if number == stop:
            reports.close()  # type: ignore[attr-defined]
    return {k: v.clone() for k, v in net.state_dict().items()}


def talk(every: ranks.Ranks) -> dict[str, Any]:
    """What the ranks say to each other."""
    mine = [torch.full((2, 3), float(every.rank)), torch.tensor([1, 2, 3]) * (every.rank + 1)]
    given = [value.clone() for value in mine]
    every.mean([given[0], given[0][:, :0]])
    every.broadcast([given[1]], source=1)
    vote = ranks.Vote(every)
    pair = every.among([0, 1])
    inner = torch.tensor([float(every.rank)])
    pair.mean([inner])
    return {
        "mean": given[0],
        "broadcast": given[1],
        "gather": every.gather({"rank": every.rank}),
        "from_first": every.from_first(lambda: every.rank),
        "vote": [vote(15 * (call == every.rank == 1)) for call in range(4)],
        "pair": (pair.world, pair.rank, inner),
        "speaks": every.speaks(),
        "current": ranks.current() is every,
    }


def work(out: Path) -> None:
    torch.set_num_threads(1)
    with ranks.joined() as every:
        cases = CASES if every.world == 2 else FEW
        shares = {case: [parts(batch, every.world)[every.rank] for batch in batches(case)] for case in cases}
        together = {"ranks": every}
        found: dict[str, Any] = {"talk": talk(every)}
        for sync in (True, False):
            found[f"sync {sync}"] = {
                case: trained(case, share, sync_batch_norm=sync, **together) for case, share in shares.items()
            }
        found["whole"] = run(every)
        found["unsynced"] = run(every, sync_batch_norm=False, patience=1)
        run(every, out / "stopped", stop=3)
        every.barrier()
        saved = torch.load(out / "stopped" / "checkpoints" / "last.pt", weights_only=True)
        found["written"] = len(saved["ranks"]), len(list((out / "stopped" / "tensorboard").iterdir()))
        found["resumed"] = run(every, out / "alone", resume=True)
        text(every, out / "text", stop=4)
        found["text"] = text(every, out / "text alone", resume=True)
        torch.save(found, out / f"{every.rank}.pt")
        if every.rank == 1:
            raise SystemExit(3)  # without a word to the others
        try:
            every.barrier()
        except ranks.RankLost as error:
            (out / f"{every.rank}.lost").write_text(str(error))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
