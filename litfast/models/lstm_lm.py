"""A language model of LSTM layers, as in Zaremba et al., whose state goes on from window to window."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn

from litfast.carried import Carried

RANGE = 0.1  # embedding and softmax start uniformly within it, on both sides of 0


class Layer(nn.Module):
    """Dropout on what enters, then an LSTM over the words of a window.

    The first word's state is the one that the last word of the batch before left, detached: truncated
    back-propagation through time. `litfast.carried` resets it, sets it aside and keeps it in checkpoints.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.carried = Carried(h=hidden, c=hidden)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, width] -> [B, T, hidden]
        h, c = (kept[None].to(x.dtype) for kept in self.carried.take(x.shape[0]))
        with _plain(x.device):
            out, (h, c) = self.lstm(self.drop(x), (h, c))
        self.carried.leave(h[0], c[0])
        hidden: Tensor = out
        return hidden


class LSTMLM(nn.Module):
    """Predicts the next word at every place of a text from all words before it.

        x_t = E[w_t],  h_t = LSTM_L(... LSTM_1(x)_t),  p(w_{t+1}) = softmax(W h_t + b)

    with dropout on what enters each LSTM layer and the softmax layer, never on the state.

    Embedding and softmax weights start uniformly in -0.1..0.1, the bias at 0, the LSTM layers from torch's
    own. `layer1`, `layer2`, ... are the sections, `embedding` and `softmax` the ends.

    Args:
        classes: words of the vocabulary, V.
        width: of the embedding.
        hidden: of the LSTM layers; None: `width`.
        layers: LSTM layers.
        tied: softmax and embedding share one weight; a state dict holds it once, as the embedding's.
        dropout: probability of a zero.

    Raises:
        ValueError: a size below 1, a dropout outside 0 to below 1, `tied` with hidden unlike width. The
            forward pass: ids that are not int64 (or int32) of shape [B, T].

    Source: Zaremba, Sutskever, Vinyals, Recurrent Neural Network Regularization (2014), section 3.1; tied
    weights: Press, Wolf (2017).
    """

    def __init__(
        self,
        *,
        classes: int,
        width: int = 200,
        hidden: int | None = None,
        layers: int = 2,
        tied: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = width if hidden is None else hidden
        _check(dict(classes=classes, width=width, hidden=hidden, layers=layers), tied, dropout)
        self.names = tuple(f"layer{i + 1}" for i in range(layers))
        self.embedding = nn.Embedding(classes, width)
        for i, name in enumerate(self.names):
            self.add_module(name, Layer(hidden if i else width, hidden, dropout))
        self.drop = nn.Dropout(dropout)
        self.softmax = nn.Linear(hidden, classes)
        nn.init.uniform_(self.embedding.weight, -RANGE, RANGE)
        nn.init.uniform_(self.softmax.weight, -RANGE, RANGE)
        nn.init.zeros_(self.softmax.bias)
        if tied:
            self.softmax.weight = self.embedding.weight
            self.register_state_dict_post_hook(_drop_shared)
            self.register_load_state_dict_pre_hook(_add_shared)

    def forward(self, ids: Tensor) -> Tensor:  # [B, T] -> [B, T, V]
        x = self.embedding(checked_ids(ids))
        for name in self.names:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.softmax(self.drop(x))
        return logits


@fx.wrap  # one call in a traced forward: torch.fx could not follow the comparisons
def checked_ids(ids: Tensor) -> Tensor:
    """`ids` as they are, once their dtype and shape fit; reads no values."""
    if ids.dtype not in (torch.int64, torch.int32) or ids.dim() != 2:
        raise ValueError(f"LSTMLM: ids must be int64 [B, T], got {ids.dtype} {list(ids.shape)}")
    return ids


def _plain(device: torch.device) -> AbstractContextManager[None]:
    """On the CPU no autocast: it would call oneDNN's LSTM in bf16, which fails where the CPU has no bf16."""
    return torch.autocast("cpu", enabled=False) if device.type == "cpu" else nullcontext()


def _drop_shared(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for key in _tied_keys(state_dict, prefix):
        state_dict.pop(f"{prefix}softmax.{key}", None)


def _add_shared(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in _tied_keys(state_dict, prefix):
        state_dict[f"{prefix}softmax.{key}"] = state_dict[f"{prefix}embedding.{key}"]


def _tied_keys(state_dict: dict[str, Any], prefix: str) -> list[str]:
    """What the embedding holds is the softmax layer's, too."""
    start = f"{prefix}embedding."
    return [key.removeprefix(start) for key in state_dict if key.startswith(start)]


def _check(sizes: dict[str, int], tied: bool, dropout: float) -> None:
    for what, size in sizes.items():
        if size < 1:
            raise ValueError(f"LSTMLM: {what} must be at least 1, got {size}")
    if tied and sizes["hidden"] != sizes["width"]:
        raise ValueError(
            f"LSTMLM: hidden must be the width {sizes['width']} where weights are tied, got {sizes['hidden']}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"LSTMLM: dropout must be at least 0 and below 1, got {dropout}")
