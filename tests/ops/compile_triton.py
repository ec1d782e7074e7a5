"""Run by test_triton_compile.py: compiles the Triton kernels for sm_90, prints what came out as JSON."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from litfast.ops.triton import augment, ir, kd, scale

H200 = GPUTarget("cuda", 90, 32)
NUMBERS = {"tau": "fp64", "alpha": "fp64", "beta": "fp64", "scale": "fp64"}


class Constant:
    """A value that is known when the kernel is compiled."""

    def __init__(self, value: Any) -> None:
        self.value = value


def first_pass(sections: int, dtype: str, *, teacher: str | None = None, penalty: str = "l2") -> Any:
    """Sections of one dtype."""
    pointers, ints = (f"*{dtype}",) * sections, ("i32",) * sections
    teachers = (f"*{teacher or dtype}",) * sections
    arguments = {"students": pointers, "teachers": teachers, "gradients": pointers}
    arguments |= {"sizes": ints, "programs": ints, "weights": ("fp32",) * sections, "wanted": "i64"}
    arguments |= {"target": "*i64", "B": "i64", "ignore_index": "i64", "counters": "i32", "work": "*fp64"}
    arguments |= {"beta": "fp64", "scale": "fp64", "coefficients": Constant(None)}
    arguments |= {"first": "i32", "S": "i32", "P": "i32", "PENALTY": Constant(penalty)}
    return ir.first_pass, arguments | {"SECTIONS": Constant(sections)}, ir.OPTIONS


def rows(B: int, K: int, dtype: str, *, soft: str = "ce", teacher: str | None = None) -> Any:
    """Logits with everything that is summed up."""
    height, width, options = kd._tile(B, K)
    arguments = {"student": f"*{dtype}", "teacher": f"*{teacher or dtype}", "gradient": f"*{dtype}"}
    arguments |= {"target": "*i64", "losses": Constant(None), "total": "*fp32", "work": "*fp64"}
    arguments |= {"parts": "*fp32", "correct": "*i64", "coefficients": "*fp64"} | NUMBERS
    arguments |= {"smoothing": "fp64", "ignore_index": "i64", "B": "i64", "counters": "i32"}
    arguments |= {"S": "i32", "P": "i32", "K": Constant(K), "ROWS": Constant(height)}
    arguments |= {"WIDTH": Constant(width), "SECTIONS": Constant(4), "SMOOTH": Constant(True)}
    arguments |= {"KL": Constant(soft == "kl"), "MEAN": Constant(True)}
    return kd.rows, arguments, options


def multiply(dtype: str) -> Any:
    """Two gradients in backward."""
    pointers, ints = (f"*{dtype}",) * 2, ("i32",) * 2
    arguments = {"gradients": pointers, "out": pointers, "sizes": ints, "programs": ints}
    return (
        scale._multiply,
        arguments | {"scale": "*fp32", "in_place": "i64", "COUNT": Constant(2)},
        ir.OPTIONS,
    )


def gather(dtype: str, *, last: bool) -> Any:
    """CIFAR images."""
    arguments = {"images": "*u8", "index": "*i64", "top": "*i64", "left": "*i64", "mirrored": "*i1"}
    arguments |= {"table": f"*{dtype}", "out": f"*{dtype}", "N": "i64", "crop": "i64"}
    sizes = {"H": Constant(32), "W": Constant(32), "C": Constant(3), "LAST": Constant(last)}
    return augment.gather, arguments | sizes, augment.OPTIONS


KERNELS = {
    "sections fp32": first_pass(3, "fp32"),
    "sections bf16": first_pass(3, "bf16", penalty="smooth_l1"),
    "sections fp32 bf16": first_pass(1, "fp32", teacher="bf16", penalty="l1"),
    "rows 10 fp32": rows(128, 10, "fp32"),
    "rows 1000 fp32": rows(1024, 1000, "fp32", soft="kl"),
    "rows 1000 bf16": rows(1024, 1000, "bf16"),
    "rows 8192 fp32": rows(1024, 8192, "fp32"),
    "rows 32000 bf16": rows(4096, 32_000, "bf16"),
    "rows 128256 fp32": rows(2048, 128_256, "fp32", soft="kl"),
    "backward bf16": multiply("bf16"),
    "augment fp32": gather("fp32", last=True),
    "augment bf16": gather("bf16", last=True),
    "augment fp32 planes": gather("fp32", last=False),
}


def compiled(kernel: Any, arguments: dict[str, Any], options: dict[str, Any]) -> dict[str, int | str]:
    """Loads, stores and resources of one kernel whose pointers are aligned to 16 bytes."""
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        value = arguments[name]
        signature[name] = "constexpr" if isinstance(value, Constant) else value
        if isinstance(value, Constant):
            constants[(i,)] = value.value
            continue
        places = [((i, j), v) for j, v in enumerate(value)] if isinstance(value, tuple) else [((i,), value)]
        attributes |= {place: [["tt.divisibility", 16]] for place, v in places if v.startswith("*")}
    result = triton.compile(ASTSource(kernel, signature, constants, attributes), H200, options)
    ptx = result.asm["ptx"]
    wide = r"[\w.:]*\.(v4\.[bf]32|v2\.[bf]64)"
    return {
        "wide loads": len(re.findall(r"ld\.global" + wide, ptx)),
        "wide stores": len(re.findall(r"st\.global" + wide, ptx)),
        "float atomics": len(re.findall(r"(atom|red)\.[\w.:]*\.f(16|32|64)", ptx)),
        "tickets": len(re.findall(r"atom\.global\.gpu\.acq_rel", ptx)),
        "stack": resource(result.asm["cubin"], "STACK"),
        "registers": resource(result.asm["cubin"], "REG"),
    }


def resource(cubin: bytes, name: str) -> int:
    """What the assembler reserved: registers a thread, or the bytes of stack that spilled ones go to."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(rf"{name}:(\d+)", text)[1])


if __name__ == "__main__":
    print(json.dumps({name: compiled(*kernel) for name, kernel in KERNELS.items()}))
