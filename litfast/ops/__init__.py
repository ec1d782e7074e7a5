"""Losses and augmentation: defined in reference.py, served by backends, chosen by public functions."""

from __future__ import annotations

from ._augment import BACKENDS
from ._cpp import CPP, CPP_AUGMENT
from ._cpp import build_info as build_info
from ._cuda import CUDA
from ._dispatch import backends as backends
from ._dispatch import register
from .augment import augment as augment
from .augment import augment_table as augment_table
from .channel_l1 import channel_l1 as channel_l1
from .ir import ir_loss as ir_loss
from .kd import kd_loss as kd_loss
from .lit import lit_loss as lit_loss
from .reference import LITLoss as LITLoss
from .triton import TRITON, TRITON_AUGMENT

for _backend in (CPP, CUDA, TRITON):  # the order in which "auto" tries them
    register(_backend)
for _augmenter in (CPP_AUGMENT, TRITON_AUGMENT):
    BACKENDS[_augmenter.name] = _augmenter
