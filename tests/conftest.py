"""Fixtures and marks that every test may use."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

# Triton reads this when it is imported, and without a GPU its kernels can only be interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `long` run when -m names the mark, and never by themselves."""
    if "long" in config.getoption("markexpr"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if item.get_closest_marker("dali") and not (find_spec("nvidia") and find_spec("nvidia.dali")):
        pytest.skip("nvidia.dali is not installed (pip install 'litfast[dali]')")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data's folder: LITFAST_SHARED_DATA, else ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LITFAST_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no development data in {folder}; LITFAST_SHARED_DATA names its folder")
    return folder
