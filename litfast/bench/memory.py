"""How much memory a call takes beyond what was there before it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """The most tensor bytes alive at once that `run` allocated; what it returns counts.

    On CUDA from the allocator's own peak, on the CPU from the allocations and frees that torch's profiler
    reports: memory that torch's allocators did not give is not seen. That is chosen over the growth of the
    process: it is the same at every call, and knows no page that an earlier call has left behind. The call is
    slower than usual.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes two lines a profile to stderr
    # torch.profiler's would import the compiler first, for seconds
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
        kept = run()
    del kept
    alive = peak = 0
    for event in sorted(_events(profile), key=lambda event: event["ts"]):
        alive += event["args"]["Bytes"]
        peak = max(peak, alive)
    return peak


def _events(profile: torch.autograd.profiler.profile) -> list[dict[str, Any]]:
    """One for each allocation and each free of what was allocated; the trace is their only public form."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8"))
    return [event for event in trace["traceEvents"] if event.get("name") == "[memory]"]
