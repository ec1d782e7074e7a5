"""What a model costs: parameters, multiply-accumulates, weighted layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from litfast.models._modes import evaluating
from litfast.models.inputs import Input


def parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones once; batch-norm statistics are not parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, input: Input) -> int:
    """Multiply-accumulates of the convolutions and matrix products for one sample, in eval mode.

    Looking up an embedding costs none; in blocks of low rank every word is counted with the largest basis.
    The sample of a language model is a window of words.

    Args:
        input: what the model reads.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton: only a count needs it

    like = next(model.parameters())
    sample = input.example(1, generator=torch.Generator(), device=like.device, dtype=like.dtype)
    counter = FlopCounterMode(display=False, custom_mapping=_own_flops())
    with evaluating(model), torch.no_grad(), counter:
        model(sample)
    return int(counter.get_total_flops()) // 2  # a multiply and an add


def _own_flops() -> dict[Any, Any]:
    """Of ops that torch's counter does not know."""
    low_rank = torch.ops.litfast
    return {
        **{op: _lstm_flops for op in _lstm_ops()},
        low_rank.low_rank_embedding: _look_up_flops,
        low_rank.low_rank_softmax: _score_flops,
    }


def _look_up_flops(ids: Any, factors: Any, bases: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(ids) * max(math.prod(basis) for basis in bases)


def _score_flops(hidden: Any, factors: Any, bases: Any, *_: Any, **__: Any) -> int:
    """A multiply and an add an element of the tables, for every row."""
    return 2 * math.prod(hidden[:-1]) * sum(math.prod(table) for table in (*factors, *bases))


def _lstm_ops() -> tuple[Any, Any]:
    """The LSTMs of oneDNN and cuDNN: one op each, which torch's counter does not know."""
    return torch.ops.aten.mkldnn_rnn_layer, torch.ops.aten._cudnn_rnn


def _lstm_flops(inputs: Any, *shapes: Any, **_: Any) -> int:
    """A multiply and an add an element of the weights, at every step of every stream."""
    weights = shapes[0] if isinstance(shapes[0][0], Sequence) else shapes[:2]  # a list, or input and state's
    return 2 * math.prod(inputs[:2]) * sum(math.prod(shape) for shape in weights if len(shape) == 2)


def depth(model: nn.Module) -> int:
    """Number of weighted layers: 20 for ResNet-20, 18 for StarGAN with 6 blocks, as the papers count.

    Of a language model the LSTM layers and the softmax layer count, the embedding does not.

    VDCNN's name counts its convolutions alone: VDCNN-9 has 12 here, with its three linear layers.

    Convolutions and linear layers count; the 1x1 convolutions of a shortcut (modules under a name with
    "shortcut" or "downsample") lie beside the path and do not.
    """
    weighted = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.LSTM, nn.Linear)
    beside = ("shortcut", "downsample")
    return sum(
        isinstance(module, weighted) and not any(word in name for word in beside)
        for name, module in model.named_modules()
    )
