"""The DALI pipeline of the loader: read, decode, cut to one size, crop at random, mirror, normalise."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from litfast.data.draws import Draws
from litfast.data.sets.image_set import Files, Images, Samples

Array = np.ndarray[Any, Any]
Reader = Callable[[Array], Array | list[Array]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a pipeline delivers; `height` and `width` are those of the images that come out."""

    samples: Samples
    batch: int
    height: int
    width: int
    centre_crop: int | None
    size: int | None
    crop: int
    flip: bool
    mean: Sequence[float]  # of pixels scaled to 0..1
    std: Sequence[float]
    channels_last: bool
    half: bool  # DALI knows float16, and no bfloat16
    device_id: int | None  # None: all on the CPU
    threads: int
    prefetch: int
    seed: int


def dali() -> Any:
    """The library, which is imported only when it is needed.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import nvidia.dali as library
    except ImportError as error:
        rule = "nvidia.dali must be installed (pip install 'litfast[dali]')"
        raise ValueError(f"DaliLoader: {rule}, got: {error}") from None
    return library


class Feed:
    """What the pipeline asks for every batch: samples, and how each is to be cropped and mirrored."""

    def __init__(self, recipe: Recipe, read: Reader) -> None:
        self._recipe, self._read = recipe, read
        self._draws: Draws | None = None
        self._start = 0

    def begin(self, draws: Draws, start: int) -> None:
        """From now on deliver an epoch, from step `start` on."""
        self._draws, self._start = draws, start

    def stop(self) -> None:
        """The epoch is over, whatever of it is left."""
        self._draws = None

    def __call__(self, info: Any) -> tuple[Any, ...]:
        """Batch number `info.iteration` of DALI's epoch."""
        batch, crop = self._recipe.batch, self._recipe.crop
        first = (self._start + info.iteration) * batch
        if self._draws is None or first >= len(self._draws.index):
            raise StopIteration
        index, top, left, mirrored, _ = (draw[first : first + batch].numpy() for draw in self._draws)
        fed: list[Any] = [self._read(index)]
        if crop and isinstance(self._recipe.samples, Images):
            fed += [(offset / (2 * crop)).astype(np.float32) for offset in (top, left)]
        elif crop:
            fed.append(np.stack([top - crop, left - crop], 1).astype(np.int32))
        if self._recipe.flip:
            fed.append(mirrored.astype(np.int32))
        return tuple(fed)


def built(recipe: Recipe, feed: Feed, checkpoint: bytes | None = None) -> Any:
    """The pipeline; its outputs are the images and, of encoded samples, the decoded sizes [B, 3]."""
    fn = dali().fn
    pipeline = dali().Pipeline(
        batch_size=recipe.batch,
        num_threads=recipe.threads,
        device_id=recipe.device_id,
        seed=recipe.seed % 2**31,
        prefetch_queue_depth=recipe.prefetch,
        enable_checkpointing=True,
        checkpoint=checkpoint,
    )
    arrays = isinstance(recipe.samples, Images)
    drawn = (2 if arrays else 1) * bool(recipe.crop) + recipe.flip
    with pipeline:
        layouts = ["HWC" if arrays else "", *[""] * drawn]
        fed = fn.external_source(feed, num_outputs=1 + drawn, batch=True, batch_info=True, layout=layouts)
        mirror = {"mirror": fed[-1]} if recipe.flip else {}
        if arrays:
            raw = fed[0] if recipe.device_id is None else fed[0].gpu()
            position = {"crop_pos_y": fed[1], "crop_pos_x": fed[2]} if recipe.crop else {}
            window = {"crop": (recipe.height, recipe.width), **position}
            pipeline.set_outputs(_normalised(raw, recipe, **window, **mirror))
        else:
            raw = decoded(_bytes(fed[0], recipe.samples), recipe.device_id)
            image = _cropped(_one_size(raw, recipe), recipe, fed)
            pipeline.set_outputs(_normalised(image, recipe, **mirror), raw.shape())
    pipeline.build()
    return pipeline


