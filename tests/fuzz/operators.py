"""Targets: arguments of the public ops. What is accepted comes out as the reference has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from litfast import ops
from litfast.ops.reference import LITLoss

from .harness import Target
from .spoil import HUGE
from .tensors import DTYPES, FLOATS, numbers, shapes, sizes, strange, tensors

Draw = st.DrawFn


def spoil(draw: Draw, given: dict[str, Any], bad: st.SearchStrategy[Any]) -> dict[str, Any]:
    """The arguments with, one time in three, one of them replaced."""
    if given and not draw(st.integers(0, 2)):
        given[draw(st.sampled_from(sorted(given)))] = draw(bad)
    return given


@st.composite
def pairs(draw: Draw) -> dict[str, Any]:
    """Logits of student and teacher with a target."""
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 5, 17]), min_size=1, max_size=2))
    classes = draw(st.sampled_from([1, 2, 5, 33]))
    given: dict[str, Any] = {
        "student_logits": draw(tensors([*shape, classes])),
        "teacher_logits": draw(tensors([*shape, classes])).detach(),
        "target": torch.arange(math.prod(shape)).view(shape)
        % (classes + draw(st.sampled_from([0, 0, 0, 1]))),
        "tau": draw(st.sampled_from([1.0, 4.0, 0.5])),
        "alpha": draw(st.sampled_from([0.0, 0.3, 1.0])),
    }
    for key, among in KD.items():
        if draw(st.booleans()):
            given[key] = draw(among)
    return given


KD: dict[str, st.SearchStrategy[Any]] = {
    "soft": st.sampled_from(["ce", "kl", "x"]),
    "label_smoothing": st.one_of(st.sampled_from([0.1, 0.0, 1.0]), numbers),
    "ignore_index": st.sampled_from([-100, 0, -1, 1 << 62, 1 << 70, True, None]),
}
tensor_or_number = st.one_of(tensors(shapes, DTYPES), numbers, strange)


@st.composite
def kd_cases(draw: Draw) -> dict[str, Any]:
    given = draw(pairs())
    given["reduction"] = draw(st.sampled_from(["mean", "sum", "none"]))
    given["convention"] = draw(
        st.sampled_from(["lit", "lit", "hinton", "torchdistill", "mdistiller", "deit"])
    )
    return spoil(draw, given, tensor_or_number)


@st.composite
def irs(draw: Draw) -> dict[str, Any]:
    shapes_of = draw(st.lists(st.lists(sizes, max_size=4).filter(lambda s: math.prod(s) < 9999), max_size=3))
    given: dict[str, Any] = {
        "student_irs": [draw(tensors(shape)) for shape in shapes_of],
        "teacher_irs": [draw(tensors(shape)).detach() for shape in shapes_of],
        "penalty": draw(st.sampled_from(["l2", "l1", "smooth_l1"])),
    }
    if draw(st.booleans()):
        given["weights"] = draw(st.lists(numbers, min_size=len(shapes_of), max_size=len(shapes_of)))
    if given["student_irs"] and not draw(st.integers(0, 5)):
        given["student_irs"][0] = draw(tensor_or_number)
    return spoil(draw, given, tensor_or_number)


@st.composite
def ir_cases(draw: Draw) -> dict[str, Any]:
    return spoil(draw, draw(irs()) | {"scale": 0.5}, tensor_or_number)


@st.composite
def lit_cases(draw: Draw) -> dict[str, Any]:
    return spoil(draw, draw(irs()) | draw(pairs()) | {"beta": draw(st.floats(0, 1))}, tensor_or_number)


@st.composite
def l1_cases(draw: Draw) -> dict[str, Any]:
    scales = draw(st.lists(st.one_of(tensors(), tensors(), tensors(shapes, DTYPES)), max_size=3))
    return spoil(draw, {"scales": scales, "strength": draw(numbers)}, tensor_or_number)


@st.composite
def augment_cases(draw: Draw) -> dict[str, Any]:
    N, H, W, C = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3, 5, 0])] * 4))
    B, crop = draw(st.sampled_from([0, 1, 2, 9])), draw(st.sampled_from([0, 1, 4]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    slack = draw(st.sampled_from([0, 0, 0, 1]))  # beyond the ends

    def below(end: int) -> Tensor:
        return torch.randint(-slack, max(end, 1) + slack, (B,), generator=generator)

    given: dict[str, Any] = {
        "images": torch.randint(256, (N, H, W, C), generator=generator).byte(),
        "index": below(N),
        "top": below(2 * crop + 1),
        "left": below(2 * crop + 1),
        "mirrored": below(2) > 0,
        "table": draw(tensors([C, 256])).detach(),
        "crop": crop,
        "channels_last": draw(st.booleans()),
    }
    bad = st.sampled_from(
        [HUGE, 1 << 62, 1 << 31, -1, True, torch.full((B,), 1 << 62), torch.full((B,), -(1 << 63))]
    )
    return spoil(draw, given, st.one_of(tensor_or_number, bad))


@st.composite
def low_rank(draw: Draw) -> dict[str, Any]:
    d, dtype = draw(st.sampled_from([1, 2, 5, 33, 0])), draw(st.sampled_from(FLOATS))
    sizes_of = draw(st.lists(st.tuples(st.sampled_from([1, 2, 20]), st.sampled_from([1, 2, 7])), max_size=3))
    dense = [draw(st.integers(0, 3)) == 0 for _ in sizes_of]
    factors = [
        draw(tensors([n, d if whole else r], [dtype])) for (n, r), whole in zip(sizes_of, dense, strict=True)
    ]
    bases = [
        draw(tensors([0 if whole else r, d], [dtype])) for (_, r), whole in zip(sizes_of, dense, strict=True)
    ]
    words = sum(n for n, _ in sizes_of)
    return {
        "factors": factors,
        "bases": bases,
        "place": torch.randperm(words, generator=torch.Generator().manual_seed(0))
        + draw(st.sampled_from([0, 0, 0, 1])),
    }


@st.composite
def embedding_cases(draw: Draw) -> dict[str, Any]:
    given = draw(low_rank())
    shape, slack = (
        draw(st.lists(st.sampled_from([0, 1, 3, 17]), max_size=2)),
        draw(st.sampled_from([0, 0, 0, 1])),
    )
    given["ids"] = torch.arange(math.prod(shape)).view(shape) % (max(len(given["place"]), 1) + slack)
    return spoil(draw, given, tensor_or_number)


@st.composite
def softmax_cases(draw: Draw) -> dict[str, Any]:
    given = draw(low_rank())
    d, dtype = (
        (given["bases"][0].shape[1], given["factors"][0].dtype) if given["bases"] else (3, torch.float32)
    )
    given["hidden"] = draw(tensors([*draw(st.lists(st.sampled_from([0, 1, 7]), max_size=2)), d], [dtype]))
    if draw(st.booleans()):
        given["bias"] = draw(tensors([len(given["place"])], [dtype]))
    return spoil(draw, given, tensor_or_number)


@st.composite
def factorise_cases(draw: Draw) -> dict[str, Any]:
    N, d = draw(st.sampled_from([1, 3, 12, 0])), draw(st.sampled_from([1, 4, 0]))
    given: dict[str, Any] = {
        "weight": draw(tensors([N, d])),
        "counts": torch.arange(N) ** 2 - draw(st.sampled_from([0, 3])),
        "budget": draw(st.sampled_from([0, 1, 50, 100, 150, 400, 1000, -1])),
        "blocks": draw(st.sampled_from([1, 2, 3, 5, 0, 300])),
    }
    return spoil(draw, given, tensor_or_number)


@st.composite
def quantise_cases(draw: Draw) -> dict[str, Any]:
    n, r, d = draw(st.tuples(*[st.sampled_from([1, 3, 0, 9])] * 3))
    given = {"factor": draw(tensors([n, r])), "basis": draw(tensors([draw(st.sampled_from([r, r, 0])), d]))}
    return spoil(draw, given, tensor_or_number)


def same(op: Callable[..., Any]) -> Callable[[dict[str, Any], Path], None]:
    """Runs an op and its reference, forward and backward."""

    def run(given: dict[str, Any], folder: Path) -> None:
        ours = op(**given)
        total = ours.total if isinstance(ours, LITLoss) else ours
        assert isinstance(total, Tensor)
        wanted = [x for x in _flat(given) if x.requires_grad]
        grads = torch.autograd.grad(total.sum(), wanted, allow_unused=True) if total.requires_grad else ()
        for gradient, tensor in zip(grads, wanted, strict=False):
            assert gradient is None or (gradient.shape, gradient.dtype) == (tensor.shape, tensor.dtype)
        if _is_moderate(given):
            theirs = op(**given, backend="reference")
            for a, b in zip(_flat(ours), _flat(theirs), strict=True):
                torch.testing.assert_close(a, b, rtol=0.02, atol=0.02, equal_nan=True)

    return run


def _is_moderate(given: dict[str, Any]) -> bool:
    """Whether an answer does not hang on how numbers at the edge of a type are rounded."""
    found = [x for x in _flat(given) if x.is_floating_point()]
    tau = given.get("tau", 1.0)
    plain = all(bool(x.isfinite().all()) and not (x.abs() > 9).any() for x in found)
    return plain and (isinstance(tau, Tensor) or 0.1 <= tau <= 100) and given.get("crop", 0) < 99


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.device.type == "cpu" else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in inner for tensor in _flat(item)]


def factorise(given: dict[str, Any], folder: Path) -> None:
    found = ops.factorise(**given)
    weight = given["weight"]
    assert len(found.group) == len(weight)
    assert sum(len(factor) for factor in found.factors) == len(weight)
    assert all(basis.shape[1] == weight.shape[1] for basis in found.bases)
    assert all(bool(part.isfinite().all()) for part in (*found.factors, *found.bases))


def quantise(given: dict[str, Any], folder: Path) -> None:
    rows, across, scale = ops.quantise(**given)
    assert rows.shape == given["factor"].shape and rows.dtype == across.dtype == torch.int8
    assert across.shape == given["basis"].shape and scale.shape == rows.shape[1:]


def augment_table(given: dict[str, Any], folder: Path) -> None:
    table = ops.augment_table(**given)
    assert table.shape == (len(given["mean"]), 256)


def _target(name: str, run: Callable[[Any, Path], object], cases: Any) -> Target:
    return Target(name=name, cases=cases, run=run, says=f"{name}: ", refusals=(ValueError, TypeError))


few = st.one_of(st.lists(numbers, max_size=4), strange)
OPERATORS = [
    _target("kd_loss", same(ops.kd_loss), kd_cases()),
    _target("ir_loss", same(ops.ir_loss), ir_cases()),
    _target("lit_loss", same(ops.lit_loss), lit_cases()),
    _target("channel_l1", same(ops.channel_l1), l1_cases()),
    _target("augment", same(ops.augment), augment_cases()),
    _target("augment_table", augment_table, st.fixed_dictionaries({"mean": few, "std": few})),
    _target("low_rank_embedding", same(ops.low_rank_embedding), embedding_cases()),
    _target("low_rank_softmax", same(ops.low_rank_softmax), softmax_cases()),
    _target("factorise", factorise, factorise_cases()),
    _target("quantise", quantise, quantise_cases()),
]
