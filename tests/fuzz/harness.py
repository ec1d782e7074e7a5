"""One hostile case after another through a reader or an op: taken whole, or refused in one clear line."""

from __future__ import annotations

import re
import resource
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

SECONDS = 60.0  # that no case comes near, on a busy machine either: a hang
ROOM = 3 << 30  # bytes of address space beyond what the process has: an announced size is not set aside
LONGEST_LINE = 4000


class Hang(BaseException):
    """A case took too long; no reader catches it."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that takes what others have made.

    Attributes:
        cases: what it is given.
        run: (case, empty folder) -> None; asserts that whatever was accepted is whole.
        says: how each refusal begins, a regular expression.
        refusals: the errors that refuse.
        is_safe: whether it takes anything.
    """

    name: str
    cases: st.SearchStrategy[Any]
    run: Callable[[Any, Path], object]
    says: str
    refusals: tuple[type[Exception], ...] = (ValueError,)
    is_safe: bool = False


def fuzz(target: Target, cases: int, folder: Path) -> Counter[str]:
    """Give a target so many cases, the same ones each time; how many it accepted and refused.

    Raises:
        AssertionError, or what the target raised: a case that was neither, the smallest that was found; or
            none was accepted, or none refused by a target that is not safe.
    """
    found: Counter[str] = Counter()

    @settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(target.cases)
    def each(case: Any) -> None:
        found[outcome(target, case, folder)] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # a failing case may be long to print
        each()
    assert found["accepted"] and (target.is_safe or found["refused"]), f"one-sided: {found}"
    return found


def outcome(target: Target, case: Any, folder: Path) -> str:
    """ "accepted" or "refused"."""
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        with at_most(SECONDS), address_space(ROOM):
            target.run(case, place)
    except target.refusals as error:
        line = str(error)
        assert re.match(target.says, line) and "\n" not in line and len(line) < LONGEST_LINE, repr(error)
        return "refused"
    return "accepted"


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises Hang when the time is over."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def address_space(room: int) -> Iterator[None]:
    """Lets the process grow by `room` bytes and no more, where the system tells how large it is."""
    status = Path("/proc/self/statm")
    if not status.exists():
        yield
        return
    used = int(status.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    if before[0] != resource.RLIM_INFINITY or used > 1 << 40:  # a sanitizer maps terabytes
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
