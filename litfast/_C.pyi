"""The compiled half: csrc/module.cpp."""

from collections.abc import Sequence
from typing import TypedDict

class BuildInfo(TypedDict):
    compiler: str
    cuda_archs: str
    openmp: int  # 0: none
    isas: list[str]  # that this machine runs, the fastest first

class Kd:
    def __init__(
        self,
        *,
        student: int,
        teacher: int,
        target: int,
        gradient: int,
        rows: int,
        B: int,
        K: int,
        student_dtype: int,
        teacher_dtype: int,
        ignore_index: int,
        alpha: float,
        tau: float,
        label_smoothing: float,
        factor: float,
        kl: bool,
    ) -> None: ...

def lit_cpu(
    sections: Sequence[tuple[int, int, int, int, int, int, float]],
    penalty: int,
    kd: Kd | None,
    threads: int,
    isa: str,
) -> tuple[list[float], float, float, int]: ...
def scan_target(target: int, B: int, K: int, ignore_index: int) -> tuple[int, int]: ...
def build_info() -> BuildInfo: ...

# Only in a build with CUDA.
CUDA_SLOTS: int
CUDA_COUNTER_BYTES: int

class CudaLogits:
    def __init__(
        self,
        *,
        student: int,
        teacher: int,
        target: int,
        gradient: int,
        rows: int,
        B: int,
        K: int,
        student_dtype: int,
        teacher_dtype: int,
        ignore_index: int,
        label_smoothing: float,
        kl: bool,
        mean: bool,
    ) -> None: ...

class CudaCall:
    def __init__(
        self,
        *,
        sections: Sequence[tuple[int, int, int, int, int, int, float]],
        penalty: int,
        logits: CudaLogits | None,
        coefficients: tuple[float, float, float, float],
        on_device: int,
        places: tuple[int, int, int, int],
        losses: Sequence[int],
        device: int,
    ) -> None: ...
    @property
    def workspace_bytes(self) -> int: ...
    def run(self, workspace: int, counters: int, slot: int, stream: int) -> None: ...

def cuda_driver() -> tuple[int, int]: ...
