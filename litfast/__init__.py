"""litfast: make a deep PyTorch model shallower without losing accuracy."""

from __future__ import annotations

from litfast import lfc as lfc
from litfast import methods as methods
from litfast.engine import Distiller as Distiller
from litfast.engine import Report as Report
from litfast.engine import evaluate as evaluate
from litfast.engine import train as train
from litfast.models import create as create
from litfast.models.sectioned import sectioned as sectioned
from litfast.ops import LITLoss as LITLoss
from litfast.ops import ir_loss as ir_loss
from litfast.ops import kd_loss as kd_loss
from litfast.ops import lit_loss as lit_loss
from litfast.phase import Schedule as Schedule

__version__ = "0.1.0"
