"""Several ranks on gloo, started once for two and once for four, against one process on all samples.

What the ranks do is in `ranks_at_work.py`; here it is compared with what one process does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import litfast
from litfast.data.loader import Batch
from litfast.engine import ranks

from . import ranks_at_work as at_work

SCRIPT = Path(at_work.__file__)
EXACT = {"rtol": 1e-8, "atol": 1e-10}  # fp64, sums in another order


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(litfast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The number of ranks and the folder of what they have written."""
    world, out = request.param, tmp_path_factory.mktemp("job")
    at_work.run(ranks.ALONE, out / "alone", stop=3)
    at_work.text(ranks.ALONE, out / "text alone", stop=4)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(out)],
            env=environment(**common, RANK=str(rank), LOCAL_RANK=str(rank)),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    ends = [(process.communicate(timeout=900)[1], process.returncode) for process in started]
    said = "\n".join(error for error, _ in ends)
    assert [code for _, code in ends] == [3 if rank == 1 else 0 for rank in range(world)], said
    return world, out


@pytest.fixture(scope="module")
def found(job: tuple[int, Path]) -> list[dict[str, Any]]:
    """What each rank has found."""
    world, out = job
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The run of one process."""
    return at_work.run(ranks.ALONE)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal to the bit."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def lasting(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in model.items() if "running_" not in name and "num_b" not in name}


def test_the_ranks_hear_each_other(found: list[dict[str, Any]]) -> None:
    world = len(found)
    assert sum(one["talk"]["speaks"] for one in found) == 1
    for rank, ours in enumerate(one["talk"] for one in found):
        assert_same(ours["mean"], torch.full((2, 3), (world - 1) / 2))
        assert ours["broadcast"].tolist() == [2, 4, 6]
        assert ours["gather"] == [{"rank": other} for other in range(world)]
        assert ours["from_first"] == 0 and ours["current"]
        assert ours["vote"] == [0, 0, 15, 0]  # all at the same call, the one after it was said
        size, place, inner = ours["pair"]
        member = rank < 2
        assert (size, place) == ((2, rank) if member else (1, 0))
        assert inner.item() == (0.5 if member else rank)


def test_a_step_is_that_of_one_process_with_the_joined_batch(found: list[dict[str, Any]]) -> None:
    """Of every method; batch norm's running statistics as well: they are those of all ranks' samples."""
    for case in (case for case in found[0]["sync True"] if at_work.CASES[case][1]):
        whole = at_work.trained(case, at_work.batches(case))
        for ours in (one["sync True"][case] for one in found):
            torch.testing.assert_close(ours["params"], whole["params"], **EXACT, msg=case)
            torch.testing.assert_close(ours["model"], whole["model"], **EXACT, msg=case)
            for name, value in whole["metrics"].items():
                share = len(found) if name.endswith("correct") else 1  # counts of a rank's part
                wanted = pytest.approx(value, rel=1e-7, abs=1e-9)
                assert ours["metrics"][name] * share == wanted, (case, name)


def test_without_joint_batch_norm_it_is_that_of_as_many_parts(found: list[dict[str, Any]]) -> None:
    """Of every method, MetaDistiller's second order and adversarial branches among them."""
    world = len(found)
    for case in found[0]["sync False"]:
        shares = [at_work.parts(batch, world) for batch in at_work.batches(case)]
        rows = [Batch(*(torch.cat(column) for column in zip(*share, strict=True))) for share in shares]
        whole = at_work.trained(case, rows, accumulate=world)
        for ours in (one["sync False"][case] for one in found):
            torch.testing.assert_close(ours["params"], whole["params"], **EXACT, msg=case)
            torch.testing.assert_close(lasting(ours["model"]), lasting(whole["model"]), **EXACT, msg=case)


def test_all_ranks_hold_the_same_bits(found: list[dict[str, Any]]) -> None:
    first, *others = found
    for other in others:
        for key in ("sync True", "sync False"):
            for case in first[key]:
                assert_same(other[key][case]["model"], first[key][case]["model"])
        for key in ("whole", "unsynced", "resumed"):
            assert_same(other[key]["model"], first[key]["model"])
        assert_same(other["text"], first["text"])
        for ours, theirs in zip(other["whole"]["said"], first["whole"]["said"], strict=True):
            assert ours[0] == theirs[0] and ours[2] == theirs[2]


def test_a_run_is_that_of_one_process(found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Sharded loaders and validation, averaged weights, the best ones kept: same numbers in every report."""
    ours = found[0]["whole"]
    torch.testing.assert_close(ours["model"], alone["model"], **EXACT)
    for (kind, metrics, val), (other, wanted, whole) in zip(ours["said"], alone["said"], strict=True):
        assert kind == other and metrics.keys() == wanted.keys()
        for name in wanted:
            assert metrics[name] == pytest.approx(wanted[name], rel=1e-6, abs=1e-9), name
        assert (val is None) == (whole is None)
        if val is not None:
            assert (val.accuracy, val.samples) == (pytest.approx(whole.accuracy), whole.samples == 30 and 30)
            assert val.loss == pytest.approx(whole.loss, rel=1e-6)


def test_a_run_resumes_on_another_number_of_ranks(
    job: tuple[int, Path], found: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    """Begun by one process and finished by several, begun by several and finished by one."""
    torch.testing.assert_close(found[0]["resumed"]["model"], alone["model"], **EXACT)
    ours = at_work.run(ranks.ALONE, job[1] / "stopped", resume=True)
    torch.testing.assert_close(ours["model"], alone["model"], **EXACT)


def test_what_a_language_model_carries_goes_along(
    job: tuple[int, Path], found: list[dict[str, Any]], tmp_path: Path
) -> None:
    whole = at_work.text(ranks.ALONE, tmp_path / "whole")
    torch.testing.assert_close(found[0]["text"], whole, **EXACT)
    torch.testing.assert_close(at_work.text(ranks.ALONE, job[1] / "text", resume=True), whole, **EXACT)


def test_the_first_rank_writes_for_all(found: list[dict[str, Any]]) -> None:
    """A checkpoint with every rank's random state, and one file of events."""
    assert [one["written"] for one in found] == [(len(found), 1)] * len(found)


def test_a_rank_that_is_gone_is_told_in_one_line(job: tuple[int, Path]) -> None:
    world, out = job
    for rank in (rank for rank in range(world) if rank != 1):
        said = (out / f"{rank}.lost").read_text()
        assert said.startswith("ranks: every rank must live to the end, got one that is gone")
