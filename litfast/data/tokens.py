"""Loaders of ids: texts of one window with a class each, and a language model's parallel streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from litfast.data._checks import check_batches
from litfast.data.draws import draws, steps
from litfast.data.loader import IGNORED, Batch
from litfast.data.sets.text_set import Texts

DTYPES = (torch.uint8, torch.int32, torch.int64)


class TokenLoader:
    """Batches of texts: tokens [B, L] and target [B] int64.

    A batch is one gather of B L bytes from memory, 0.1 ms at B = 128 and L = 1014 on one core, so nothing is
    fetched ahead. A memory-mapped file counts as memory: opening it reads it for its checksum. On a
    CUDA device `resident` keeps all tokens there; without it, the bytes of each batch go through pinned
    memory, and nobody waits for them.

    Args:
        texts: tokens [M, L] uint8 of which the rows [N] are the samples, labels [N] int64.
        batch: samples a step, B.
        train: True shuffles and drops the last partial batch; False keeps the order and fills the last batch
            up with samples whose target is -100.
        seed: with the epoch's number, decides the order.
        dtype: of the tokens; nn.Embedding looks int32 and int64 up, not uint8.
        resident: keep all tokens on the device.
        shard_id, num_shards: the part of a data-parallel rank.

    Raises:
        TypeError: tokens or labels of another dtype; an unknown dtype.
        ValueError: shapes that disagree, an empty set, fewer training samples than one batch of each shard,
            a shard_id out of range.
    """

    def __init__(
        self,
        texts: Texts,
        *,
        batch: int,
        train: bool,
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.int64,
        resident: bool = False,
        shard_id: int = 0,
        num_shards: int = 1,
    ) -> None:
        _check_texts(texts, dtype)
        shard = {"shard_id": shard_id, "num_shards": num_shards}
        check_batches("TokenLoader", len(texts), train=train, batch=batch, **shard)
        self.samples = len(texts)
        self.batch = batch
        self.steps = steps(self.samples, batch, train=train, num_shards=num_shards)
        self.device = torch.device(device)
        self._tokens = texts.tokens.to(self.device) if resident else texts.tokens
        self._labels, self._rows = texts.labels, texts.rows
        self._train, self._seed, self._dtype = train, seed, dtype
        self._shard_id, self._num_shards = shard_id, num_shards

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        """The epoch's batches from step `start` on; the same (seed, epoch) gives the same batches."""
        drawn = draws(
            self.samples,
            batch=self.batch,
            train=self._train,
            seed=self._seed,
            epoch=epoch,
            shard_id=self._shard_id,
            num_shards=self._num_shards,
        )
        rows = self._rows[drawn.index].to(self._tokens.device)
        targets = self._labels[drawn.index].masked_fill_(drawn.filler, IGNORED).to(self.device)
        for step in range(start, self.steps):
            at = slice(step * self.batch, (step + 1) * self.batch)
            tokens = self._tokens.index_select(0, rows[at])
            if tokens.device.type != self.device.type:
                tokens = tokens.pin_memory()
            yield _delivered(tokens, targets[at], self.device, self._dtype, copy_into)

    def state(self) -> dict[str, Any]:
        """Nothing: seed, epoch and step decide."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""


class StreamLoader:
    """Batches of a language model: inputs [B, T] and, as target, the next word of each [B, T], int64.

    The corpus is cut into contiguous streams, B a shard, one shard's behind those of the one before it.
    Row b of step t goes on where row b of step t - 1 stopped, so a state is carried over and begins anew at
    step 0. Nothing is random: all epochs are alike.

    Training takes streams of one length and drops the words that are left over, fewer than T a stream and B
    at the end. Evaluation predicts every word but the first one exactly once: what fills up has target -100.

    A sample is a row, T words.

    Args:
        ids: [N] int32 or int64.
        batch: streams, B.
        length: words a step, T.
        train, shard_id, num_shards: as for TokenLoader.

    Raises:
        TypeError: ids of another dtype.
        ValueError: ids of another shape; fewer than one step of training; batch or length below 1, a
            shard_id out of range.
    """

    def __init__(
        self,
        ids: Tensor,
        *,
        batch: int,
        length: int,
        train: bool,
        device: str | torch.device = "cpu",
        shard_id: int = 0,
        num_shards: int = 1,
    ) -> None:
        _check_ids(ids, length)
        shard = {"shard_id": shard_id, "num_shards": num_shards}
        check_batches("StreamLoader", len(ids), train=False, batch=batch, **shard)
        predicted, streams = len(ids) - 1, batch * num_shards
        self._stream = predicted // streams if train else -(-predicted // streams)  # words of a stream
        self.batch, self.length = batch, length
        self.steps = self._stream // length if train else -(-self._stream // length)
        if not self.steps:
            raise ValueError(
                f"StreamLoader: ids must hold more than {streams} streams of {length} words, got {len(ids)}"
            )
        self.samples = self.steps * streams
        self.device = torch.device(device)
        first = shard_id * batch * self._stream
        self._left = predicted - first  # words to predict from this shard's first stream on
        reach = (batch - 1) * self._stream + self.steps * length + 1  # words that the streams' steps touch
        own = ids[first : first + reach].to(self.device)
        padded = torch.cat([own, own.new_zeros(reach - len(own))])
        self._streams = padded.as_strided((batch, self.steps * length + 1), (self._stream, 1))
        self._train = train

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        """The batches from step `start` on."""
        within = torch.arange(self.length, device=self.device)
        begin = torch.arange(self.batch, device=self.device)[:, None] * self._stream
        for step in range(start, self.steps):
            at = step * self.length
            words = self._streams[:, at : at + self.length + 1]
            # copies, also where the ids are int64 already and a batch of one row would be a view of them
            inputs, target = (part.to(torch.int64, copy=True) for part in (words[:, :-1], words[:, 1:]))
            if not self._train:
                place = within + at  # in the stream
                filler = (place >= self._stream) | (begin + place >= self._left)
                target = target.masked_fill(filler, IGNORED)
            yield _delivered(inputs, target, self.device, torch.int64, copy_into)

    def state(self) -> dict[str, Any]:
        """Nothing: the step decides."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""


