"""Encoded images to pixels by Pillow: one, a whole set, and a pass that finds the unreadable ones."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from litfast.data._checked import Checked
from litfast.data.sets.image_set import Encoded, Images

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")  # Pillow's names; others run programs or hold films
MOST_PIXELS = 1 << 26  # 8192 x 8192; more is taken for a decompression bomb
CHUNK = 128  # images a thread takes at a time

Progress = Callable[[int, int], None]  # called with (images done, images in all)
Result = TypeVar("Result")


def decode(
    data: bytes,
    *,
    name: str,
    centre_crop: int | None = None,
    size: int | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """The pixels of an encoded image (JPEG, PNG, BMP, PPM, TIFF, WebP), [H, W, 3] uint8 RGB.

    Grey becomes three equal channels, of 16 bits the upper 8 count, a palette and CMYK become their RGB, an
    alpha channel is left out, and of several frames the first counts. The EXIF orientation is applied; EXIF
    that cannot be read is ignored. The image is cut to its middle `centre_crop` square (an odd pixel more
    stays on the right and at the bottom), resized so that its shorter side is `size` (bilinear with
    antialiasing) and cut to the middle square.

    Args:
        name: the file, for messages.
        centre_crop, size: in pixels; None leaves the step out.
        shape: the (H, W) that must come out.

    Raises:
        ValueError: an image that is truncated, of another kind, of more than 2^26 pixels, smaller than
            `centre_crop` or of another shape.
    """
    image = _named(name, lambda: _rgb(data))
    if centre_crop is not None:
        left, top = (image.width - centre_crop) // 2, (image.height - centre_crop) // 2
        if left < 0 or top < 0:
            raise ValueError(
                f"decode: {name} must be at least {centre_crop}x{centre_crop} pixels for centre_crop, "
                f"got {image.width}x{image.height}"
            )
        image = image.crop((left, top, left + centre_crop, top + centre_crop))
    if size is not None:
        image = _resized(image, size)
    pixels = np.array(image)
    if shape is not None and pixels.shape[:2] != shape:
        raise ValueError(
            f"decode: {name} must be {shape[1]}x{shape[0]} pixels as the other images are, "
            f"got {pixels.shape[1]}x{pixels.shape[0]}; `size` makes them equal"
        )
    return pixels


def decode_at(
    samples: Encoded,
    i: int,
    *,
    centre_crop: int | None = None,
    size: int | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Sample i, read and decoded as by `decode`; a file that cannot be read is a ValueError too."""
    name = samples.name(i)
    data = _named(name, lambda: samples.read(i))
    return decode(data, name=name, centre_crop=centre_crop, size=size, shape=shape)


def decode_all(
    samples: Encoded,
    *,
    centre_crop: int | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """All samples, decoded as by `decode` in a thread a core; every image must have the first one's shape.

    Returns:
        images [N, 3, H, W] in channels-last memory, and the samples' labels.

    Raises:
        ValueError: no samples, or what `decode` raises, for the first such sample.
    """
    if not len(samples):
        raise ValueError("decode_all: samples must be at least 1, got 0")
    first = decode_at(samples, 0, centre_crop=centre_crop, size=size)
    shape = first.shape[0], first.shape[1]
    pixels = torch.empty(len(samples), *shape, 3, dtype=torch.uint8)
    rows = pixels.numpy()

    def fill(i: int) -> None:
        rows[i] = decode_at(samples, i, centre_crop=centre_crop, size=size, shape=shape)

    for _ in _on_all_cores(fill, list(range(len(samples))), progress):
        pass
    return Images(images=pixels.permute(0, 3, 1, 2), labels=samples.labels)


def undecodable(samples: Encoded, *, progress: Progress | None = None) -> dict[int, str]:
    """The samples that cannot be decoded, with the reason: a pass that decodes every image whole.

    Images found good are remembered (see `Checked`), so the next pass decodes only the others, and those
    whose file has changed since.
    """
    from PIL import __version__

    checked = Checked(samples, decoder=f"Pillow {__version__}")
    open_ones = [i for i in range(len(samples)) if not checked.is_good(i)]
    reasons = list(_on_all_cores(lambda i: _reason(samples, i), open_ones, progress))
    found = dict(zip(open_ones, reasons, strict=True))
    checked.remember([i for i, reason in found.items() if reason is None])
    return {i: reason for i, reason in found.items() if reason is not None}


def _rgb(data: bytes) -> Image:
    """The image, upright and in RGB, or whatever error Pillow has for it."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise OSError("an empty file")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:  # its own message is an address in memory
        raise OSError(f"no image of a known kind ({', '.join(FORMATS)})") from None
    if image.width * image.height > MOST_PIXELS:
        raise OSError(f"{image.width}x{image.height} pixels, more than {MOST_PIXELS} in all")
    image.load()
    if _orientation(image) > 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise OSError(f"pixels of mode {image.mode}, neither of 8 nor of 16 bits")
    elif image.mode == "P":  # where single colours are transparent, the way to RGB is by RGBA
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image) -> int:
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # spoilt EXIF fails in many ways, and the pixels are whole all the same
        return 1
    return found if isinstance(found, int) else 1


def _resized(image: Image, size: int) -> Image:
    from PIL.Image import Resampling

    if image.size == (size, size):
        return image
    # the middle square alone is resized; the filter still sees the pixels beside it
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _named(name: str, action: Callable[[], Result]) -> Result:
    try:
        return action()
    except Exception as error:  # Pillow has no common ancestor of its errors
        raise ValueError(f"decode: {name} must be a readable image, got: {_line(error)}") from None


def _reason(samples: Encoded, i: int) -> str | None:
    try:
        _rgb(samples.read(i))
    except Exception as error:  # as in _named
        return _line(error)
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _on_all_cores(
    work: Callable[[int], Result], indices: list[int], progress: Progress | None
) -> Iterator[Result]:
    """The results in order; the first error in that order is raised, and what has not begun is left."""
    chunks = [indices[at : at + CHUNK] for at in range(0, len(indices), CHUNK)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    done = 0
    with ThreadPoolExecutor(cores) as pool:
        for results in pool.map(lambda chunk: [work(i) for i in chunk], chunks):
            yield from results
            done += len(results)
            if progress is not None:
                progress(done, len(indices))
