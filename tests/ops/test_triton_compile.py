"""The Triton kernels compiled for sm_90, which needs no GPU: wide loads, no register spilled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from litfast.ops import backends

SCRIPT = Path(__file__).with_name("compile_triton.py")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the compiler made of each kernel. In a fresh process: in this one the kernels are interpreted."""
    if reason := dict(backends())["triton"]:
        pytest.skip(f"triton: {reason}")
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_register_is_spilled(kernels: dict[str, Any]) -> None:
    assert {name: kernel["stack"] for name, kernel in kernels.items() if kernel["stack"]} == {}


def test_a_thread_leaves_room_for_others(kernels: dict[str, Any]) -> None:
    """At most 128 registers: 16 warps, a quarter of what a multiprocessor holds, keep the memory busy."""
    assert {name: kernel["registers"] for name, kernel in kernels.items() if kernel["registers"] > 128} == {}


@pytest.mark.parametrize(
    ("name", "loads", "stores"),
    [  # 16 elements a thread of each tensor (8 of most rows) are 4 accesses in fp32, 2 in bf16
        ("sections fp32", 3 * 8, 3 * 4),
        ("sections bf16", 3 * 4, 3 * 2),
        ("sections fp32 bf16", 4 + 2, 4),
        ("rows 1000 fp32", 2 * 2, 2),
        ("rows 1000 bf16", 2, 1),
        ("rows 8192 fp32", 4 * 2, 4),
        ("rows 32000 bf16", 2 * 2, 1),
        ("rows 128256 fp32", 2 * 2 * 2, 2),
        ("backward bf16", 2 * 2, 2 * 2),
        ("augment fp32", 0, 2),  # 8 elements a thread; raw pixels lie anywhere
        ("augment bf16", 0, 1),
        ("augment fp32 planes", 0, 2),
    ],
)
def test_memory_is_read_and_written_16_bytes_at_a_time(
    name: str, loads: int, stores: int, kernels: dict[str, Any]
) -> None:
    assert (kernels[name]["wide loads"], kernels[name]["wide stores"]) >= (loads, stores)


def test_sums_are_ordered_by_a_ticket_and_no_float_is_added_atomically(kernels: dict[str, Any]) -> None:
    assert {name for name, kernel in kernels.items() if kernel["float atomics"]} == set()
    assert {name for name, kernel in kernels.items() if kernel["tickets"]} == {
        name for name in kernels if name.startswith("rows")
    }
