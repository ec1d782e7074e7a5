"""The placement of sections on ranks: exact against trying everything, and what it promises."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import pytest

from litfast.engine.costs import Cost, Costs, Link, Network, SectionCost, block_seconds
from litfast.engine.placement import Placement, place

NONE = Cost()


def costs(
    teacher: Sequence[float], student: Sequence[float], *, batch: int = 8, size: int = 1000, fixed: float = 0
) -> Costs:
    """Seconds of a whole batch for every section; 0 for a student means that it does not train."""
    sections = [
        SectionCost(
            name=f"s{i}" if own else "",
            teacher=Cost(per_row=taught / batch),
            student=Cost(fixed=fixed, per_row=own / batch) if own else NONE,
            ir_bytes=size,
            gradient_bytes=size,
        )
        for i, (taught, own) in enumerate(zip(teacher, student, strict=True))
    ]
    return Costs(batch=batch, stem=NONE, sections=tuple(sections), head=NONE)


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    first, *rest = items
    for partition in partitions(rest):
        yield [[first], *partition]
        for at, block in enumerate(partition):
            yield [*partition[:at], [first, *block], *partition[at + 1 :]]


def brute_force(given: Costs, world: int, *, relay: bool, split: bool) -> float:
    """The best step over all partitions and all numbers of ranks."""
    trained = [i for i, section in enumerate(given.sections) if section.name]
    line = list(range(trained[-1] + 1)) if relay else trained
    link = Network().link(world)
    shares = [n for n in range(1, world + 1) if given.batch % n == 0] if split else [1]
    best = float("inf")
    for partition in partitions(line):
        if relay and any(block != list(range(block[0], block[-1] + 1)) for block in partition):
            continue
        for counts in product(shares, repeat=len(partition)):
            if sum(counts) <= world:
                options = {"relay": relay, "link": link}
                times = [
                    block_seconds(given, block, ranks=n, last=block[-1] == line[-1], **options)
                    for block, n in zip(partition, counts, strict=True)
                ]
                best = min(best, max(times))
    return best


@pytest.mark.parametrize("relay", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_no_placement_is_faster(relay: bool, split: bool) -> None:
    draw = random.Random(0)
    for _ in range(12):
        count = draw.randint(1, 4)
        teacher = [draw.uniform(0.1, 1) for _ in range(count)]
        student = [draw.choice([0.0, draw.uniform(0.1, 3)]) for _ in range(count)]
        student[draw.randrange(count)] = 1.0
        given = costs(teacher, student, fixed=draw.choice([0.0, 0.05]))
        world = draw.randint(1, 5)
        found = place(given, world, relay=relay, split=split)
        assert found.step == pytest.approx(brute_force(given, world, relay=relay, split=split))
        held = sorted(i for block in found.blocks for i in block.sections)
        ranks = [rank for block in found.blocks for rank in block.ranks]
        assert {i for i, s in enumerate(given.sections) if s.name} <= set(held) == set(dict.fromkeys(held))
        assert len(held) == len(set(held)) and ranks == list(range(found.used)) and found.used <= world


def test_without_relay_the_last_section_takes_what_shares_its_prefix() -> None:
    found = place(costs([1, 1, 1], [1, 5, 1]), 2)
    assert [block.sections for block in found.blocks] == [(0, 2), (1,)]  # no run of neighbours is as fast
    assert found.step == pytest.approx(7) and found.exact


def test_a_relay_runs_every_teacher_section_once() -> None:
    given = costs([2, 2, 2], [2, 2, 2])
    assert place(given, 3).step == pytest.approx(8)
    assert place(given, 3, relay=True).step == pytest.approx(4)


def test_a_slow_link_is_worth_no_relay() -> None:
    slow = Network(per_machine=1, between=Link(bandwidth=1e-6, latency=0.0))  # 1 kB/s
    found = place(costs([1, 1], [1, 1]), 2, relay=True, network=slow)
    assert found.used == 1 and found.step == pytest.approx(4)


def test_a_heavy_section_is_split_by_rows() -> None:
    given = costs([0.1, 0.1], [8, 1], size=0)
    assert place(given, 3).step == pytest.approx(8.1)
    found = place(given, 3, split=True)
    assert [len(block.ranks) for block in found.blocks] == [2, 1]
    assert found.step == pytest.approx(4.05, rel=1e-3)
    assert (found.blocks[0].rows(0, 8), found.blocks[0].rows(1, 8)) == (slice(0, 4), slice(4, 8))
    assert found.block(2) == found.blocks[1] and found.block(3) is None


def test_more_ranks_are_never_slower_up_to_a_thousand() -> None:
    given = costs([1] * 12, [2] * 12, batch=128, fixed=1e-3)
    for relay in (False, True):
        steps = [place(given, 2**n, relay=relay, split=True).step for n in range(11)]
        assert all(later <= before * (1 + 1e-9) for before, later in pairwise(steps))
        assert steps[-1] < steps[0] / 50


def test_many_sections_are_shared_among_neighbours_and_say_so() -> None:
    found = place(costs([1] * 9, [1] * 9), 3)
    assert not found.exact
    assert all(list(b.sections) == list(range(b.sections[0], b.sections[-1] + 1)) for b in found.blocks)


def test_a_placement_survives_json() -> None:
    found = place(costs([1, 1], [2, 1]), 3, split=True)
    assert Placement.from_json(json.loads(json.dumps(found.json()))) == found


@pytest.mark.parametrize(
    ("points", "fixed", "per_row"),
    [
        ({4: 5.0, 8: 9.0}, 1.0, 1.0),
        ({4: 4.0, 8: 9.0}, 0.0, (16 + 72) / 80),  # no negative start
        ({4: 6.0, 8: 4.0}, 5.0, 0.0),  # more rows are not faster
        ({4: 2.0}, 0.0, 0.5),
    ],
)
def test_a_line_through_times_has_no_negative_term(
    points: dict[int, float], fixed: float, per_row: float
) -> None:
    assert Cost.through(points) == Cost(fixed=pytest.approx(fixed), per_row=pytest.approx(per_row))


def test_one_process_runs_everything_once() -> None:
    given = costs([1, 2], [3, 4])
    assert given.together() == pytest.approx(10)
    assert place(given, 1).step == pytest.approx(10)


@pytest.mark.parametrize(
    ("given", "world", "message"),
    [
        (costs([1], [1]), 0, "placement: ranks must be 1 or more, got 0"),
        (costs([1], [0]), 1, "placement: sections must hold at least one that trains, got none"),
    ],
)
def test_nothing_to_place_is_refused(given: Costs, world: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        place(given, world)
