"""Data-parallel training: two processes get the gradient that one would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("ddp_worker.py")
WORLD, SECONDS = 2, 60


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without distributed")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names Linux's loopback device")
def test_two_processes_average_to_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", WORKER, str(rank), str(WORLD), tmp_path],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(WORLD)
    ]
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=SECONDS)
            assert worker.returncode == 0, errors
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert all(torch.equal(a, b) for a, b in zip(first["gradients"], second["gradients"], strict=True))
    assert 0.1 < first["loss"] != second["loss"] > 0.1
    torch.testing.assert_close((first["loss"] + second["loss"]) / WORLD, first["whole loss"])
    torch.testing.assert_close(first["gradients"], first["whole gradients"], rtol=1e-6, atol=1e-6)
    assert all(gradient.abs().max() > 1e-3 for gradient in first["gradients"])
