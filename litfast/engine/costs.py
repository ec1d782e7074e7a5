"""What a step of independent sections costs, on one rank or shared out over several: the cost model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Seconds for so many rows of a batch: fixed + per_row * rows."""

    fixed: float = 0.0
    per_row: float = 0.0

    def at(self, rows: int) -> float:
        """Seconds for `rows`."""
        return self.fixed + self.per_row * rows

    @classmethod
    def through(cls, points: Mapping[int, float]) -> Cost:
        """The least-squares line through seconds by rows; neither of its terms is negative."""
        count, rows, times = len(points), list(points), list(points.values())
        mean_rows, mean_times = sum(rows) / count, sum(times) / count
        spread = sum((r - mean_rows) ** 2 for r in rows)
        slope = (
            sum((r - mean_rows) * (t - mean_times) for r, t in points.items()) / spread
            if spread
            else mean_times / mean_rows
        )
        if slope < 0:
            return cls(fixed=mean_times)
        if slope * mean_rows > mean_times:
            return cls(per_row=sum(r * t for r, t in points.items()) / sum(r * r for r in rows))
        return cls(fixed=mean_times - slope * mean_rows, per_row=slope)


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionCost:
    """One section.

    Attributes:
        name: the branch that trains it; "" where it does not train.
        teacher: forward pass of the teacher's section.
        student: loss, backward and update of the student's.
        ir_bytes: of one row of what the teacher's section gives.
        gradient_bytes: of the student's section.
    """

    name: str
    teacher: Cost
    student: Cost
    ir_bytes: int
    gradient_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """All sections in the order of the forward pass, at a batch of `batch` rows; the stem and head beside."""

    batch: int
    stem: Cost
    sections: tuple[SectionCost, ...]
    head: Cost

    def together(self) -> float:
        """Seconds of a step in one process: all of the teacher, then every section."""
        lines = [self.stem, self.head]
        lines += [line for section in self.sections for line in (section.teacher, section.student)]
        return sum(line.at(self.batch) for line in lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A way between two ranks: gigabytes (1e9) a second, and microseconds before the first byte."""

    bandwidth: float
    latency: float

    def seconds(self, size: float) -> float:
        """Of a message of `size` bytes."""
        return 1e-6 * self.latency + size / (1e9 * self.bandwidth)


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """How ranks reach each other: `per_machine` of them share one.

    A job of more ranks counts every link as one between machines: an upper bound, as neighbours often share
    a machine. The defaults are modest: gloo through the loopback device, and Ethernet of 10 Gbit/s.
    """

    per_machine: int = 8
    inside: Link = Link(bandwidth=2.0, latency=100.0)
    between: Link = Link(bandwidth=1.25, latency=100.0)

    def link(self, world: int) -> Link:
        """The one that a job of `world` ranks is counted with."""
        return self.inside if world <= self.per_machine else self.between


def block_seconds(
    costs: Costs,
    sections: Sequence[int],
    *,
    ranks: int,
    relay: bool,
    last: bool,
    link: Link,
) -> float:
    """Seconds of a step on the ranks that share a block of sections, rows of the batch shared out evenly.

        work   = [stem] + teacher's sections + the block's own sections, each at batch / ranks rows
        mean   = 2 (ranks - 1) (latency + gradients / ranks / bandwidth)      (a ring; 0 on one rank)
        block  = max(work + mean, each relayed message)                       (double-buffered: overlapped)

    Without relay the teacher's sections are all up to the block's last one, and no message is relayed. Not
    counted: batch norms' messages among ranks that share a block, and what ranks of one machine take from
    each other's memory bandwidth beyond what was so when the costs were measured.

    Args:
        sections: ascending; with relay without a gap.
        ranks: a divisor of the batch.
        last: whether no block comes after this one in the relay.
    """
    rows = costs.batch // ranks
    start = sections[0] if relay else 0
    work = costs.stem.at(rows) if start == 0 else 0.0
    work += sum(costs.sections[i].teacher.at(rows) for i in range(start, sections[-1] + 1))
    own = [costs.sections[i] for i in sections if costs.sections[i].name]
    work += sum(section.student.at(rows) for section in own)
    if ranks > 1 and own:
        size = sum(section.gradient_bytes for section in own) / ranks
        work += 2 * (ranks - 1) * link.seconds(size)
    messages = []
    if start > 0:
        messages.append(rows * costs.sections[start - 1].ir_bytes)
    if relay and not last:
        messages.append(rows * costs.sections[sections[-1]].ir_bytes)
    return max(work, *(link.seconds(size) for size in messages), 0.0)
