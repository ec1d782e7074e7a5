"""Images decoded by PIL in torch's DataLoader; the step's device crops, flips and normalises."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from litfast.data._checks import check_batches, check_channels
from litfast.data.decode import decode_at
from litfast.data.draws import draws, steps
from litfast.data.loader import IGNORED, Batch
from litfast.data.sets.image_set import Images, Source
from litfast.data.sets.items import Items
from litfast.data.shape import image_shape
from litfast.ops import augment, augment_table

WHO = "TorchLoader"


class TorchLoader:
    """Batches of any samples, read and decoded by worker processes, on machines without DALI too.

    Order, crops and flips are drawn as `litfast.data.draws` says, so any number of workers delivers the same
    batches, and so does a resident loader of the same images. What a user's Dataset itself draws from torch,
    numpy or Python follows from (seed, epoch, sample) as well.

    Args:
        samples: Images, Files, Members, or Items around a Dataset of one's own.
        batch: samples a step, B.
        mean, std: one number a channel, of images scaled to 0..1; those of a Dataset's floats as they are.
        crop: padding of the random crop in pixels; 0 takes the image whole.
        flip: mirror half of the images, left to right.
        train: True shuffles, augments and drops the last partial batch; False keeps the order, augments
            nothing and fills the last batch up with samples whose target is -100.
        seed: with the epoch's number, decides all that is random.
        channels_last, dtype: memory format and type of the batches.
        shard_id, num_shards: which part of every epoch this loader delivers, of how many.
        centre_crop, size: of encoded samples, as `ImageSet` describes them.
        workers: processes that read and decode; 0 does it here.

    Raises:
        TypeError: a Dataset's first item is of another type than `Items` says.
        ValueError: numbers out of range, an empty set, fewer training samples than one batch a shard, a first
            sample that cannot be decoded.
    """

    def __init__(
        self,
        samples: Source,
        *,
        batch: int,
        mean: Sequence[float],
        std: Sequence[float],
        train: bool,
        crop: int = 0,
        flip: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
        channels_last: bool = True,
        dtype: torch.dtype = torch.float32,
        shard_id: int = 0,
        num_shards: int = 1,
        centre_crop: int | None = None,
        size: int | None = None,
        workers: int = 0,
    ) -> None:
        shard = {"shard_id": shard_id, "num_shards": num_shards}
        check_batches(WHO, len(samples), train=train, batch=batch, crop=crop, **shard)
        if workers < 0:
            raise ValueError(f"{WHO}: workers must be at least 0, got {workers}")
        if isinstance(samples, (Images, Items)) and (centre_crop or size):
            raise ValueError(f"{WHO}: centre_crop and size must be none for samples that are decoded already")
        self.samples, self.batch = len(samples), batch
        self.steps = steps(self.samples, batch, train=train, num_shards=num_shards)
        self.device = torch.device(device)
        self._source, self._workers, self._seed = samples, workers, seed
        self._train, self._crop = train, crop if train else 0
        self._draws = partial(
            draws,
            self.samples,
            batch=batch,
            train=train,
            seed=seed,
            crop=self._crop,
            flip=flip,
            **shard,
        )
        shape = image_shape(samples, centre_crop=centre_crop, size=size)
        check_channels(WHO, shape[0], mean, std)
        self._decode = partial(decode_at, centre_crop=centre_crop, size=size, shape=shape[1:])
        self._shape = shape
        self._finish = _Finish(mean, std, self._crop, dtype, channels_last, self.device)

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        """The epoch's batches from step `start` on; the same (seed, epoch) gives the same batches.

        Args:
            copy_into: tensors that every batch is written to, and that are yielded each time.

        Raises:
            ValueError: a sample cannot be decoded or is of another size than the first; one line names it.
            OSError: a sample cannot be read, or a worker was killed.
        """
        drawn = self._draws(epoch=epoch)
        order = drawn.index.split(self.batch)[start:]
        _, top, left, mirrored, filler = (draw.to(self.device) for draw in drawn)
        reader = _Reader(self._source, self._decode, self._shape, f"{self._seed}/{epoch}")
        for step, raw in enumerate(self._read(reader, [part.tolist() for part in order]), start):
            part = slice(step * self.batch, (step + 1) * self.batch)
            pixels, labels = (tensor.to(self.device, non_blocking=True) for tensor in raw)
            out = None if copy_into is None else copy_into.images
            images = self._finish(pixels, (top[part], left[part], mirrored[part]), out)
            target = labels.masked_fill(filler[part].view(-1, *[1] * (labels.dim() - 1)), IGNORED)
            if copy_into is None:
                yield Batch(images, target)
            else:
                copy_into.target.copy_(target)
                yield copy_into

    def names(self, epoch: int, step: int) -> list[str]:
        """What messages call the samples of batch `step`: the source's names, or "image 17"."""
        index = self._draws(epoch=epoch).index.split(self.batch)[step].tolist()
        return [f"image {i}" if isinstance(self._source, Images) else self._source.name(i) for i in index]

    def state(self) -> dict[str, Any]:
        """Nothing: epoch and step say all."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""

    def _read(self, reader: _Reader, order: list[list[int]]) -> Iterator[_Raw]:
        loader: DataLoader[Any] = DataLoader(
            reader,
            sampler=order,
            batch_size=None,
            num_workers=self._workers,
            worker_init_fn=_apart,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # a seed of its own would be drawn from the training's generator
        )
        batches = _iterator(loader)
        try:
            while (found := _next(batches)) is not None:
                if isinstance(found, _Failed):
                    raise found.kind(found.line)
                yield found
        finally:
            del batches  # the workers end here, and not when a traceback is collected


class _Raw(NamedTuple):
    """A batch as it was read: nothing cropped or normalised, and uint8 where the samples are."""

    pixels: Tensor  # [B, H, W, C]
    labels: Tensor  # [B] or [B, A]


class _Failed(NamedTuple):
    """What went wrong in a worker; an exception would come with the worker's traceback."""

    kind: type[Exception]
    line: str


