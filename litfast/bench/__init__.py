"""Measuring: a number is a record, contenders are interleaved, and a failed check prints no speed-up."""

from __future__ import annotations

from litfast.bench.compare import compare, quick
from litfast.bench.latency import measure
from litfast.bench.row import Row

__all__ = ["Row", "compare", "measure", "quick"]
