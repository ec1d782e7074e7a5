"""The backward kernel of the CUDA backend, run on the host: each element once, at any offset."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from litfast.ops import _autograd
from litfast.ops._native import DTYPES

SOURCE = Path(__file__).with_name("emulate_scale.cpp")
Scale = Callable[..., int]


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Scale:
    """scale(gradients, factor, out, blocks=3): fills `out`, returns the number of launches."""
    nvcc, compiler = shutil.which("nvcc"), shutil.which("c++")
    if not nvcc or not compiler:
        pytest.skip("no nvcc, whose headers it takes, or no c++ on the PATH")
    headers = next(
        (p / "include" for p in Path(nvcc).resolve().parents if (p / "include/cuda_runtime_api.h").exists()),
        Path("/usr/local/cuda/include"),
    )
    library = tmp_path_factory.mktemp("scale") / "scale.so"
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-w", f"-I{headers}"]
    command = [compiler, *options, "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    function = ctypes.CDLL(str(library)).scale

    def run(gradients: Sequence[Tensor], factor: float, out: Sequence[Tensor], blocks: int = 3) -> int:
        count = len(gradients)
        pointers, sizes, codes = ctypes.c_void_p * count, ctypes.c_int64 * count, ctypes.c_int * count
        return int(
            function(
                pointers(*(g.data_ptr() for g in gradients)),
                pointers(*(o.data_ptr() for o in out)),
                sizes(*(g.numel() for g in gradients)),
                codes(*(DTYPES[o.dtype] for o in out)),
                count,
                ctypes.byref(ctypes.c_float(factor)),
                blocks,
            )
        )

    return run


def waiting(n: int, dtype: torch.dtype, offset: int = 0) -> Tensor:
    """A gradient of a student of `dtype`, as the forward pass leaves it."""
    wide = torch.float32 if dtype == torch.float16 else dtype
    return torch.randn(n + offset).to(wide)[offset:]


def product(gradient: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    return torch.mul(gradient.float(), factor).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [0, 1, 7, 41, 1271, 4096, 3 * 8192 + 41, 100_003])
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_each_element_is_scaled_once(n: int, offset: int, dtype: torch.dtype, scale: Scale) -> None:
    gradient = waiting(n, dtype, offset)
    for shift in {0, offset}:  # of the output: the vectors start where both are aligned, or there are none
        room = torch.full((n + shift + 1,), torch.nan, dtype=dtype)
        assert scale([gradient], 0.37, [room[shift : shift + n]]) == (n > 0)
        assert torch.equal(room[shift : shift + n], product(gradient, 0.37, dtype))
        assert room[shift + n].isnan()
    if dtype != torch.float16:
        expected = product(gradient, -3.0, dtype)
        scale([gradient], -3.0, [gradient])
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize("blocks", [1, 2, 5, 1000])
def test_40_tensors_of_several_sizes_and_dtypes_are_two_launches(blocks: int, scale: Scale) -> None:
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    gradients = [waiting(1 + 997 * i, dtypes[i % 3], offset=i % 2) for i in range(40)]
    out = [torch.full((g.numel(),), torch.nan, dtype=dtypes[i % 3]) for i, g in enumerate(gradients)]
    assert scale(gradients, 65536.0, out, blocks) == 2
    for gradient, result in zip(gradients, out, strict=True):
        assert torch.equal(result, product(gradient, 65536.0, result.dtype))


def test_a_scale_of_1_leaves_what_is_in_place_and_converts_the_rest(scale: Scale) -> None:
    bits = torch.tensor([0x7FA00001, 0x3F800000], dtype=torch.int32)  # a signalling NaN, and 1
    payload = bits.view(torch.float32)
    kept, half = payload.clone(), waiting(4099, torch.float16)
    out = torch.empty(4099, dtype=torch.float16)
    assert scale([kept, half], 1.0, [kept, out]) == 1
    assert torch.equal(kept.view(torch.int32), bits)
    assert torch.equal(out, half.half())


def test_float16_is_rounded_as_torch_rounds(scale: Scale) -> None:
    bits = torch.arange(0, 2**32, 4093).to(torch.int32)  # over every exponent, NaN and inf
    edges = torch.tensor([65504.0, 65519.9, 65520.0, 2**-24, 2**-25, 1.5 * 2**-24, 2.0**-14, torch.inf])
    gradient = torch.cat([bits.view(torch.float32), edges, -edges])
    out = torch.empty(gradient.numel(), dtype=torch.float16)
    scale([gradient], 1.0, [out])
    torch.testing.assert_close(out, gradient.half(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_scale_that_reaches_backward_has_the_dtype_of_the_loss(
    dtype: torch.dtype, triton: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litfast.ops import ir_loss

    seen = []
    monkeypatch.setattr(_autograd, "_readable", lambda scale: bool(seen.append(scale.dtype)))
    student = torch.randn(3, 5).requires_grad_()
    loss = ir_loss([student], [torch.randn(3, 5)], backend=triton)
    torch.autograd.grad(loss, student, torch.tensor(2.0, dtype=dtype))
    assert seen == [torch.float32]
