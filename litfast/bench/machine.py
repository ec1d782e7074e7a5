"""What a number was measured on, without the machine's name or folders."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ISA_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # what the kernels and oneDNN choose by


def describe(device: str | torch.device = "cuda") -> dict[str, Any]:
    """The machine and the software that decide a measurement, ready for JSON.

    A GPU is only named: `device`, or the current one where that is none.
    """
    cpu = _cpuinfo()
    flags = cpu.get("flags", cpu.get("features", "")).split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": _usable_cores(),
        "threads": torch.get_num_threads(),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "ram_gib": _ram_gib(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": _gpu(torch.device(device)),
        "triton": _version("triton"),
        "litfast": _version("litfast"),
        "compiler": compiler(),
        "load": _load(),
    }


def compiler() -> str | None:
    """First line of the `--version` of the C++ compiler that `torch.compile` would take; None without."""
    for name in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            return answer.stdout.partition("\n")[0].replace(f"{Path(found).parent}{os.sep}", "") or None
    return None


def _cpuinfo() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo; empty where there is none (macOS, Windows)."""
    try:
        block = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _usable_cores() -> int:
    """Cores that this process may use; a container often sees fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ram_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _load() -> float | None:
    """Processes that wanted a core during the last minute: a number taken on a busy machine should say so."""
    try:
        return round(os.getloadavg()[0], 1)
    except (AttributeError, OSError):
        return None


def _gpu(device: torch.device) -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(device if device.type == "cuda" else "cuda")
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "count": torch.cuda.device_count(),
    }


def _version(package: str) -> str | None:
    """The installed version, read without importing the package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
