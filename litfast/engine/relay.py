"""Tensors handed on from ranks to the next ones, step after step, while both go on with their work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from litfast.engine.ranks import Ranks

Route = tuple[int, slice]  # a rank, and the rows of our tensor that go to it or come from it
BUFFERS = 2


class Relay:
    """What comes in from the ranks before and goes out to those behind, each way double-buffered.

    The receive of the next step is posted before this step's is waited for, and a send is waited for when
    its buffer is needed again: a message of step t + 1 travels while step t is computed.

    Args:
        ranks: all of the job.
        entering, leaving: tensors like those that come in and go out, rows first; None: none does.
        sources, sinks: where their rows come from and go to.
    """

    def __init__(
        self,
        ranks: Ranks,
        *,
        entering: Tensor | None,
        leaving: Tensor | None,
        sources: Sequence[Route] = (),
        sinks: Sequence[Route] = (),
    ) -> None:
        self._ranks = ranks
        self._inbox = [] if entering is None else [_dense_like(entering) for _ in range(BUFFERS)]
        self._outbox = [] if leaving is None else [_dense_like(leaving) for _ in range(BUFFERS)]
        self._sources, self._sinks = tuple(sources), tuple(sinks)
        self._expected: list[Any] = []  # receives into the first buffer of the inbox
        self._sent: list[list[Any]] = [[] for _ in self._outbox]

    def receive(self) -> Tensor:
        """The tensor of this step, whose memory is good until the next call."""
        if not self._expected:
            self._expected = self._expect()
        self._wait(self._expected)
        came = self._inbox[0]
        self._inbox.reverse()
        self._expected = self._expect()
        return came

    def send(self, tensor: Tensor) -> None:
        """Hand a copy on."""
        self._wait(self._sent[0])
        self._outbox[0].copy_(tensor)
        self._sent[0] = self._post(dist.isend, self._outbox[0], self._sinks)
        self._outbox.reverse()
        self._sent.reverse()

    def drain(self) -> None:
        """Have no message under way, on all ranks after as many steps; it can go on afterwards.

        What the next ranks expect already is sent to them, and dropped there.
        """
        if any(self._sent):
            self.send(self._outbox[0].clone())
        self._wait([*self._expected, *(work for works in self._sent for work in works)])
        self._expected, self._sent = [], [[] for _ in self._outbox]

    def _expect(self) -> list[Any]:
        return self._post(dist.irecv, self._inbox[0], self._sources)

    def _post(self, way: Any, buffer: Tensor, routes: Sequence[Route]) -> list[Any]:
        with self._ranks.together():
            return [way(_flat(buffer[rows]), rank, group=self._ranks.group) for rank, rows in routes]

    def _wait(self, works: Sequence[Any]) -> None:
        with self._ranks.together():
            for work in works:
                work.wait()


def _dense_like(tensor: Tensor) -> Tensor:
    """Memory in the tensor's layout, rows outermost: convolutions then run as they would without a relay."""
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty_like(tensor, memory_format=layout)


def _flat(rows: Tensor) -> Tensor:
    """Some rows of a dense tensor as one line of numbers, in the order of memory: what gloo sends."""
    return rows.as_strided((rows.numel(),), (1,), rows.storage_offset())
