"""The C++ kernels: torch's threads, sums that no thread count changes, large and odd calls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from litfast.ops import build_info, kd_loss, lit_loss
from litfast.testing import Sample, misses


@pytest.fixture(autouse=True)
def threads(cpp: str) -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def everything() -> list[Tensor]:
    """Losses and gradients of a call that is cut into many chunks."""
    generator = torch.Generator().manual_seed(0)
    irs, teacher_irs = (
        [torch.randn(9, 16, 32, 32, generator=generator), torch.randn(1271, 41)] for _ in range(2)
    )
    logits, teacher = (torch.randn(129, 1000, generator=generator) for _ in range(2))
    target = torch.randint(1000, (129,), generator=generator)
    students = [x.requires_grad_() for x in (*irs, logits)]
    loss = lit_loss(irs, teacher_irs, logits, teacher, target, alpha=0.3, beta=0.6, tau=4.0, backend="cpp")
    return [*loss, *torch.autograd.grad(loss.total, students)]


def test_the_thread_count_changes_no_bit() -> None:
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        results.append(everything())
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_kernels_get_torchs_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from litfast.ops import _cpp

    seen = []
    run = _cpp._C.lit_cpu
    monkeypatch.setattr(_cpp._C, "lit_cpu", lambda *args: seen.append(args[5]) or run(*args))
    for count in (1, 2):
        torch.set_num_threads(count)
        kd_loss(torch.randn(2, 3), torch.randn(2, 3), tau=1.0, alpha=0.0, backend="cpp")
    assert seen == [1, 2]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_one_openmp_runtime_is_loaded() -> None:
    code = (
        "import torch, litfast.ops\n"
        "lines = open('/proc/self/maps').read().splitlines()\n"
        "print(*{line.split()[-1] for line in lines if 'libgomp' in line or 'libomp' in line})"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert len(output.stdout.split()) == 1, output.stdout


def test_build_info_names_compiler_and_instruction_sets() -> None:
    info = build_info()
    assert info is not None
    assert info["isas"][-1] == "baseline"
    assert info["compiler"]
    assert info["openmp"] > 0


@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 200_000])
def test_any_number_of_classes_is_served(classes: int) -> None:
    student = torch.randn(3, classes, requires_grad=True)
    teacher, target = torch.randn(3, classes), torch.randint(classes, (3,))
    losses = [kd_loss(student, teacher, target, tau=4.0, alpha=0.3, backend=b) for b in ("cpp", "reference")]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in losses]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("soft", ["ce", "kl"])
def test_the_longest_rows_keep_the_accuracy_rule_against_fp64(soft: str, dtype: torch.dtype) -> None:
    student, teacher = (3 * torch.randn(2, 2, 200_000)).to(dtype)
    args = student, teacher, torch.tensor([199_999, 7])
    options = {"tau": 4.0, "alpha": 0.3, "soft": soft, "label_smoothing": 0.1}
    assert misses(Sample(op="kd", name=f"{dtype}", args=args, options=options), "cpp") == []


def test_a_single_class_has_gradient_0() -> None:
    student = torch.randn(3, 1, requires_grad=True)
    kd_loss(
        student, torch.randn(3, 1), torch.zeros(3, dtype=torch.int64), tau=4.0, alpha=0.3, backend="cpp"
    ).backward()
    assert torch.equal(student.grad, torch.zeros(3, 1))


def test_every_element_of_the_gradient_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty_like
    poisoned = []

    def poison(*args: Tensor, **options: torch.dtype) -> Tensor:
        poisoned.append(empty(*args, **options).fill_(torch.nan))
        return poisoned[-1]

    monkeypatch.setattr(torch, "empty_like", poison)
    results = everything()
    assert poisoned
    assert all(result.isfinite().all() for result in results)
