"""Batches: what a loader is, the loaders, and the data sets by name."""

from __future__ import annotations

from litfast.data.dali import DaliLoader as DaliLoader
from litfast.data.loader import Batch as Batch
from litfast.data.loader import Loader as Loader
from litfast.data.resident import ResidentLoader as ResidentLoader
from litfast.data.sets import DATASETS as DATASETS
from litfast.data.sets import Images as Images
from litfast.data.sets import ImageSet as ImageSet
from litfast.data.sets import hold_out as hold_out
from litfast.data.sets import load as load
from litfast.data.torch_loader import TorchLoader as TorchLoader
