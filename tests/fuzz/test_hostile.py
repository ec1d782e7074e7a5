"""Every reader and every op is given what nobody should give it: no crash, no hang, no half of a result.

Thirty cases each; `pytest -m long tests/fuzz` gives each ten thousand.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .harness import Target, fuzz
from .targets import TARGETS

FEW, MANY = 30, 10_000
every_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@every_target
def test_hostile_input_is_taken_whole_or_refused(target: Target, tmp_path: Path) -> None:
    fuzz(target, FEW, tmp_path)


@pytest.mark.long
@every_target
def test_ten_thousand_hostile_inputs_are_taken_whole_or_refused(target: Target, tmp_path: Path) -> None:
    assert fuzz(target, MANY, tmp_path).total() >= MANY
