"""The processes that train together, one a device: who they are, and what they say to each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from litfast.errors import first_line

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # the first rank judges and saves alone; a rank that died shows at once


class RankLost(ConnectionError):
    """A rank is gone, and what was asked of all of them cannot be had."""


class Pending:
    """A mean that is under way; `wait` puts it into the tensors."""

    def __init__(self, ranks: Ranks, parts: Sequence[tuple[Sequence[Tensor], Tensor, Any]] = ()) -> None:
        self._ranks, self._parts = ranks, parts

    @torch.no_grad()
    def wait(self) -> None:
        """Have the mean in the tensors; on CUDA the current stream waits, the host does not."""
        for tensors, flat, work in self._parts:
            with self._ranks.together():
                work.wait()
            _spread(flat.div_(self._ranks.world), tensors)
        self._parts = ()


class Ranks:
    """Some of a job's processes, seen from one of them; all of its methods are called by every one of them.

    With one rank nothing is sent and nothing costs time. Tensors on the CPU go through gloo, tensors on a GPU
    through NCCL. A sum has the same bits on every rank.

    Args:
        rank, world: which of how many.
        local_rank: which of those on its machine.
        device: this rank's own GPU; None without one.
        group: of torch.distributed; None with one rank, and for all of them.
        store: what the ranks share besides messages; None with one rank.
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        *,
        local_rank: int = 0,
        device: torch.device | None = None,
        group: Any = None,
        store: Any = None,
    ) -> None:
        self.rank, self.world, self.local_rank, self.device = rank, world, local_rank, device
        self.group, self._store = group, store
        self.whole = True  # False once a rank is gone, or this one leaves by an error

    @property
    def is_first(self) -> bool:
        """Whether this one writes and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        self.gather(None)

    def begin_mean(self, tensors: Iterable[Tensor]) -> Pending:
        """Start the mean over the ranks of each tensor, in one message a dtype and device.

        The tensors hold it, in place, after `wait` of what is returned; until then they must be left alone.
        """
        if self.world == 1:
            return Pending(self)
        with self.together(), torch.no_grad():
            found = [(alike, _flat(alike)) for alike in _alike(tensors)]
            parts = [(a, f, dist.all_reduce(f, group=self.group, async_op=True)) for a, f in found]
        return Pending(self, parts)

    def mean(self, tensors: Iterable[Tensor]) -> None:
        """Put the mean over the ranks into each tensor."""
        self.begin_mean(tensors).wait()

    def broadcast(self, tensors: Iterable[Tensor], source: int = 0) -> None:
        """Put what rank `source` has into each tensor, in place."""
        if self.world == 1:
            return
        with self.together(), torch.no_grad():
            for alike in _alike(tensors):
                flat = _flat(alike)
                dist.broadcast(flat, group=self.group, group_src=source)
                _spread(flat, alike)

    def gather(self, value: T) -> list[T]:
        """What every rank gives, in their order; tensors on the CPU, and plain values."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        with self.together():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on the first rank, the only one that calls it; as for `gather`."""
        if self.world == 1:
            return make()
        told: list[Any] = [make() if self.is_first else None]
        with self.together():
            dist.broadcast_object_list(told, group=self.group, group_src=0)
        found: T = told[0]
        return found

    def among(self, members: Sequence[int]) -> Ranks:
        """Those of `members` alone, for one of them; to be called by all, members or not, in one order."""
        if self.world == 1 or list(members) == list(range(self.world)):
            return self
        with self.together():
            group = dist.new_group(list(members), timeout=PATIENCE)
        if self.rank not in members:
            return ALONE
        return Ranks(
            list(members).index(self.rank),
            len(members),
            local_rank=self.local_rank,
            device=self.device,
            group=group,
            store=self._store,
        )

    def speaks(self) -> bool:
        """Whether this rank is the first to ask: an error that ends the job is told once."""
        try:
            return self._store is None or self._store.add("litfast/failed", 1) == 1
        except RuntimeError:
            return True  # no one is left to tell it

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around a call of torch.distributed: where a rank is gone it fails with one line.

        Raises:
            RankLost: this or an earlier call did not reach all ranks.
        """
        lost = "ranks: every rank must live to the end, got one that is gone"
        if not self.whole:
            raise RankLost(lost)
        try:
            yield
        except RuntimeError as error:  # gloo's, and NCCL's DistBackendError
            self.whole = False
            raise RankLost(f"{lost} (seen by rank {self.rank} of {self.world})") from error


class Vote:
    """Hears what any rank says, at the same call on all: such as a signal that came to some of them.

    A call starts to send what is said and hears what was said at the call before, so that nobody waits.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._sent: tuple[Tensor, Any] | None = None

    def __call__(self, said: int) -> int:
        """The largest number that a rank said at the call before; with one rank at this one."""
        ranks = self._ranks
        if ranks.world == 1:
            return said
        heard = 0
        with ranks.together():
            if self._sent is not None:
                self._sent[1].wait()
                heard = int(self._sent[0])
            number = torch.tensor(said)
            self._sent = number, dist.all_reduce(number, dist.ReduceOp.MAX, group=ranks.group, async_op=True)
        return heard


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """All ranks of the job that this process has joined; `ALONE` outside of `joined`."""
    return _current


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the job that torchrun (or whoever sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) started.

    Without one, or with one process, there is nothing to join. A rank that leaves by an error waits for no
    one; the others see that it is gone.

    Raises:
        ValueError: the environment's numbers do not fit together, or the others cannot be reached.
    """
    global _current
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _current is not ALONE:
        yield _current
        return
    _current = ranks = _join()
    try:
        yield ranks
    except BaseException:
        ranks.whole = False
        raise
    finally:
        _current = ALONE
        if ranks.whole:
            dist.destroy_process_group()


def _join() -> Ranks:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpu = local < torch.cuda.device_count()
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
        # torchrun's store lives through its restarts, and with it the addresses of processes that are gone
        attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)} of {world}"
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]  # torch's gap
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"ranks: the job's other processes must be reached, got: {first_line(error)}"
        ) from None
    device = torch.device("cuda", local) if gpu else None
    if device is not None:
        torch.cuda.set_device(device)  # "cuda" then is this rank's own
    return Ranks(rank, world, local_rank=local, device=device, store=store)


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The tensors by dtype and device, in order."""
    found: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(found.values())


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return flat.view(torch.uint8) if flat.dtype == torch.bool else flat  # gloo sends no bool


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))
