"""`low_rank_embedding` and `low_rank_softmax`: matrices of word vectors, kept in blocks of low rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from ._checks import check_float, check_sequence, is_transformed
from ._dispatch import serving
from ._low_rank import EMBEDDING_BACKENDS, SOFTMAX_BACKENDS, Call, embedded, id_error, scored


def low_rank_embedding(
    ids: Tensor,  # [...] int64
    factors: Sequence[Tensor],  # P of [n_p, r_p]
    bases: Sequence[Tensor],  # P of [r_p, d], or [0, d]
    place: Tensor,  # [N] int64
    *,
    backend: str = "auto",
) -> Tensor:
    """The vectors of words whose matrix [N, d] is kept in blocks of low rank; it is never built.

        out = factors_p[j] @ bases_p     of a word at place[id] = n_0 + ... + n_(p-1) + j

    Args:
        ids: words, each in [0, N).
        factors: a row a word of each block; float32, float64, bfloat16 or float16, all of one dtype.
        bases: what each block's rows are multiplied by; [0, d] where a block is dense, r_p = d, and its rows
            are the vectors themselves.
        place: where each word lies when the blocks' words are laid one after the other: a permutation.
        backend: "auto", or one of `litfast.ops.backends()`.

    Returns:
        [..., d] in the factors' dtype, computed in fp32 (fp64 for fp64); gradients flow to factors and bases.

    Raises:
        ValueError, TypeError: a shape, dtype, device or option is not as above. An id out of range is found
            on the CPU alone: elsewhere the host would have to wait for the device. There it gives NaN.
        RuntimeError: the named backend is not installed.

    Source: Chen et al., "GroupReduce", NeurIPS 2018, section 3.
    """
    who = "low_rank_embedding"
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{who}: ids must be int64, got {got}")
    call = Call(who, ids, factors, bases, place)
    _check(call)
    if served_by := serving(EMBEDDING_BACKENDS, backend, who, ids.device, call):
        return embedded(served_by, call)
    if ids.is_cpu and not torch.compiler.is_compiling() and not is_transformed():
        bad = ids[(ids < 0) | (ids >= len(place))]
        if bad.numel():
            raise id_error(int(bad[0]), len(place))
    with torch.autocast(ids.device.type, enabled=False):
        return reference.low_rank_embedding(ids, factors, bases, place)


def low_rank_softmax(
    hidden: Tensor,  # [..., d]
    factors: Sequence[Tensor],  # P of [n_p, r_p]
    bases: Sequence[Tensor],  # P of [r_p, d], or [0, d]
    place: Tensor,  # [N] int64
    bias: Tensor | None = None,  # [N]
    *,
    backend: str = "auto",
) -> Tensor:
    """The logits of a softmax whose matrix [N, d] is kept in blocks of low rank; it is never built.

        out[..., w] = factors_p[j] . (bases_p @ hidden) + bias[w]     of the word w, the j-th of block p

    The hidden state is projected once a block, then scored against the block's rows.

    Args:
        hidden: float32, float64, bfloat16 or float16.
        factors, bases, place: as in `low_rank_embedding`, in the dtype of `hidden`.
        bias: one number a word, in the vocabulary's order.
        backend: "auto", or one of `litfast.ops.backends()`.

    Returns:
        [..., N] in the dtype of `hidden`, computed in fp32 (fp64 for fp64); autocast casts nothing. Gradients
        flow to hidden, factors, bases and bias.

    Raises:
        ValueError, TypeError: a shape, dtype, device or option is not as above.
        RuntimeError: the named backend is not installed.

    Source: Chen et al., "GroupReduce", NeurIPS 2018, section 3.
    """
    who = "low_rank_softmax"
    check_float(who, "hidden", hidden)
    call = Call(who, hidden, factors, bases, place, bias)
    _check(call)
    if served_by := serving(SOFTMAX_BACKENDS, backend, who, hidden.device, call):
        return scored(served_by, call)
    with torch.autocast(hidden.device.type, enabled=False):
        return reference.low_rank_softmax(hidden, factors, bases, place, bias)


def _check(call: Call) -> None:
    who, x, factors, bases, place, bias = call
    for what, sequence in (("factors", factors), ("bases", bases)):
        check_sequence(who, what, sequence, "tensors")
    if not factors or len(factors) != len(bases):
        got = f"{len(factors)} and {len(bases)}"
        raise ValueError(f"{who}: factors and bases must be one each a block, got {got}")
    for what, tensor in (("factors[0]", factors[0]), ("bases[0]", bases[0])):
        check_float(who, what, tensor)
    if bases[0].ndim != 2 or not bases[0].shape[1]:
        raise ValueError(f"{who}: bases[0] must be [r, d] or [0, d] with d > 0, got {list(bases[0].shape)}")
    width, dtype = bases[0].shape[-1], x.dtype if x.is_floating_point() else factors[0].dtype
    for p, (factor, basis) in enumerate(zip(factors, bases, strict=True)):
        for what, tensor in ((f"factors[{p}]", factor), (f"bases[{p}]", basis)):
            check_float(who, what, tensor)
            if tensor.dtype != dtype or tensor.device != x.device:
                rule = f"be {dtype} on {x.device}"
                raise ValueError(f"{who}: {what} must {rule}, got {tensor.dtype} on {tensor.device}")
        if factor.ndim != 2 or not factor.numel():
            raise ValueError(f"{who}: factors[{p}] must be [n, r], both at least 1, got {list(factor.shape)}")
        rank = factor.shape[1]
        if basis.shape != (rank, width) and not (rank == width and basis.shape == (0, width)):
            rule = f"be [{rank}, {width}]" + (" or [0, d]" if rank == width else "")
            raise ValueError(f"{who}: bases[{p}] must {rule}, got {list(basis.shape)}")
    words = sum(len(factor) for factor in factors)
    for what, given in (("place", place), ("bias", place if bias is None else bias)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{who}: {what} must be a tensor, got {type(given).__name__}")
    if place.dtype != torch.int64 or place.shape != (words,) or place.device != x.device:
        got = f"{place.dtype} {list(place.shape)} on {place.device}"
        raise ValueError(f"{who}: place must be int64 [{words}] on {x.device}, got {got}")
    if x.is_floating_point() and (not x.ndim or x.shape[-1] != width):
        raise ValueError(f"{who}: hidden must be [..., {width}], got {list(x.shape)}")
    if bias is not None and (bias.shape != (words,) or bias.dtype != dtype or bias.device != x.device):
        got = f"{bias.dtype} {list(bias.shape)} on {bias.device}"
        raise ValueError(f"{who}: bias must be {dtype} [{words}] on {x.device}, got {got}")
