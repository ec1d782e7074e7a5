"""A disk that is really full: a small tmpfs, mounted in a namespace that goes with its processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

APART = ["unshare", "--user", "--map-root-user", "--mount"]
COMMANDS = """
set -e
mount -t tmpfs -o size="$SIZE" tmpfs disk
code=0; "$PYTHON" -m litfast train "$RECIPE" --out disk/run || code=$?
echo "code $code"; (cd disk/run/checkpoints; ls)
mount -o remount,size=100m disk
"$PYTHON" -m litfast train --resume --out disk/run
"""


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = [*APART, "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]
    return subprocess.run(mount, capture_output=True).returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="this user may not mount a tmpfs of their own")
@pytest.mark.parametrize(
    ("size", "failed", "kept"),
    [("2m", "last.pt", ["last.pt"]), ("3m", "0-teacher.pt", ["last-1.pt", "last.pt"])],
    ids=["within a phase", "at its end"],
)
def test_a_run_whose_disk_fills_up_says_so_and_resumes_once_there_is_room(
    size: str, failed: str, kept: list[str], recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    words = {"SIZE": size, "PYTHON": sys.executable, "RECIPE": str(recipe)}
    done = subprocess.run(
        [*APART, "sh", "-c", COMMANDS], cwd=tmp_path, env=os.environ | words, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("litfast: ")]
    assert said == [
        f"litfast: checkpoint: {failed} must be written whole, got: [Errno 28] No space left on device; "
        "the previous one is kept"
    ]
    before, _, after = done.stdout.partition("code 1\n")
    assert "saved in" not in before
    assert after.splitlines()[: len(kept)] == kept
    assert "saved in disk/run" in after
