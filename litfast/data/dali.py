"""Batches from a DALI pipeline, which decodes and augments on the GPU where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.utils.dlpack
from torch import Tensor

from litfast.data._checks import check_arrays, check_batches, check_channels, check_labels
from litfast.data._dali_faults import fault, first_size, misfit
from litfast.data._dali_pipeline import Feed, Recipe, built, dali, reader
from litfast.data.draws import draws, steps
from litfast.data.loader import IGNORED, Batch
from litfast.data.sets.image_set import Images, Samples

WHO = "DaliLoader"


class _Run(NamedTuple):
    """A pipeline and what feeds it."""

    pipeline: Any
    feed: Feed


class _Place(NamedTuple):
    """Where a pipeline stands: its epoch began at step `start`, and `step` comes next."""

    run: _Run
    epoch: int
    start: int
    step: int


class DaliLoader:
    """Batches from a pipeline of NVIDIA DALI, of decoded or encoded samples.

    An encoded image is decoded to RGB, cut to its middle `centre_crop` square, resized (linear,
    antialiased) so that its shorter side is `size` and cut to the middle square. Training pads by `crop` raw
    zeros a side, cuts at whole offsets uniform over 0..2 crop and mirrors with probability 1/2. At last
    image = (raw / 255 - mean) / std. Order, offsets and flips are `draws` of (seed, epoch), fed to the
    pipeline, so they are those of every other loader. The pipeline's own checkpoint travels in `state`.

    DALI writes float32 and float16; any other `dtype` is reached in the copy out of DALI's own tensors,
    which every batch needs in any case.

    Args:
        samples: Images are fed as arrays, Files are read by DALI, Members read from their tar archives.
        batch: samples a step, B.
        mean, std: one number a channel, of images scaled to 0..1.
        crop, flip: the augmentation of training.
        train: True shuffles, augments and drops the last partial batch; False keeps the order, augments
            nothing and fills the last batch up with samples whose target is -100.
        seed: with the epoch's number, decides all that is random.
        channels_last, dtype: memory format and type of the batches.
        centre_crop, size: of encoded samples; without both, all images must have the size of the first.
        threads: of the pipeline; None takes every core that this process may use.
        prefetch: batches made ahead.

    Raises:
        TypeError: images or labels of another dtype.
        ValueError: DALI is not installed; shapes that disagree, an empty set, fewer training samples than one
            batch of every shard; later, naming the file: an image that cannot be decoded or has a wrong size.
    """

    def __init__(
        self,
        samples: Samples,
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
        threads: int | None = None,
        prefetch: int = 2,
    ) -> None:
        self._version = str(dali().__version__)
        if isinstance(samples, Images):
            check_arrays(WHO, samples.images)
        count, channels = samples.images.shape[:2] if isinstance(samples, Images) else (len(samples), 3)
        check_labels(WHO, samples.labels, count)
        check_channels(WHO, channels, mean, std)
        shard = {"shard_id": shard_id, "num_shards": num_shards}
        check_batches(WHO, len(samples), train=train, batch=batch, crop=crop, **shard)
        self.samples, self.batch, self.device = len(samples), batch, torch.device(device)
        self.steps = steps(len(samples), batch, train=train, num_shards=num_shards)
        crop, flip = (crop, flip) if train else (0, False)
        self._random: dict[str, Any] = {"seed": seed, "crop": crop, "flip": flip}
        self._shard: dict[str, Any] = {"batch": batch, "train": train, **shard}
        device_id = _device_id(self.device)
        height, width = _size(samples, centre_crop, size, device_id)
        self._recipe = Recipe(
            samples=samples,
            batch=batch,
            height=height,
            width=width,
            centre_crop=centre_crop,
            size=size,
            crop=crop,
            flip=flip,
            mean=mean,
            std=std,
            channels_last=channels_last,
            half=dtype == torch.float16,
            device_id=device_id,
            threads=threads or len(os.sched_getaffinity(0)),
            prefetch=prefetch,
            seed=seed,
        )
        self._dtype = dtype
        self._labels = samples.labels.to(self.device)
        self._read = reader(self._recipe)
        self._idle: _Run | None = None
        self._place: _Place | None = None
        self._restored: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        """The epoch's batches from step `start` on; the same (seed, epoch) gives the same batches."""
        drawn = draws(self.samples, epoch=epoch, **self._shard, **self._random)
        indices, filler = drawn.index.to(self.device), drawn.filler.to(self.device)
        run, begun = self._taken(epoch, start)
        run.feed.begin(drawn, begun)
        try:
            for step in range(start, self.steps):
                at = slice(step * self.batch, (step + 1) * self.batch)
                made_ahead = drawn.index[at.start : at.stop + self._recipe.prefetch * self.batch]
                images = self._images(run.pipeline, made_ahead.tolist())
                target = self._labels[indices[at]]
                target[filler[at]] = IGNORED
                batch = self._copied(images, target, copy_into)
                self._place = _Place(run, epoch, begun, step + 1)
                yield batch
        finally:
            run.feed.stop()
            self._idle = run

    def names(self, epoch: int, step: int) -> list[str]:
        """What messages call the samples of batch `step`: their files, or "image 17"."""
        samples = self._recipe.samples
        index = draws(self.samples, epoch=epoch, **self._shard, **self._random).index.split(self.batch)[step]
        return [f"image {i}" if isinstance(samples, Images) else samples.name(i) for i in index.tolist()]

    def state(self) -> dict[str, Any]:
        """The pipeline's checkpoint and its place in the epoch."""
        if self._place is None:
            return {}
        run, epoch, start, step = self._place
        checkpoint = torch.frombuffer(bytearray(run.pipeline.checkpoint()), dtype=torch.uint8)
        return {"dali": checkpoint, "version": self._version, "epoch": epoch, "start": start, "step": step}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a state of the same version of DALI; without one every place is reached all the same."""
        self._restored = state if state.get("version") == self._version else {}

    def _taken(self, epoch: int, start: int) -> tuple[_Run, int]:
        """A pipeline that nobody else reads from, and the step at which its epoch begins."""
        idle, self._idle, self._place = self._idle, None, None
        state, self._restored = self._restored, {}
        if (state.get("epoch"), state.get("step")) == (epoch, start):
            return self._new(state["dali"].numpy().tobytes()), state["start"]
        return idle if idle and _drained(idle.pipeline) else self._new(None), start

    def _new(self, checkpoint: bytes | None) -> _Run:
        feed = Feed(self._recipe, self._read)
        return _Run(built(self._recipe, feed, checkpoint), feed)

    def _images(self, pipeline: Any, indices: list[int]) -> Any:
        """The next batch as DALI's tensors; `indices` are those of this batch and of what is made ahead."""
        on_gpu = self.device.type == "cuda"
        samples, recipe = self._recipe.samples, self._recipe
        try:
            images, *shapes = pipeline.run(torch.cuda.current_stream(self.device) if on_gpu else None)
        except (OSError, RuntimeError) as error:
            message = None if isinstance(samples, Images) else fault(samples, indices, recipe)
            raise ValueError(message or f"dali: a batch must be made, got: {error}") from error
        if shapes and not isinstance(samples, Images):
            for i, (height, width, _) in zip(indices, shapes[0].as_array().tolist(), strict=False):
                if message := misfit(samples, i, height, width, recipe):
                    raise ValueError(message)
        return images

    def _copied(self, images: Any, target: Tensor, copy_into: Batch | None) -> Batch:
        """DALI writes the next batches to the same memory."""
        made = torch.utils.dlpack.from_dlpack(images.as_tensor())
        made = made.permute(0, 3, 1, 2) if self._recipe.channels_last else made
        if copy_into is None:
            # keeps the strides, channels-last or not
            return Batch(torch.empty_like(made, dtype=self._dtype).copy_(made), target)
        copy_into.images.copy_(made)
        copy_into.target.copy_(target)
        return copy_into


def _drained(pipeline: Any) -> bool:
    """Give up what an unfinished epoch made ahead; False where the pipeline is broken."""
    try:
        while True:
            pipeline.run()
    except StopIteration:
        pipeline.reset()
        return True
    except RuntimeError:
        return False


def _size(
    samples: Samples, centre_crop: int | None, size: int | None, device_id: int | None
) -> tuple[int, int]:
    """The height and width of what is delivered."""
    if isinstance(samples, Images):
        return samples.images.shape[2], samples.images.shape[3]
    square = centre_crop if size is None else size
    return first_size(samples, device_id) if square is None else (square, square)


def _device_id(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
