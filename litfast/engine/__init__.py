"""The engine: runs any phase."""

from __future__ import annotations

from litfast.engine.distiller import Distiller as Distiller
from litfast.engine.evaluate import Evaluation as Evaluation
from litfast.engine.evaluate import evaluate as evaluate
from litfast.engine.report import Report as Report
from litfast.engine.train import train as train
