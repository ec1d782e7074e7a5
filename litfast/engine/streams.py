"""Where the branches of a step run: one after another, or each on a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from litfast.phase import Branch, Phase


class Streams(Protocol):
    """A step observes inside `observing`, runs each branch inside `running`, and joins before it returns."""

    def observing(self, due: Sequence[Branch]) -> AbstractContextManager[None]: ...

    def running(self, branch: Branch) -> AbstractContextManager[None]: ...

    def join(self) -> None: ...


class Serial:
    """All on the current stream (or on the CPU), in the order of the phase."""

    def observing(self, due: Sequence[Branch]) -> AbstractContextManager[None]:
        return nullcontext()

    def running(self, branch: Branch) -> AbstractContextManager[None]:
        return nullcontext()

    def join(self) -> None:
        pass


class Forked:
    """Every branch on a stream of its own, forked from the current stream and joined to it.

    A branch starts when the module that it `needs` has run in `observe`, or when all of `observe` has; one
    with `after` also waits for the updates of those that it names. The order is kept by events alone, so
    the same code runs eagerly and inside a capture. The step holds the observations until the join, and each
    branch's memory is made and freed on its own stream: no tensor needs `record_stream`.

    Args:
        early: False has every branch wait for all of `observe`: compiled code runs no hooks.
        cuda: `torch.cuda`, or what stands for it in a test.
    """

    def __init__(self, phase: Phase, cuda: Any = torch.cuda, *, early: bool = True) -> None:
        self._cuda = cuda
        self._early = early
        self._streams = {branch.name: cuda.Stream() for branch in phase.branches}
        self._ready: dict[nn.Module, Any] = {}
        self._updated: dict[str, Any] = {}
        self._observed: Any = None

    @contextmanager
    def observing(self, due: Sequence[Branch]) -> Iterator[None]:
        self._ready, self._updated = {}, {}
        modules = {branch.needs for branch in due if branch.needs is not None and self._early}
        hooks = [module.register_forward_hook(self._mark) for module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self._observed = self._event()

    @contextmanager
    def running(self, branch: Branch) -> Iterator[None]:
        stream = self._streams[branch.name]
        early = None if branch.needs is None else self._ready.get(branch.needs)
        stream.wait_event(self._observed if early is None else early)
        for other in branch.after:
            if other in self._updated:
                stream.wait_event(self._updated[other])
        with self._cuda.stream(stream):
            yield
            self._updated[branch.name] = self._event()

    def join(self) -> None:
        current = self._cuda.current_stream()
        for event in self._updated.values():
            current.wait_event(event)

    def _mark(self, module: nn.Module, *_: Any) -> None:
        self._ready[module] = self._event()

    def _event(self) -> Any:
        event = self._cuda.Event()
        event.record(self._cuda.current_stream())
        return event
