"""Losses, augmentation, low-rank layers: defined in reference.py, served by backends, chosen by functions."""

from __future__ import annotations

from ._augment import BACKENDS
from ._cpp import CPP, CPP_AUGMENT, CPP_LOW_RANK
from ._cpp import build_info as build_info
from ._cuda import CUDA
from ._dispatch import backends as backends
from ._dispatch import register
from ._low_rank import EMBEDDING_BACKENDS, SOFTMAX_BACKENDS
from .augment import augment as augment
from .augment import augment_table as augment_table
from .channel_l1 import channel_l1 as channel_l1
from .factorise import LowRank as LowRank
from .factorise import factorise as factorise
from .factorise import quantise as quantise
from .ir import ir_loss as ir_loss
from .kd import kd_loss as kd_loss
from .lit import lit_loss as lit_loss
from .low_rank import low_rank_embedding as low_rank_embedding
from .low_rank import low_rank_softmax as low_rank_softmax
from .reference import LITLoss as LITLoss
from .triton import TRITON, TRITON_AUGMENT, TRITON_LOW_RANK

for _backend in (CPP, CUDA, TRITON):  # the order in which "auto" tries them
    register(_backend)
for _augmenter in (CPP_AUGMENT, TRITON_AUGMENT):
    BACKENDS[_augmenter.name] = _augmenter
for _pair in (CPP_LOW_RANK, TRITON_LOW_RANK):
    for _known, _backend_of_one in zip((EMBEDDING_BACKENDS, SOFTMAX_BACKENDS), _pair, strict=True):
        _known[_backend_of_one.name] = _backend_of_one
