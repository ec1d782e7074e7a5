"""Cases that atheris (https://github.com/google/atheris) finds by what they reach in litfast's own code.

python -m tests.fuzz.guided 'lfc file' --cases 10000 --counts counts.json

The targets are those of test_hostile.py: libFuzzer mutates bytes, from which hypothesis draws the case. The
first case that is neither taken whole nor refused ends the process with its traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import atheris
from hypothesis import HealthCheck, given, settings

with atheris.instrument_imports(include=["litfast"]):
    from .harness import outcome
    from .targets import TARGETS

# libFuzzer's own alarm would replace the harness's, and its limit count torch itself
FLAGS = ["-timeout=0", "-rss_limit_mb=0", "-max_len=4096", "-len_control=0", "-seed=1", "-verbosity=0"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=[target.name for target in TARGETS])
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--counts", type=Path, required=True, help="a JSON file of what was found")
    asked = parser.parse_args()
    target = next(target for target in TARGETS if target.name == asked.target)
    found: Counter[str] = Counter()
    folder = tempfile.mkdtemp()

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(target.cases)
    def each(case: Any) -> None:
        found[outcome(target, case, Path(folder))] += 1

    def one(content: bytes) -> None:
        each.hypothesis.fuzz_one_input(content)
        if found.total() == asked.cases:  # bytes from which no case can be drawn are none
            asked.counts.write_text(json.dumps(found))
            shutil.rmtree(folder)
            os._exit(0)  # libFuzzer returns to nobody

    atheris.Setup(["guided", *FLAGS, f"-artifact_prefix={folder}/"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
