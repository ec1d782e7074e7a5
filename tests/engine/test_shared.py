"""Sections shared out over processes: the weights of one process, to the bit; splits within rounding."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER, SECONDS = Path(__file__).with_name("shared_worker.py"), 180


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without distributed")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names Linux's loopback device")
@pytest.mark.parametrize("world", [2, 4])
def test_several_ranks_train_what_one_does(world: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    own = os.environ | job | {"PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    line = [sys.executable, "-W", "ignore", str(WORKER), str(tmp_path)]
    workers = [
        subprocess.Popen(line, env=own | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    try:
        for rank, worker in enumerate(workers):
            _, errors = worker.communicate(timeout=SECONDS)
            killed = world == 2 and rank == 1  # at the end of what it does
            assert worker.returncode == (-signal.SIGKILL if killed else 0), errors
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert (tmp_path / "checked").exists() == (world == 2)
