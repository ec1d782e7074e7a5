"""Which file it was: DALI's messages name none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from litfast.data._dali_pipeline import Recipe, as_array, dali, decoded
from litfast.data.sets.image_set import Encoded


def first_size(samples: Encoded, device_id: int | None) -> tuple[int, int]:
    """The height and width of the first sample.

    Raises:
        ValueError: it cannot be decoded.
    """
    try:
        return next(_sizes(samples, [0], device_id))
    except (OSError, RuntimeError) as error:
        raise ValueError(_unreadable(samples, 0, error)) from None


def fault(samples: Encoded, indices: Sequence[int], recipe: Recipe) -> str | None:
    """The message for the first of the samples that cannot be decoded or has a wrong size."""
    sizes = _sizes(samples, indices, recipe.device_id)
    for i in indices:
        try:
            height, width = next(sizes)
        except (OSError, RuntimeError) as error:
            return _unreadable(samples, i, error)
        if message := misfit(samples, i, height, width, recipe):
            return message
    return None


def misfit(samples: Encoded, i: int, height: int, width: int, recipe: Recipe) -> str | None:
    """What is wrong with the decoded size of sample i."""
    least, got = recipe.centre_crop, f"got {width}x{height}"
    if least is not None and min(height, width) < least:
        return f"dali: {samples.name(i)} must be at least {least}x{least} pixels for centre_crop, {got}"
    if least is None and recipe.size is None and (height, width) != (recipe.height, recipe.width):
        rule = f"must be {recipe.width}x{recipe.height} pixels as the other images are"
        return f"dali: {samples.name(i)} {rule}, {got}; `size` makes them equal"
    return None


def _sizes(samples: Encoded, indices: Sequence[int], device_id: int | None) -> Iterator[tuple[int, int]]:
    """Decode samples one by one; an error belongs to the sample asked for."""
    fn = dali().fn
    queue = iter(indices)
    pipeline = dali().Pipeline(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
    with pipeline:
        encoded = fn.external_source(lambda: [as_array(samples.read(next(queue)))], batch=True)
        pipeline.set_outputs(decoded(encoded, device_id).shape())
    for _ in indices:
        (shapes,) = pipeline.run()
        height, width, _ = shapes.as_array()[0].tolist()
        yield height, width


def _unreadable(samples: Encoded, i: int, error: Exception) -> str:
    return f"dali: {samples.name(i)} must be a readable image, got: {_reason(samples, i, error)}"


def _reason(samples: Encoded, i: int, error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    said = str(error).partition("encountered:")[2].strip().partition("\n")[0].rstrip(": ")
    return f"{len(samples.read(i))} bytes that DALI cannot decode ({said})"
