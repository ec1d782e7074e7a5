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
