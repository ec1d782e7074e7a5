"""The shape of a set's images, which encoded samples say only when they are decoded."""

from __future__ import annotations

from litfast.data.decode import decode
from litfast.data.sets.image_set import Images, Samples
from litfast.data.sets.items import Items


def image_shape(
    samples: Samples, *, centre_crop: int | None = None, size: int | None = None
) -> tuple[int, int, int]:
    """(C, H, W) of all images, as the first one has it, which is decoded where no size is given.

    Raises:
        ValueError: there is no sample, or the first one cannot be decoded.
    """
    if len(samples) == 0:
        raise ValueError("data: a split must hold at least one sample, got none")
    if isinstance(samples, Images):
        return tuple(samples.images.shape[1:])
    if isinstance(samples, Items):
        H, W, C = samples.read(0)[0].shape
        return C, H, W
    if side := size or centre_crop:
        return 3, side, side
    H, W, C = decode(samples.read(0), name=samples.name(0), centre_crop=None, size=None).shape
    return C, H, W
