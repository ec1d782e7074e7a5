"""What a set holds, in numbers: splits, classes, sizes, mean and deviation of the pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from litfast.data.decode import decode_at
from litfast.data.sets.image_set import Encoded, Images, ImageSet, Samples
from litfast.data.sets.text_set import Corpus, TextSet

LOOKED_AT = 2000  # encoded training images that stand for all of them
CHUNK, AT_ONCE = 4096, 256  # arrays whose pixels are counted, files that are decoded, at once

Progress = Callable[[int, int], None]  # (images decoded, images to decode)


def describe(
    found: ImageSet | TextSet | Corpus, *, everything: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """A set as plain values.

    Mean and standard deviation are those of the raw pixels of the training images, scaled to 0..1, one a
    channel. Images in memory are all counted. Of encoded ones 2,000 of the training split, evenly spaced, are
    decoded, or with `everything` all images of all splits; those that cannot be decoded are named.

    Args:
        everything: decode every image.
        progress: called with (images decoded, images to decode).
    """
    if isinstance(found, ImageSet):
        return _image_set(found, everything, progress)
    return _texts(found) if isinstance(found, TextSet) else _corpus(found)


def _image_set(found: ImageSet, everything: bool, progress: Progress | None) -> dict[str, Any]:
    splits = {name: split for name in ("train", "val", "test") if (split := getattr(found, name)) is not None}
    document: dict[str, Any] = {
        "name": found.name,
        "kind": "images",
        "splits": {name: _counted(found, split) for name, split in splits.items()},
        "classes": list(found.classes),
        "attributes": list(found.attributes),
        "normalisation": {"mean": list(found.mean), "std": list(found.std)},
        "crop": found.crop,
        "flip": found.flip,
        "centre_crop": found.centre_crop,
        "size": found.size,
    }
    if isinstance(found.train, Images):
        return document | _of_arrays(found.train)
    chosen = _chosen(splits, everything)
    return document | _of_encoded(chosen, progress)


def _counted(found: ImageSet, split: Samples) -> dict[str, Any]:
    """Samples of a split, by class or by attribute, if they have any."""
    if not found.labelled:
        return {"samples": len(split)}
    if split.labels.dim() == 2:
        having = (split.labels > 0).sum(0).tolist()
        return {
            "samples": len(split),
            "having": dict(zip(found.attributes, having, strict=True)),
        }
    return {"samples": len(split), "by_class": _by_class(split.labels, found.classes)}


def _by_class(labels: Tensor, classes: Sequence[str]) -> dict[str, int]:
    counts = labels.bincount(minlength=len(classes)).tolist()
    return dict(zip(classes, counts, strict=True))


def _of_arrays(train: Images) -> dict[str, Any]:
    height, width = train.images.shape[2:]
    histogram = sum(_histogram(part) for part in train.images.split(CHUNK))
    assert isinstance(histogram, Tensor)
    return {
        "sizes": {f"{width}x{height}": len(train)},
        **_moments(histogram),
        "measured_on": len(train),
        "decoded": 0,
        "undecodable": [],
    }


def _chosen(splits: dict[str, Samples], everything: bool) -> list[tuple[str, Encoded, int]]:
    """(split, samples, index) of the images to decode."""
    chosen = []
    for name, split in splits.items():
        assert not isinstance(split, Images)
        if everything or name == "train":
            count = len(split) if everything else min(len(split), LOOKED_AT)
            chosen += [(name, split, place * len(split) // count) for place in range(count)]
    return chosen


def _of_encoded(chosen: list[tuple[str, Encoded, int]], progress: Progress | None) -> dict[str, Any]:
    sizes: Counter[str] = Counter()
    histogram, measured, bad = torch.zeros(3, 256, dtype=torch.int64), 0, []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for at in range(0, len(chosen), AT_ONCE):
            part = chosen[at : at + AT_ONCE]
            for (name, *_), found in zip(part, pool.map(_looked_at, part), strict=True):
                if isinstance(found, str):
                    bad.append(found)
                    continue
                sizes[found[0]] += 1
                if name == "train":
                    measured += 1
                    histogram += found[1]
            if progress is not None:
                progress(at + len(part), len(chosen))
    return {
        "sizes": dict(sizes.most_common()),
        **_moments(histogram),
        "measured_on": measured,
        "decoded": len(chosen),
        "undecodable": bad,
    }


def _looked_at(one: tuple[str, Encoded, int]) -> tuple[str, Tensor] | str:
    """(size, histogram) of an image; a line that names it where it cannot be decoded."""
    _, samples, i = one
    try:
        pixels = torch.from_numpy(decode_at(samples, i))  # [H, W, 3]
    except ValueError as error:
        return str(error).removeprefix("decode: ")
    return f"{pixels.shape[1]}x{pixels.shape[0]}", _histogram(pixels.permute(2, 0, 1)[None])


def _histogram(images: Tensor) -> Tensor:
    """[N, C, H, W] uint8 -> [C, 256] int64."""
    return torch.stack([channel.reshape(-1).bincount(minlength=256) for channel in images.unbind(1)])


def _moments(histogram: Tensor) -> dict[str, list[float]]:
    """Mean and deviation a channel, of values 0..1: exact for any number of pixels, none for no pixels."""
    if not histogram.any():
        return {"mean": [], "std": []}
    weight = histogram.double() / histogram.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weight @ values
    deviation = (weight * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return {"mean": mean.tolist(), "std": deviation.tolist()}


def _texts(found: TextSet) -> dict[str, Any]:
    splits = {name: split for name in ("train", "val", "test") if (split := getattr(found, name)) is not None}
    return {
        "name": found.name,
        "kind": "texts",
        "splits": {
            name: {"samples": len(split), "by_class": _by_class(split.labels, found.classes)}
            | (found.counts[name]._asdict() if name in found.counts else {})
            for name, split in splits.items()
        },
        "classes": list(found.classes),
        "length": found.length,
        "alphabet": found.alphabet,
    }


def _corpus(found: Corpus) -> dict[str, Any]:
    splits = {"train": found.train, "val": found.val, "test": found.test}
    return {
        "name": found.name,
        "kind": "corpus",
        "splits": {
            name: {
                "words": len(ids),
                "lines": int((ids == found.eos).sum()),
                "unknown": int((ids == found.unknown).sum()),
            }
            for name, ids in splits.items()
        },
        "vocabulary": len(found.words),
        "most_frequent": dict(zip(found.words[:10], found.counts[:10].tolist(), strict=True)),
    }
