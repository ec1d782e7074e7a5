"""Small contenders that say when they run, and a document that no clock decides."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.bench import Row, machine

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Import a file of benchmarks/, which is no package, by its name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)  # its dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


class Spy(nn.Module):
    """A linear classifier on flat images that notes its name at every call."""

    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__()
        self.name = name
        self.calls = calls
        self.linear = nn.Linear(3 * 5 * 5, 4)

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(self.name)
        return self.linear(images.flatten(1))

    def __deepcopy__(self, memo: dict[int, Any]) -> Spy:  # measured on copies: they report to the same list
        other = Spy(self.name, self.calls)
        other.linear.load_state_dict(self.linear.state_dict())
        return other.train(self.training)


def convnet(width: int, blocks: int = 1) -> nn.Sequential:
    torch.manual_seed(width)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(blocks):
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


class Texts(nn.Module):
    """A classifier of ids [B, L]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(9, 4)
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.linear = nn.Linear(6, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.conv(self.embedding(ids).transpose(1, 2)).relu().mean(2))


def texts() -> nn.Module:
    return Texts()


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def contenders(calls: list[str]) -> dict[str, nn.Module]:
    return {"a": Spy("a", calls), "b": Spy("b", calls)}


def measured(p50: float, batch: int) -> dict[str, float]:
    times = {"p50_ms": p50, "p90_ms": 1.1 * p50, "p95_ms": 1.3 * p50, "p99_ms": 1.5 * p50}
    rest = {"mean_ms": 1.05 * p50, "std_ms": 0.1 * p50, "samples_per_s": 1000 * batch / p50}
    return {**times, **rest, "host_p50_ms": p50, "host_p99_ms": 1.5 * p50}


def row(
    contender: str, mode: str, batch: int, p50: float | None, reason: str | None = None
) -> dict[str, Any]:
    found = measured(p50, batch) if p50 is not None else {}
    times = {field.name: found.get(field.name) for field in fields(Row) if field.name.endswith(("_ms", "_s"))}
    times |= {"asked": None, "peak_memory_bytes": None, "joules_per_sample": None, "loads": []}
    head = {"contender": contender, "mode": mode, "precision": "fp32", "batch": batch, "reason": reason}
    return {**head, **times}


def ratio(mode: str, batch: int, speedup: float | None, tie: bool | None) -> dict[str, Any]:
    near = {"p10": None, "p90": None} if speedup is None else {"p10": 0.9 * speedup, "p90": 1.1 * speedup}
    head = {"baseline": "deep", "contender": "shallow", "mode": mode, "precision": "fp32", "batch": batch}
    head["loads"] = []
    return {**head, "speedup": speedup, "tie": tie, **near}


@pytest.fixture
def document() -> dict[str, Any]:
    """Two models, two batches: eager faster at 1 and a tie at 128, compile refused by the machine."""
    absent = "No working C++ compiler found"
    return {
        "input": {"shape": [3, 32, 32], "alphabet": None},
        "device": "cpu",
        "threads": 2,
        "energy": {"source": None, "reason": "there is no RAPL counter"},
        "models": [
            {
                "name": "deep",
                "depth": 56,
                "parameters": 853018,
                "macs": 125_490_000,
                "weights_bytes": 3_426_640,
                "accuracy": 92.6,
            },
            {
                "name": "shallow",
                "depth": 20,
                "parameters": 269722,
                "macs": 40_550_000,
                "weights_bytes": 1_084_752,
                "accuracy": 90.35,
            },
        ],
        "rows": [
            row("deep", "eager", 1, 4.36),
            row("shallow", "eager", 1, 1.59),
            row("deep", "compile", 1, None, absent),
            row("shallow", "compile", 1, None, absent),
            row("deep", "eager", 128, 190.0),
            row("shallow", "eager", 128, 189.0),
        ],
        "ratios": [
            ratio("eager", 1, 2.74, False),
            ratio("compile", 1, None, None),
            ratio("eager", 128, 1.005, True),
        ],
        "checks": {},
        "machine": machine.describe() | {"cores": 2, "load": 0.5},
    }
