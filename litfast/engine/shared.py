"""A step whose independent branches are shared out over ranks: no gradient travels, or few do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from litfast.carried import carried
from litfast.data.loader import Batch
from litfast.engine import optim
from litfast.engine.placement import Block, Placement
from litfast.engine.ranks import ALONE, Ranks
from litfast.engine.relay import Relay, Route
from litfast.engine.step import Step
from litfast.fields import each
from litfast.phase import Branch


class SharedStep:
    """Runs a step's branches where a placement puts them; called as the step is, on every rank.

    Each rank gets the whole batch. It runs the teacher up to its last section, or with a relay from its first
    to its last one, and trains its own sections; ranks that share a block each take some of the rows, and the
    mean of their gradients. The rest of the model goes stale until `settle`.

    Metrics are filled up for the mean over all ranks, which then is that of the whole batch.

    Without shared blocks, noise and dropout the weights are those of one process at the same thread count,
    to the bit. Ranks of one block differ from that in rounding and, unless the step has `sync_batch_norm`, in
    batch norm, which then sees the rows of its rank.

    Args:
        step: of a phase with a `line`, eager; its `ranks` are `sharers(placement, ranks)`.
        placement: of its sections; the same on every rank.
        ranks: all of the job.

    Raises:
        ValueError: parts of a batch cannot be relayed, nor what a model carries from batch to batch.
    """

    def __init__(self, step: Step, placement: Placement, ranks: Ranks) -> None:
        line = step.phase.line
        assert line is not None, step.phase.name
        if placement.relay and step.accumulate > 1:
            raise ValueError(f"train: accumulate must be 1 with relay, got {step.accumulate}")
        if carried(step.phase.model, *step.phase.frozen) is not None:
            raise ValueError("train: distributed must be data for a model that carries a state, got sections")
        step.placement = placement.json()
        self._step, self._line, self._ranks = step, line, ranks
        self.placement = placement
        self.block = placement.block(ranks.rank)
        self._mine = {b.name for b in step.phase.branches if self._owner(b) is self.block}
        self._relay: Relay | None = None
        self._metrics: dict[str, list[str]] = {}  # of every branch
        step.wrap(lambda function: self._observe if function is step.phase.observe else function)

    def __call__(self, batch: Batch, *, step: int, progress: float) -> dict[str, Tensor]:
        """This rank's part of a step."""
        due = [branch for branch in self._step.due(step) if branch.name in self._mine]
        metrics: dict[str, Tensor] = {}
        if self.block is not None and (due or self.placement.relay):
            self._step.set_lr(due, progress)
            rows = self.block.rows(self._ranks.rank, len(batch.target))
            metrics = self._step.compute(rows_of(batch, rows), due)
        return self._filled(metrics)

    def settle(self) -> None:
        """Give every rank all sections: weights, statistics, averages, optimizers' state and loss scales.

        On all ranks after as many steps.
        """
        self.drain()
        for block in self.placement.blocks:
            weights, others = self._tensors(block)
            if self.block is block:
                self._step.ranks.mean(tensor for tensor in others if tensor.is_floating_point())
            self._ranks.broadcast([*weights, *others], source=block.ranks[0])
        first = self.block is not None and self.block.ranks[0] == self._ranks.rank
        for states in self._ranks.gather(self._optimizers() if first else {}):
            for name, (optimizer, scaler) in states.items():
                if name not in self._mine:
                    optim.load(self._step.optimizers[name], optimizer)
                    self._step.scalers[name].load_state_dict(scaler)

    def drain(self) -> None:
        """Have no IR under way, on all ranks after as many steps."""
        if self._relay is not None:
            self._relay.drain()

    def _observe(self, batch: Batch) -> Any:
        """What this rank's branches read."""
        block, line = self.block, self._line
        assert block is not None
        first, last = block.sections[0], block.sections[-1]
        if not self.placement.relay:
            return line.run(batch, first, last, None)
        if self._relay is None:
            self._relay = self._connect(line.run(batch, 0, last, None), len(batch.target))
        seen = line.run(batch, first, last, self._relay.receive() if first else None)
        if block is not self.placement.blocks[-1]:
            self._relay.send(line.output(seen, last))
        return seen

    def _filled(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every active branch's metrics, such that their mean over all ranks is right: zeros for the others'.

        Counts add up over the rows of a block's ranks, all else is a mean over them.
        """
        if not self._metrics:
            own = {b: [name for name in metrics if name.startswith(f"{b}.")] for b in sorted(self._mine)}
            for found in self._ranks.gather(own):
                self._metrics |= found
        world = self._ranks.world
        zero = torch.zeros((), dtype=torch.float64, device=self._step.device)
        filled = {}
        for name in (name for branch in self._step.active for name in self._metrics.get(branch.name, [])):
            factor = world if name.endswith(".correct") else world / self._step.ranks.world
            filled[name] = metrics[name].double() * factor if name in metrics else zero
        return filled

    def _connect(self, seen: Any, rows: int) -> Relay:
        """The relay between the blocks around this rank's, for tensors as they were `seen`."""
        blocks, block = self.placement.blocks, self.block
        assert block is not None
        at = blocks.index(block)
        before, behind = blocks[:at][-1:], blocks[at + 1 :][:1]
        whole = rows * len(block.ranks)
        ours = block.rows(self._ranks.rank, whole)
        return Relay(
            self._ranks,
            entering=self._line.output(seen, block.sections[0] - 1) if before else None,
            leaving=self._line.output(seen, block.sections[-1]) if behind else None,
            sources=[route for other in before for route in _routes(ours, other, whole)],
            sinks=[route for other in behind for route in _routes(ours, other, whole)],
        )

    def _owner(self, branch: Branch) -> Block:
        section = self._line.of[branch.name]
        return next(block for block in self.placement.blocks if section in block.sections)

    def _tensors(self, block: Block) -> tuple[list[Tensor], list[Tensor]]:
        """What the training of a block changes: weights, then statistics and averages."""
        step = self._step
        own = {id(p) for b in step.phase.branches if self._owner(b) is block for p in b.params}
        modules = [m for m in step.phase.trains if any(id(p) in own for p in m.parameters())]
        weights = [parameter.detach() for module in modules for parameter in module.parameters()]
        others = [buffer for module in modules for buffer in module.buffers()]
        if step.average is not None:
            others += step.average.of([*weights, *others])
        return weights, others

    def _optimizers(self) -> dict[str, tuple[Any, Any]]:
        """The states of this rank's own optimizers and loss scales, on the CPU."""
        step = self._step
        return {
            name: (_on_cpu(step.optimizers[name].state_dict()), step.scalers[name].state_dict())
            for name in sorted(self._mine)
        }


def sharers(placement: Placement, ranks: Ranks) -> Ranks:
    """Those that share this rank's block; to be called by all."""
    found = [ranks.among(block.ranks) for block in placement.blocks]
    own = [group for block, group in zip(placement.blocks, found, strict=True) if ranks.rank in block.ranks]
    return own[0] if own else ALONE


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch, as views."""
    return Batch(*each(lambda x: x[rows], batch))


def _routes(ours: slice, block: Block, batch: int) -> list[Route]:
    """Which of our rows each rank of a neighbouring block has, counted from our first one."""
    found = []
    for rank in block.ranks:
        theirs = block.rows(rank, batch)
        start, stop = max(ours.start, theirs.start), min(ours.stop, theirs.stop)
        if start < stop:
            found.append((rank, slice(start - ours.start, stop - ours.start)))
    return found


def _on_cpu(value: Any) -> Any:
    match value:
        case Tensor():
            return value.cpu()
        case Mapping():
            return {key: _on_cpu(inner) for key, inner in value.items()}
    return value