class _Reader(Dataset[_Raw | _Failed]):
    """Reads the samples of a batch; made anew for every epoch, run in the workers."""

    def __init__(self, samples: Source, decode: Any, shape: tuple[int, int, int], seed: str) -> None:
        self._samples, self._decode, self._seed = samples, decode, seed
        self._shape = shape

    def __getitem__(self, index: list[int]) -> _Raw | _Failed:
        at = index[0]
        try:
            if isinstance(self._samples, Images):
                pixels = self._samples.images[index].permute(0, 2, 3, 1).contiguous()
                return _Raw(pixels, self._samples.labels[index])
            read: dict[int, tuple[Tensor, Tensor]] = {}  # the fillers of an evaluation batch are all alike
            for at in index:
                if at not in read:
                    read[at] = self._one(at)
            return _Raw(*(torch.stack(column) for column in zip(*map(read.__getitem__, index), strict=True)))
        except Exception as error:  # a Dataset may raise anything
            return self._failed(at, error)

    def _one(self, i: int) -> tuple[Tensor, Tensor]:
        assert not isinstance(self._samples, Images)
        if not isinstance(self._samples, Items):
            return torch.from_numpy(self._decode(self._samples, i)), self._samples.labels[i]
        pixels, label = self._samples.read(i, self._seed)
        C, H, W = self._shape
        if pixels.shape != (H, W, C):
            raise ValueError(
                f"data: {self._samples.name(i)} must be {C}x{H}x{W} as the first sample is, "
                f"got {pixels.shape[2]}x{pixels.shape[0]}x{pixels.shape[1]}"
            )
        return pixels, label

    def _failed(self, i: int, error: Exception) -> _Failed:
        assert not isinstance(self._samples, Images)
        if isinstance(error, (ValueError, TypeError)) and self._samples.name(i) in str(error):
            return _Failed(type(error), str(error))
        what = getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({frame.filename}, line {frame.lineno})" if isinstance(self._samples, Items) else ""
        kind = OSError if isinstance(error, OSError) else ValueError
        return _Failed(kind, f"{WHO}: {self._samples.name(i)} must be readable, got {what}{place}")


class _Finish:
    """Crop, flip, normalisation, layout and dtype, on the device of the step."""

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        crop: int,
        dtype: torch.dtype,
        channels_last: bool,
        device: torch.device,
    ) -> None:
        self._table = augment_table(mean, std, dtype).to(device)
        self._mean, self._std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (mean, std))
        self._crop, self._channels_last = crop, channels_last

    def __call__(self, pixels: Tensor, drawn: tuple[Tensor, Tensor, Tensor], out: Tensor | None) -> Tensor:
        index = torch.arange(len(pixels), device=pixels.device)
        if pixels.dtype == torch.uint8:
            return augment(
                pixels,
                index,
                *drawn,
                table=self._table,
                crop=self._crop,
                channels_last=self._channels_last,
                out=out,
            )
        top, left, mirrored = drawn
        images = pixels.permute(0, 3, 1, 2)
        H, W = images.shape[2:]
        windows = F.pad(images, (self._crop,) * 4).unfold(2, H, 1).unfold(3, W, 1)
        cut = windows[index, :, top, left]  # [B, C, H, W]
        cut = torch.where(mirrored.view(-1, 1, 1, 1), cut.flip(3), cut).sub(self._mean).div(self._std)
        if out is not None:
            return out.copy_(cut)
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        return cut.to(self._table.dtype).contiguous(memory_format=layout)


def _apart(worker: int) -> None:
    """A signal to the group (Ctrl-C, torchrun's SIGTERM) is for the training, which ends its workers."""
    os.setsid()


def _as_it_is(found: Any) -> Any:
    return found


def _next(batches: Iterator[_Raw | _Failed]) -> _Raw | _Failed | None:
    try:
        return next(batches, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
    except (ConnectionError, FileNotFoundError, EOFError):
        pass  # what a batch comes through ends with its worker
    workers = getattr(batches, "_workers", ())
    ended = wait([worker.sentinel for worker in workers], timeout=1)  # it may show here a moment later
    dead = [f"process {worker.pid}" for worker in workers if worker.sentinel in ended]
    got = f"{', '.join(dead) or 'one'} that was killed (out of memory, or out of shared memory?)"
    return _Failed(ChildProcessError, f"{WHO}: a worker must live until the epoch's end, got {got}")


def _iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator, without torch's handler of SIGCHLD.

    That raises wherever the main thread happens to be when a worker dies, within a training step as well;
    without it the next batch does.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
