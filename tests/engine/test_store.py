"""A checkpoint that is torn or spoilt is known, set aside, and the one before it used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import litfast
from litfast.data.resident import ResidentLoader
from litfast.engine import Report, checkpoint
from litfast.phase import Phase

Toys = Callable[..., Phase]
Run = Callable[..., list[Report]]


@pytest.fixture
def run(phase: Toys, data: ResidentLoader) -> Run:
    """run(model, out, stop=n): two phases of four epochs (of four steps), closed behind the n-th report."""

    def of(model: nn.Module, out: Path, *, stop: int | None = None, **options: Any) -> list[Report]:
        phases = [phase(model, name=name, epochs=4) for name in ("first", "second")]
        reports, found = litfast.train(phases, data, out=out, **options), []
        for report in reports:
            found.append(report)
            if len(found) == stop:
                break
        reports.close()  # type: ignore[attr-defined]
        return found

    return of


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.mark.parametrize("spoil", [flip, tear])
@pytest.mark.parametrize(
    ("stop", "file", "used"),
    [
        (12, "last.pt", "last-1.pt, at step 8"),
        (25, "last.pt", "0-first.pt, at step 16"),
        (23, "0-first.pt", "last-1.pt, at step 16"),
        (None, "1-second.pt", "0-first.pt, at step 16"),
    ],
    ids=["under way", "first of a phase", "end, in the next phase's first epoch", "end, when all is over"],
)
def test_the_checkpoint_before_a_spoilt_one_is_used_and_said(
    spoil: Callable[[Path], None], stop: int | None, file: str, used: str, run: Run, toy: Any, tmp_path: Path
) -> None:
    start = {key: value.clone() for key, value in toy.state_dict().items()}
    run(toy, tmp_path / "whole")
    whole = {key: value.clone() for key, value in toy.state_dict().items()}
    out = tmp_path / "parts"
    toy.load_state_dict(start)
    run(toy, out, stop=stop)
    spoil(out / "checkpoints" / file)
    toy.load_state_dict(start)
    reports = run(toy, out, resume=True)
    said = [line for report in reports for line in report.notes]
    assert f"{file} must be a whole litfast checkpoint, got: " in said[0]
    assert f"; {used}" in said[0] and said[0].endswith(f"{file}.aside keeps what was there")
    assert all(torch.equal(value, toy.state_dict()[key]) for key, value in whole.items())
    rows, expected = (
        (tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("parts", "whole")
    )
    assert [json.loads(row)["step"] for row in rows] == [json.loads(row)["step"] for row in expected]
    assert {"0-first.pt", "1-second.pt", f"{file}.aside"} <= set(names(out))


def test_nothing_is_set_aside_where_nothing_can_be_used(run: Run, toy: Any, tmp_path: Path) -> None:
    run(toy, tmp_path, stop=12)
    for path in (tmp_path / "checkpoints").iterdir():
        flip(path)
    before = names(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"last.pt must be a whole .* another checksum than it was written with .there is none",
    ):
        run(toy, tmp_path, resume=True)
    assert names(tmp_path) == before


@pytest.mark.parametrize(("keep", "kept"), [(1, []), (2, ["last-1.pt"]), (3, ["last-1.pt", "last-2.pt"])])
def test_the_last_few_stay_until_the_run_is_over(
    keep: int, kept: list[str], run: Run, toy: Any, tmp_path: Path
) -> None:
    run(toy, tmp_path, stop=18, keep_checkpoints=keep)
    steps = {name: checkpoint.load(tmp_path / "checkpoints" / name)["progress"] for name in names(tmp_path)}
    assert sorted(steps) == sorted([*kept, "last.pt"])
    found = [steps[name]["global_step"] for name in sorted(steps, key=len)]
    assert sorted(found, reverse=True) == [15, 12, 8][:keep] and steps["last.pt"]["global_step"] == 15
    run(toy, tmp_path, resume=True, keep_checkpoints=keep)
    assert names(tmp_path) == ["0-first.pt", "1-second.pt"]


def test_a_power_cut_between_two_renames_loses_no_more_than_the_newest(
    run: Run, toy: Any, tmp_path: Path
) -> None:
    run(toy, tmp_path, stop=12)
    folder = tmp_path / "checkpoints"
    shutil.move(folder / "last.pt", folder / "last-1.pt")
    reports = run(toy, tmp_path, resume=True)
    assert (reports[0].epoch, reports[0].step) == (2, 3) and not reports[0].notes
