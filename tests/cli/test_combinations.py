"""One method after another: LIT's student slimmed, the slim one pruned and shared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from litfast import lfc

Litfast = Callable[..., Result]
SLIMMING = """
[data]
name = "synthetic"
batch = 32
[method]
name = "slimming"
removed = 0.25
[sparse]
epochs = 0
lr = 0.01
[finetune]
epochs = 1
lr = 0.01
[engine]
precision = "fp32"
mode = "eager"
threads = 1
"""
DEEP = SLIMMING.replace('"slimming"\nremoved = 0.25', '"deep_compression"\nremoved = 0.5\nbits = 4')
DEEP = DEEP.replace("[sparse]", "[prune]").replace("[finetune]", "[share]")


def test_slimming_follows_lit_and_deep_compression_follows_both(
    finished: Path, litfast: Litfast, tmp_path: Path
) -> None:
    runs = [finished, tmp_path / "slim", tmp_path / "deep"]
    for before, run, recipe in zip(runs, runs[1:], (SLIMMING, DEEP), strict=False):
        file = run.with_suffix(".toml")
        file.write_text(recipe + f'[teacher]\nrun = "{before}"\n[student]\nrun = "{before}"\n')
        result = litfast("train", file, "--out", run)
        assert result.exit_code == 0, result.output
    scores = [json.loads((run / "results.json").read_text())["test_accuracy"] for run in runs]
    assert scores[0]["student"] == scores[1]["teacher"]
    assert scores[1]["student"] == scores[2]["teacher"]
    widths = [json.loads((run / "model.json").read_text())["model"].get("inner") for run in runs]
    assert sum(widths[1]) < 16 + 32 + 64
    assert widths[2] == widths[1]
    packed = lfc.load(runs[2] / "student.lfc")
    assert all(len(value.unique()) <= 17 for name, value in packed.items() if value.ndim == 4)
