"""Measuring: a number is a record, contenders are interleaved, and a failed check prints no speed-up."""

from __future__ import annotations

from litfast.bench.compare import compare, quick
from litfast.bench.latency import Row, measure

__all__ = ["Row", "compare", "measure", "quick"]
