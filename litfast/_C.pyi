"""The compiled half: csrc/module.cpp."""

from collections.abc import Sequence
from typing import TypedDict

class BuildInfo(TypedDict):
    compiler: str
    cuda_archs: str
    openmp: int  # 0: none
    isas: list[str]  # that this machine runs, the fastest first

# The tuples of csrc/args.h.
SectionArgs = tuple[int, int, int, int, int, int, float]
LogitsArgs = tuple[int, int, int, int, int, int, int, int, int, float, bool, bool]
ScaledArgs = tuple[int, int, int, int]
CoefficientArgs = tuple[float, float, float, float]
LossArgs = tuple[int, int, int, int, bool]
AugmentSizes = tuple[int, int, int, int, int, int]
LowRankBlockArgs = tuple[int, int, int, int]
ColumnsSizes = tuple[int, int, int, int]

def lit_cpu(
    sections: Sequence[SectionArgs],
    penalty: int,
    logits: LogitsArgs | None,
    coefficients: CoefficientArgs,
    losses: LossArgs,
    threads: int,
    isa: str,
) -> int: ...
def augment_cpu(
    tensors: Sequence[int], sizes: AugmentSizes, size: int, channels_last: bool, threads: int
) -> int: ...
def low_rank_embedding_cpu(
    blocks: Sequence[LowRankBlockArgs],
    tensors: Sequence[int],
    tokens: int,
    width: int,
    fp64: bool,
    threads: int,
    isa: str,
) -> int: ...
def low_rank_softmax_cpu(
    blocks: Sequence[LowRankBlockArgs],
    tensors: Sequence[int],
    rows: int,
    width: int,
    fp64: bool,
    threads: int,
    isa: str,
) -> int: ...
def columns_cpu(tensors: Sequence[int], sizes: ColumnsSizes, threads: int) -> None: ...
def build_info() -> BuildInfo: ...

# Only in a build with CUDA.
CUDA_SLOTS: int
CUDA_COUNTER_BYTES: int

class CudaCall:
    def __init__(
        self,
        *,
        sections: Sequence[SectionArgs],
        penalty: int,
        logits: LogitsArgs | None,
        coefficients: CoefficientArgs,
        on_device: int,
        losses: LossArgs,
        device: int,
    ) -> None: ...
    @property
    def workspace_bytes(self) -> int: ...
    def run(self, workspace: int, counters: int, slot: int, stream: int) -> None: ...

def cuda_scale(tensors: Sequence[ScaledArgs], scale: int, device: int, stream: int) -> None: ...
def cuda_driver() -> tuple[int, int]: ...
