"""Which ranks train which sections: the placement whose slowest rank is the fastest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from litfast.engine.costs import Costs, Link, Network, block_seconds

MOST_FREE = 8  # trained sections; with more of them only neighbours share a rank
Sections = tuple[int, ...]
Needs = Mapping[Sections, int]  # how many ranks each block would take


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Sections, from 0, that train on the same ranks; these share out the rows of a batch evenly."""

    sections: Sections
    ranks: tuple[int, ...]

    def rows(self, rank: int, batch: int) -> slice:
        """The rows of a batch that one of the block's ranks takes."""
        share = batch // len(self.ranks)
        start = share * self.ranks.index(rank)
        return slice(start, start + share)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What every rank does, and how long a step should take.

    Attributes:
        blocks: in the order of the forward pass; ranks that are in none have nothing to do.
        relay: each block receives the teacher's IR from the one before; else it runs the teacher from the
            start, and nothing is sent.
        seconds: a step's on each block, predicted.
        exact: no other placement of this kind is faster by the cost model; else only those were tried in
            which neighbours share a rank.
    """

    blocks: tuple[Block, ...]
    relay: bool
    seconds: tuple[float, ...]
    exact: bool

    @property
    def step(self) -> float:
        """Seconds of a step: the slowest block's."""
        return max(self.seconds)

    @property
    def used(self) -> int:
        """Ranks that have something to do."""
        return sum(len(block.ranks) for block in self.blocks)

    def block(self, rank: int) -> Block | None:
        """The one that a rank is in."""
        return next((block for block in self.blocks if rank in block.ranks), None)

    def json(self) -> dict[str, Any]:
        """In values that JSON has; `from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Placement:
        """What `json` gave."""
        blocks = [
            Block(sections=tuple(block["sections"]), ranks=tuple(block["ranks"]))
            for block in document["blocks"]
        ]
        return cls(**{**document, "blocks": tuple(blocks), "seconds": tuple(document["seconds"])})


def place(
    costs: Costs,
    world: int,
    *,
    relay: bool = False,
    split: bool = False,
    network: Network | None = None,
) -> Placement:
    """Share sections out over at most `world` ranks, so that the slowest block is as fast as can be.

    The step's time is one of finitely many block times. The smallest one is searched for which the sections
    can be covered by blocks that are no slower and need no more than `world` ranks; fewer are taken where
    more would not help. Without relay any sections may share a rank: exact for up to MOST_FREE of them, by
    dynamic programming over subsets. Beyond that, and with relay, blocks are of neighbours: exact among
    these.

    Args:
        costs: measured, or made up.
        relay: hand the teacher's IRs on from block to block.
        split: let several ranks share a block by rows of the batch; their number divides the batch.

    Raises:
        ValueError: no rank, or no section that trains.
    """
    if world < 1:
        raise ValueError(f"placement: ranks must be 1 or more, got {world}")
    trained = [i for i, section in enumerate(costs.sections) if section.name]
    if not trained:
        raise ValueError("placement: sections must hold at least one that trains, got none")
    free = not relay and len(trained) <= MOST_FREE
    line = list(range(trained[-1] + 1)) if relay else trained  # a relay goes through what does not train, too
    table = _table(
        costs,
        _subsets(line) if free else _runs(line),
        ranks=_shares(costs.batch, world) if split else [1],
        relay=relay,
        link=(network or Network()).link(world),
    )
    times = sorted({seconds for row in table.values() for seconds in row.values()})
    cover = _cover_free if free else _cover_line

    def fits(limit: float) -> bool:
        needs = _needs(table, limit)
        found = cover(line, needs)
        return bool(found) and _ranks(found, needs) <= world

    needs = _needs(table, times[bisect_left(times, True, key=fits)])
    blocks: list[Block] = []
    at = 0
    for sections in sorted(cover(line, needs)):
        blocks.append(Block(sections=sections, ranks=tuple(range(at, at + needs[sections]))))
        at += needs[sections]
    seconds = tuple(table[block.sections][len(block.ranks)] for block in blocks)
    return Placement(blocks=tuple(blocks), relay=relay, seconds=seconds, exact=free or relay)


def _shares(batch: int, world: int) -> list[int]:
    """Into how many equal parts a batch goes for so many ranks."""
    return [parts for parts in range(1, min(world, batch) + 1) if batch % parts == 0]


def _subsets(line: Sequence[int]) -> list[Sections]:
    every = range(1, 1 << len(line))
    return [tuple(section for at, section in enumerate(line) if mask >> at & 1) for mask in every]


def _runs(line: Sequence[int]) -> list[Sections]:
    ends = range(1, len(line) + 1)
    return [tuple(line[start:end]) for end in ends for start in range(end)]


def _table(
    costs: Costs, blocks: Sequence[Sections], *, ranks: Sequence[int], relay: bool, link: Link
) -> dict[Sections, dict[int, float]]:
    """Seconds of every possible block by its number of ranks."""
    last = max(block[-1] for block in blocks)
    return {
        block: {
            count: block_seconds(costs, block, ranks=count, relay=relay, link=link, last=block[-1] == last)
            for count in ranks
        }
        for block in blocks
    }


def _needs(table: Mapping[Sections, Mapping[int, float]], limit: float) -> dict[Sections, int]:
    """The fewest ranks by which each block is as fast as `limit`; a block that cannot be is left out."""
    enough = {block: [n for n, seconds in row.items() if seconds <= limit] for block, row in table.items()}
    return {block: counts[0] for block, counts in enough.items() if counts}


def _cover_line(line: Sequence[int], needs: Needs) -> list[Sections]:
    """Runs of neighbours that hold every section and need the fewest ranks; none where there are no such."""
    best: dict[int, list[Sections]] = {0: []}  # sections from the start -> their cover
    for end in range(1, len(line) + 1):
        runs = [(start, tuple(line[start:end])) for start in range(end) if start in best]
        covers = [[*best[start], run] for start, run in runs if run in needs]
        if covers:
            best[end] = min(covers, key=lambda cover: _ranks(cover, needs))
    return best.get(len(line), [])


def _cover_free(line: Sequence[int], needs: Needs) -> list[Sections]:
    """Sets that hold every section once and need the fewest ranks; none where there are no such."""
    bits = {section: 1 << at for at, section in enumerate(line)}
    masks = {block: sum(bits[section] for section in block) for block in needs}
    by_first: dict[int, list[Sections]] = {}
    for block, mask in masks.items():
        by_first.setdefault(mask & -mask, []).append(block)
    best: dict[int, list[Sections]] = {0: []}  # the sections held, as a mask -> their cover
    whole = (1 << len(line)) - 1
    for held in range(whole):
        first_lacking = ~held & (held + 1)
        for block in by_first.get(first_lacking, []) if held in best else []:
            if masks[block] & held:
                continue
            cover, after = [*best[held], block], held | masks[block]
            if after not in best or _ranks(cover, needs) < _ranks(best[after], needs):
                best[after] = cover
    return best.get(whole, [])


def _ranks(cover: Sequence[Sections], needs: Needs) -> int:
    return sum(needs[block] for block in cover)
