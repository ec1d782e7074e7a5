"""Training methods: each is a generator of phases, named here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from litfast.methods._adversarial import adversarial, check_labels
from litfast.methods._ban import ban
from litfast.methods._chain import chain, check_chain
from litfast.methods._deep_compression import deep_compression
from litfast.methods._fitnets import fitnets
from litfast.methods._groupreduce import groupreduce
from litfast.methods._kd import kd
from litfast.methods._lit import lit
from litfast.methods._lit_generator import lit_generator
from litfast.methods._metadistiller import metadistiller
from litfast.methods._scratch import scratch
from litfast.methods._slimming import slimming
from litfast.phase import Phase
from litfast.registry import Registry

METHODS: Registry[Callable[..., Iterator[Phase]]] = Registry("method")
METHODS.update(
    scratch=scratch,
    kd=kd,
    ban=ban,
    lit=lit,
    adversarial=adversarial,
    lit_generator=lit_generator,
    fitnets=fitnets,
    deep_compression=deep_compression,
    metadistiller=metadistiller,
    slimming=slimming,
    groupreduce=groupreduce,
)
ENSEMBLES = ("ban",)  # their students are judged together, too
PACKED = ("deep_compression",)  # their student's .lfc file is part of the result

__all__ = [
    "ENSEMBLES",
    "METHODS",
    "PACKED",
    "adversarial",
    "ban",
    "chain",
    "check_chain",
    "check_labels",
    "deep_compression",
    "fitnets",
    "groupreduce",
    "kd",
    "lit",
    "lit_generator",
    "metadistiller",
    "scratch",
    "slimming",
]
