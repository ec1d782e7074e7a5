"""The low-rank look-up and softmax give what the reconstructed matrix gives, without building it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litfast.ops import low_rank_embedding, low_rank_softmax
from litfast.testing import LAYERS, Sample, convert, misses, on, run, samples

SAMPLES = [sample for op in LAYERS for sample in samples(op)]
EVERY_SAMPLE = pytest.mark.parametrize("sample", SAMPLES, ids=str)
LINE = r"\A\w+: [^\n]* must [^\n]*, got [^\n]*\Z"


def rebuilt(factors: list[Tensor], bases: list[Tensor], place: Tensor) -> Tensor:
    """The matrix [N, d] that the ops never build."""
    rows = [f @ b if len(b) else f for f, b in zip(factors, bases, strict=True)]
    return torch.cat(rows)[place]


@EVERY_SAMPLE
def test_the_reference_is_the_rebuilt_matrix_in_value_and_gradient(sample: Sample) -> None:
    exact = convert(sample, torch.float64)
    ours = run(exact)
    x, factors, bases, place, *rest = exact.args
    leaves = [t.detach().clone().requires_grad_() for t in (*factors, *bases)]
    matrix = rebuilt(leaves[: len(factors)], leaves[len(factors) :], place)
    if sample.op == "low_rank_embedding":
        wanted = F.embedding(x, matrix)
    else:
        leaves = [x.detach().clone().requires_grad_(), *leaves]
        wanted = F.linear(leaves[0], matrix, *rest)
    incoming = torch.linspace(0.5, 1.5, wanted.numel()).to(wanted).view_as(wanted)
    theirs = torch.autograd.grad(wanted, leaves, incoming, allow_unused=True)
    torch.testing.assert_close(ours.losses[0], wanted.detach())
    gradients = ours.gradients[: len(leaves)]
    for mine, their in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if their is None else their)


@EVERY_SAMPLE
def test_backend_keeps_the_accuracy_rule(sample: Sample, backend: str) -> None:
    if backend == "triton" and "float64" in sample.name:
        pytest.skip("triton refuses float64")
    assert misses(sample, backend) == []


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize("op", LAYERS)
def test_every_instruction_set_keeps_the_accuracy_rule(
    op: str, isa: str, cpp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litfast.ops import _cpp, build_info

    if isa not in (build_info() or {})["isas"]:
        pytest.skip(f"this machine or this build has no {isa}")
    monkeypatch.setattr(_cpp, "ISA", isa)
    assert [miss for sample in samples(op) for miss in misses(sample, cpp)] == []


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 41])
def test_the_thread_count_changes_no_bit(rows: int, cpp: str) -> None:
    (sample,) = (s for s in samples("low_rank_softmax") if s.name == "odd")
    _, *table = sample.args
    hidden, ids = torch.randn(rows, 41), torch.randint(446, (rows,))
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            logits = low_rank_softmax(hidden, *table, backend=cpp)
            made.append((logits, low_rank_embedding(ids, *table[:3], backend=cpp)))
    finally:
        torch.set_num_threads(before)
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


def test_no_tensor_of_the_matrixs_size_is_made(backend: str) -> None:
    """Forward and backward of 2 tokens: only the logits are as long as the vocabulary, 2 rows of them."""
    factors, bases = [torch.randn(500, 3), torch.randn(1500, 2)], [torch.randn(3, 64), torch.randn(2, 64)]
    leaves = [tensor.requires_grad_() for tensor in (*factors, *bases)]
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(
                [largest, *(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, Tensor))]
            )
            return out

    with Watch():
        vectors = low_rank_embedding(
            torch.tensor([0, 1999]), *_split(leaves), torch.arange(2000), backend=backend
        )
        logits = low_rank_softmax(vectors, *_split(leaves), torch.arange(2000), backend=backend)
        logits.sum().backward()
    assert largest <= 2 * 2000


def _split(leaves: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return leaves[: len(leaves) // 2], leaves[len(leaves) // 2 :]


@pytest.mark.parametrize("op", LAYERS)
def test_gradients_can_be_differentiated_again(op: str, cpp: str) -> None:
    (sample,) = (s for s in samples(op) if s.name == "torch.float64")
    x, factors, bases, *_ = sample.args
    tables = [t[:9].clone().requires_grad_() for t in (factors[2], bases[2])]
    x = x % 9 if op == "low_rank_embedding" else x[:2].clone().requires_grad_()
    order = torch.randperm(9)

    def call(*tensors: Tensor) -> Tensor:
        first, factor, basis = (x, *tensors) if op == "low_rank_embedding" else tensors
        return LAYERS[op](first, [factor], [basis], order, backend=cpp)

    inputs = tables if op == "low_rank_embedding" else [x, *tables]
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("name", ["", "triton_"])
@pytest.mark.parametrize("op", LAYERS)
def test_opcheck_is_clean(op: str, name: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("triton" if name else "cpp")
    args = samples(op)[0].args
    results = torch.library.opcheck(getattr(torch.ops.litfast, name + op).default, args)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_of_backward_takes_columns(dtype: torch.dtype, cpp: str) -> None:
    x, index = torch.randn(7, 3, dtype=dtype).t(), torch.tensor([6, 0, 0, 3])
    op = torch.ops.litfast.columns.default
    assert torch.equal(op(x, index), x[:, index])
    assert set(torch.library.opcheck(op, (x, index)).values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["auto", "cpp"])
def test_autocast_casts_nothing(backend: str, cpp: str) -> None:
    for op in LAYERS:
        args = samples(op)[0].args
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = LAYERS[op](*args, backend=backend)
        assert torch.equal(made, LAYERS[op](*args, backend=backend))


X, FACTORS, BASES, PLACE, BIAS = samples("low_rank_softmax")[0].args
IDS = torch.tensor([0, 3, 63])


def look_up(**changes: Any) -> Tensor:
    options = {"ids": IDS, "factors": FACTORS, "bases": BASES, "place": PLACE} | changes
    return low_rank_embedding(**options)


def score(**changes: Any) -> Tensor:
    options = {"hidden": X, "factors": FACTORS, "bases": BASES, "place": PLACE, "bias": BIAS} | changes
    return low_rank_softmax(**options)


@pytest.mark.parametrize(
    ("call", "changes", "error", "part"),
    [
        (look_up, {"ids": IDS.int()}, TypeError, "ids must be int64, got torch.int32"),
        (look_up, {"ids": IDS + 1}, ValueError, "ids must lie in [0, 64), got 64"),
        (look_up, {"ids": IDS - 1, "backend": "reference"}, ValueError, "ids must lie in [0, 64), got -1"),
        (
            look_up,
            {"bases": BASES[:2]},
            ValueError,
            "factors and bases must be one each a block, got 3 and 2",
        ),
        (look_up, {"factors": []}, ValueError, "must be one each a block, got 0 and 3"),
        (
            score,
            {"factors": [*FACTORS[:2], FACTORS[2][:, :1]]},
            ValueError,
            "bases[2] must be [1, 16], got [2, 16]",
        ),
        (
            score,
            {"factors": [*FACTORS[:2], FACTORS[2][:0]]},
            ValueError,
            "factors[2] must be [n, r], both at least",
        ),
        (
            score,
            {"bases": [*BASES[:2], BASES[2].double()]},
            ValueError,
            "bases[2] must be torch.float32 on cpu, got",
        ),
        (score, {"bases": [*BASES[:2], BASES[2][:0]]}, ValueError, "bases[2] must be [2, 16], got [0, 16]"),
        (score, {"place": PLACE[1:]}, ValueError, "place must be int64 [64] on cpu, got torch.int64 [63]"),
        (score, {"place": PLACE + 1}, ValueError, "place must lie in [0, 64), got 1 to 64"),
        (score, {"hidden": X[:, 1:]}, ValueError, "hidden must be [..., 16], got [7, 15]"),
        (score, {"hidden": X.long()}, TypeError, "hidden must be float32, float64, bfloat16 or float16"),
        (
            score,
            {"bias": BIAS[1:]},
            ValueError,
            "bias must be torch.float32 [64] on cpu, got torch.float32 [63]",
        ),
        (score, {"backend": "cp"}, ValueError, "got 'cp'; did you mean 'cpp'?"),
    ],
)
def test_a_mistake_gets_one_line(
    call: Any, changes: dict[str, Any], error: type[Exception], part: str, cpp: str
) -> None:
    with pytest.raises(error, match=LINE) as caught:
        call(**{"backend": cpp} | changes)
    assert re.search(re.escape(part), str(caught.value))


def test_where_the_host_must_not_wait_an_id_out_of_range_gives_nan(triton: str) -> None:
    made = look_up(ids=torch.tensor([0, 64, -1, 2**40, 3]), backend=triton)
    assert made.isnan().all(1).tolist() == [False, True, True, True, False]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["reference", "triton", "auto"])
@EVERY_SAMPLE
def test_a_gpu_keeps_the_accuracy_rule(sample: Sample, backend: str) -> None:
    if backend != "reference" and "float64" in sample.name:
        pytest.skip("triton refuses float64")
    assert misses(on(sample, "cuda"), backend) == []


@pytest.mark.parametrize(("backend", "opaque"), [("auto", False), ("cpp", True)])
@pytest.mark.parametrize("op", LAYERS)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_call_is_one_graph_with_the_same_gradient(
    op: str, backend: str, opaque: bool, cpp: str
) -> None:
    names: list[str] = []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    args = samples(op)[1].args  # in fp64
    tables = [table.clone().requires_grad_() for table in (*args[1], *args[2])]

    def loss(x: Tensor, *tables: Tensor) -> Tensor:
        return LAYERS[op](x, *_split(list(tables)), *args[3:], backend=backend).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=aot_autograd(fw_compiler=note, bw_compiler=note))
    ours, plain = (
        torch.autograd.grad(made(args[0], *tables), tables, allow_unused=True)  # a dense block has no basis
        for made in (compiled, loss)
    )
    used = [pair for pair in zip(ours, plain, strict=True) if pair[0] is not None and pair[0].numel()]
    assert len(used) == len(tables) - 1
    for mine, their in used:
        torch.testing.assert_close(mine, their)
    assert any("litfast" in name for name in names) == opaque
