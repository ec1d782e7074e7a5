"""Every fused backend keeps the accuracy rule on every sample, in value and gradient."""

from __future__ import annotations

import pytest

from litfast.testing import FUNCTIONS, Sample, misses, samples

SAMPLES = [sample for op in FUNCTIONS for sample in samples(op)]


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_backend_keeps_the_accuracy_rule(sample: Sample, backend: str) -> None:
    if backend == "triton" and "float64" in sample.name:
        pytest.skip("triton refuses float64")
    assert misses(sample, backend) == []


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize("op", FUNCTIONS)
def test_every_instruction_set_keeps_the_accuracy_rule(
    op: str, isa: str, cpp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litfast.ops import _cpp, build_info

    if isa not in (build_info() or {})["isas"]:
        pytest.skip(f"this machine or this build has no {isa}")
    monkeypatch.setattr(_cpp, "ISA", isa)
    assert [miss for sample in samples(op) for miss in misses(sample, cpp)] == []
