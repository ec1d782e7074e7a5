"""The whole step captured once and replayed: observe, branches, losses, updates, metrics, one launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from litfast.data.loader import Batch
from litfast.engine.meters import Ring
from litfast.engine.step import Step
from litfast.engine.trial import objection
from litfast.fields import each, tensors
from litfast.phase import Branch

WARM_UP = 3  # eager runs before a capture: libraries choose their kernels, optimizers make their state


class Capture(Protocol):
    """Records device work. `CudaCapture` in reality; a tape of ops in the tests."""

    def run(self, work: Callable[[], None]) -> None:
        """Run `work` once, eagerly, where it will be captured."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What replays the device work of `work`, on the same memory."""


class CudaCapture:
    """CUDA graphs, captured on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], None]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recorded:
    """One captured step: `inputs` is the memory that it reads, `ring` what it writes metrics to."""

    inputs: Batch
    ring: Ring
    replay: Callable[[], None]


class GraphStep:
    """Replays a step from static memory; whatever cannot be captured runs eagerly.

    A shape is captured when it comes twice in a row, so an epoch's last partial batch runs eagerly and a
    change of resolution is captured anew. So is every set of branches that trains (`every`, stopped ones).
    Each capture is checked against two eager steps first; parameters, optimizer state, buffers and random
    state are as if it had not been made. Where it fails the rest of the phase is eager, and `step.notes` says
    why. The learning rate is read from a device tensor, random numbers go on from replay to replay.

    Args:
        step: made with `captured=True`.
        rows: metrics are valid for so many steps after they were returned.
    """

    def __init__(self, step: Step, capture: Capture, *, rows: int) -> None:
        self._step = step
        self._capture = capture
        self._rows = rows
        self._refused = False
        self._last: object = None
        self._shapes: object = None
        self._recorded: dict[tuple[str, ...], _Recorded] = {}

    @property
    def inputs(self) -> Batch | None:
        """The memory that the captured step reads, for a loader to write to; None before a capture."""
        return next((recorded.inputs for recorded in self._recorded.values()), None)

    def __call__(self, batch: Batch, *, step: int, progress: float) -> dict[str, Tensor]:
        """As `Step.__call__`."""
        due = self._step.due(step)
        recorded = None if self._refused or not self._settled(batch) else self._of(batch, due, progress)
        self._step.set_lr(due, progress)
        if recorded is None:
            return self._step.compute(batch, due)
        for static, tensor in zip(tensors(recorded.inputs), tensors(batch), strict=True):
            if static is not tensor:
                static.copy_(tensor, non_blocking=True)
        recorded.replay()
        return recorded.ring.take()

    def _settled(self, batch: Batch) -> bool:
        """Whether the batch is of the captured shape, or of one that is worth a new capture."""
        shapes = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors(batch)]
        again, self._last = shapes == self._last, shapes
        if again and shapes != self._shapes:
            self._shapes = shapes
            self._recorded.clear()
        return shapes == self._shapes

    def _of(self, batch: Batch, due: tuple[Branch, ...], progress: float) -> _Recorded | None:
        key = tuple(branch.name for branch in due)
        if key not in self._recorded and due:
            active = {branch.name for branch in self._step.active}
            self._recorded = {names: kept for names, kept in self._recorded.items() if active >= set(names)}
            self._record(key, batch, due, progress)
        return self._recorded.get(key)

    def _record(self, key: tuple[str, ...], batch: Batch, due: tuple[Branch, ...], progress: float) -> None:
        inputs = Batch(*each(torch.clone, batch))
        ring = Ring(self._rows)
        replays: list[Callable[[], None]] = []

        def work() -> None:
            ring.write(self._step.compute(inputs, due))

        def prepare() -> Callable[[], None]:
            for _ in range(WARM_UP):
                self._capture.run(work)
            replays.append(self._capture.record(work))
            return replays[0]

        why = objection(self._step, batch, due, progress, prepare)
        if why is None:
            ring.rewind()
            self._recorded[key] = _Recorded(inputs=inputs, ring=ring, replay=replays[0])
        else:
            self._refused = True
            self._step.notes.append(f"{self._step.phase.name}: the step is not captured: {why}")
