"""The kernels built with sanitizers pass the tests of the ops: tests/sanitize.sh."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sanitize.sh")


@pytest.mark.long
@pytest.mark.parametrize("which", ["address", "thread"])
def test_the_ops_pass_under_the_sanitizers(which: str) -> None:
    if missing := [tool for tool in ("g++", "cmake", "ninja") if shutil.which(tool) is None]:
        pytest.skip(f"no {missing[0]}")
    environment = {**os.environ, "PYTHON": sys.executable, "PYTEST_ADDOPTS": ""}
    done = subprocess.run([SCRIPT, which, "-q"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def test_another_word_is_refused() -> None:
    done = subprocess.run([SCRIPT, "memory"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "usage: tests/sanitize.sh address|thread [pytest's options]\n",
    )