def _delivered(
    tokens: Tensor, target: Tensor, device: torch.device, dtype: torch.dtype, copy_into: Batch | None
) -> Batch:
    if copy_into is None:
        tokens = tokens.to(device, non_blocking=True).to(dtype)  # the fewer bytes cross
        return Batch(tokens, target)
    copy_into.images.copy_(tokens.to(device, non_blocking=True))
    copy_into.target.copy_(target)
    return copy_into


def _check_texts(texts: Texts, dtype: torch.dtype) -> None:
    who = "TokenLoader"
    if texts.tokens.dtype != torch.uint8:
        raise TypeError(f"{who}: tokens must be uint8, got {texts.tokens.dtype}")
    if texts.labels.dtype != torch.int64:
        raise TypeError(f"{who}: labels must be int64, got {texts.labels.dtype}")
    if texts.rows.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{who}: rows must be int32 or int64, got {texts.rows.dtype}")
    if dtype not in DTYPES:
        raise TypeError(f"{who}: dtype must be uint8, int32 or int64, got {dtype}")
    if texts.tokens.dim() != 2 or not texts.tokens.numel():
        raise ValueError(f"{who}: tokens must be [M, L], both at least 1, got {list(texts.tokens.shape)}")
    if texts.labels.dim() != 1 or texts.labels.shape != texts.rows.shape or len(texts) == 0:
        got = f"{list(texts.labels.shape)} and {list(texts.rows.shape)}"
        raise ValueError(f"{who}: labels and rows must be [N] with N at least 1, got {got}")
    first, last = int(texts.rows.min()), int(texts.rows.max())
    if first < 0 or last >= len(texts.tokens):
        raise ValueError(f"{who}: rows must lie in [0, {len(texts.tokens)}), got {first} to {last}")


def _check_ids(ids: Tensor, length: int) -> None:
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"StreamLoader: ids must be int32 or int64, got {ids.dtype}")
    if ids.dim() != 1 or len(ids) < 2:
        raise ValueError(f"StreamLoader: ids must be [N] with N at least 2, got {list(ids.shape)}")
    if length < 1:
        raise ValueError(f"StreamLoader: length must be at least 1, got {length}")
