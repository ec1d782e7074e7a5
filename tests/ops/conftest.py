"""What the tests of the ops share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from litfast.ops import backends

FUSED = [name for name, _ in backends() if name not in ("reference", "cuda")]  # cuda: see test_cuda.py
MISSING = dict(backends())


class _Recorder(TorchDispatchMode):
    """Notes the name of every op that reaches a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=FUSED)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every fused backend, on tensors on the CPU; skipped with its reason where it cannot run."""
    if reason := MISSING[request.param]:
        pytest.skip(f"{request.param}: {reason}")
    if request.param != "triton":
        yield request.param
        return
    with interpreted() as name:
        yield name


@pytest.fixture
def triton() -> Iterator[str]:
    """The Triton backend through its interpreter; skipped with its reason where that cannot run."""
    if reason := MISSING["triton"]:
        pytest.skip(f"triton: {reason}")
    with interpreted() as name:
        yield name


@contextmanager
def interpreted() -> Iterator[str]:
    """Triton on the CPU, where numpy would warn of the inf and NaN that a GPU computes in silence."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("triton: compiled in this process (test_triton_gpu.py), interpreted without a GPU")
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield "triton"


@pytest.fixture
def cpp() -> str:
    """The C++ backend; skipped with its reason where it is not built."""
    if reason := MISSING["cpp"]:
        pytest.skip(f"cpp: {reason}")
    return "cpp"


@pytest.fixture
def ops_called() -> Callable[[Callable[[], Any]], list[str]]:
    """The names of the torch ops that a function runs."""

    def record(function: Callable[[], Any]) -> list[str]:
        with _Recorder() as recorder:
            function()
        return recorder.names

    return record


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
