"""The shape of a set's images, which encoded samples say only when they are decoded."""

from __future__ import annotations

from litfast.data.decode import decode_at
from litfast.data.sets.image_set import Images, Source
from litfast.data.sets.items import Items


def image_shape(
    samples: Source, *, centre_crop: int | None = None, size: int | None = None
) -> tuple[int, int, int]:
    """(C, H, W) of all images, as the first one has it, which is decoded where no size is given.

    Raises:
        ValueError: there is no sample, a size below 1, or the first one cannot be decoded.
    """
    if len(samples) == 0:
        raise ValueError("data: a split must hold at least one sample, got none")
    if isinstance(samples, Images):
        C, H, W = samples.images.shape[1:]
        return C, H, W
    if isinstance(samples, Items):
        H, W, C = samples.read(0)[0].shape
        return C, H, W
    for name, value in (("size", size), ("centre_crop", centre_crop)):
        if value is not None and value < 1:
            raise ValueError(f"data: {name} must be 1 or more, got {value}")
    if side := size or centre_crop:
        return 3, side, side
    H, W, C = decode_at(samples, 0).shape
    return C, H, W
