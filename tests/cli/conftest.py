"""A recipe small enough to train in seconds, and a finished run of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from litfast.bench import compare
from litfast.cli import _progress, _results
from litfast.cli.main import app
from litfast.engine import Report

RECIPE = """
[data]
name = "synthetic"
batch = 32
[teacher]
model = "resnet14"
[teacher.train]
epochs = 2
lr = 0.05
[student]
model = "resnet8"
init = "teacher"
[method]
name = "lit"
beta = 0.0
[sections]
epochs = 2
lr = 0.05
[finetune]
epochs = 1
lr = 0.01
[engine]
precision = "fp32"
threads = 1
"""

Litfast = Callable[..., Result]


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def litfast() -> Litfast:
    """`litfast(*words)` runs a command in this process."""
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session", autouse=True)
def hasty() -> Iterator[None]:
    """The table at the end of a run measures one batch size, in next to no time; processes take theirs."""
    short = partial(compare, batches=(1,), modes=("eager",), precisions=("fp32",), seconds=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_results, "quick", short)
        yield


@pytest.fixture(scope="session")
def finished(recipe: Path, litfast: Litfast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    result = litfast("train", recipe, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def stopped(litfast: Litfast) -> Callable[..., Result]:
    """`stopped(phase, *words)`: the same, with a SIGTERM behind the first report of a phase."""

    def run(phase: str, *words: object) -> Result:
        show = _progress.Display.show

        def stop(self: _progress.Display, report: Report) -> None:
            show(self, report)
            if report.phase == phase:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_progress.Display, "show", stop)
            return litfast(*words)

    return run
