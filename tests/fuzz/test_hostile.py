"""Every reader and every op is given what nobody should give it: no crash, no hang, no half of a result.

Thirty cases each; `pytest -m long tests/fuzz` gives each ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Target, fuzz
from .targets import TARGETS

Record = Callable[[str, object], None]
FEW, MANY = 30, 10_000
every_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@every_target
def test_hostile_input_is_taken_whole_or_refused(
    target: Target, tmp_path: Path, record_property: Record
) -> None:
    hold(target, FEW, tmp_path, record_property)


@pytest.mark.long
@every_target
def test_ten_thousand_hostile_inputs_are_taken_whole_or_refused(
    target: Target, tmp_path: Path, record_property: Record
) -> None:
    found = hold(target, MANY, tmp_path, record_property)
    assert sum(found.values()) >= MANY


def hold(target: Target, cases: int, folder: Path, record_property: Record) -> dict[str, int]:
    """Run the target; its counts go into the report for benchmarks/fuzz.py."""
    found = dict(fuzz(target, cases, folder))
    record_property("fuzz", {"target": target.name, **found})
    assert found.get("accepted") and (target.is_safe or found.get("refused")), f"one-sided: {found}"
    return found