def decoded(encoded: Any, device_id: int | None) -> Any:
    """RGB images [H, W, 3] uint8, turned upright as EXIF says."""
    fn, types = dali().fn, dali().types
    device = "cpu" if device_id is None else "mixed"
    return fn.decoders.image(encoded, device=device, output_type=types.RGB)


def _one_size(image: Any, recipe: Recipe) -> Any:
    fn, types = dali().fn, dali().types
    if recipe.centre_crop is not None:
        image = fn.crop(image, crop=(recipe.centre_crop,) * 2, rounding="truncate")
    if recipe.size is not None:
        shape = fn.cast(image.shape()[:2], dtype=types.FLOAT)
        side = fn.reductions.min(shape)
        # the middle square alone is resized; the filter still sees the pixels beside it
        middle = {"roi_start": (shape - side) / 2, "roi_end": (shape + side) / 2}
        linear = {"interp_type": types.INTERP_LINEAR, "antialias": True}
        image = fn.resize(image, size=(recipe.size,) * 2, **middle, **linear)
    return image


def _cropped(image: Any, recipe: Recipe, fed: Sequence[Any]) -> Any:
    fn = dali().fn
    if not recipe.crop:
        return image
    window = {"start": fed[1], "shape": (recipe.height, recipe.width), "axis_names": "HW"}
    return fn.slice(image, out_of_bounds_policy="pad", fill_values=0, **window)


def _normalised(image: Any, recipe: Recipe, **options: Any) -> Any:
    fn, types = dali().fn, dali().types
    return fn.crop_mirror_normalize(
        image,
        mean=[255 * value for value in recipe.mean],
        std=[255 * value for value in recipe.std],
        dtype=types.FLOAT16 if recipe.half else types.FLOAT,
        output_layout="HWC" if recipe.channels_last else "CHW",
        **options,
    )


def _bytes(fed: Any, samples: Samples) -> Any:
    fn = dali().fn
    # Mapping many small files into memory costs twice what reading them does.
    return fn.io.file.read(fed, dont_use_mmap=True) if isinstance(samples, Files) else fed


def reader(recipe: Recipe) -> Reader:
    """A function from the indices [B] of samples to what the pipeline is fed of them."""
    samples = recipe.samples
    if isinstance(samples, Images):
        # DALI's own padding (fn.slice) is a second pass over every image.
        images, crop = samples.images.permute(0, 2, 3, 1).contiguous().numpy(), recipe.crop
        return lambda index: _padded(images[index], crop)
    if isinstance(samples, Files):
        names = _names(samples)
        return lambda index: names[index]
    places = [column.numpy() for column in (samples.tar, samples.offset, samples.size)]
    return lambda index: [
        _range(samples.tars[tar], offset, size)
        for tar, offset, size in zip(*(column[index].tolist() for column in places), strict=True)
    ]


def _padded(images: Array, crop: int) -> Array:
    if not crop:
        return images
    count, height, width, channels = images.shape
    padded = np.zeros((count, height + 2 * crop, width + 2 * crop, channels), np.uint8)
    padded[:, crop:-crop, crop:-crop] = images
    return padded


def _names(samples: Files) -> Array:
    """Every file's name as one row, filled up with zero bytes, [N, L] uint8.

    One array for a batch is fed several times as fast as B arrays; the operating system ends a name at its
    first zero byte.
    """
    root = samples.root.absolute()
    names = np.array([os.fsencode(os.path.join(root, path)) for path in samples.paths])
    return names.view(np.uint8).reshape(len(names), -1)


def _range(path: Path, offset: int, size: int) -> Array:
    file = os.open(path, os.O_RDONLY)
    try:
        return as_array(os.pread(file, size, offset))
    finally:
        os.close(file)


def as_array(content: bytes) -> Array:
    """Encoded bytes as DALI takes them, [L] uint8."""
    return np.frombuffer(content, dtype=np.uint8)
