"""What `data.on_error` says of images that cannot be decoded, and whether labels fit the classes."""

from __future__ import annotations

from dataclasses import replace

import torch

from litfast.data.decode import undecodable
from litfast.data.sets.image_set import Files, ImageSet, Members, Source
from litfast.data.sets.items import Items

LISTED = 10  # names in the one line; the run keeps all


def check_labels(images: ImageSet) -> None:
    """Raises ValueError where a label is no class; a Dataset's labels are checked as its items are read."""
    if not images.labelled:
        return
    for split, samples in _splits(images):
        if isinstance(samples, Items) or samples.labels.dim() != 1 or not len(samples):
            continue
        wrong = ((samples.labels < 0) | (samples.labels >= len(images.classes))).nonzero()
        if len(wrong):
            at = int(wrong[0])
            raise ValueError(
                f"data: labels of {images.name} must be from 0 to {len(images.classes) - 1}, "
                f"got {int(samples.labels[at])} for sample {at} of {split}"
            )


def attributes(images: ImageSet) -> bool:
    """Whether labels are vectors of attributes and not classes."""
    samples = images.train
    label = samples.read(0)[1] if isinstance(samples, Items) else samples.labels[0]
    return label.dim() > 0


def screened(images: ImageSet) -> tuple[ImageSet, tuple[str, ...]]:
    """The set without the images that cannot be decoded, and these: "FILE (reason)". All are tried once.

    Raises:
        ValueError: nothing is left of a split, or its images come from a Dataset.
    """
    kept, left_out = {}, []
    for split, samples in _splits(images):
        if isinstance(samples, Items):
            raise ValueError(f"data: on_error must be raise for a Dataset of one's own, got skip for {split}")
        if not isinstance(samples, (Files, Members)):
            continue
        bad = undecodable(samples)
        left_out += [f"{samples.name(i)} ({reason})" for i, reason in bad.items()]
        keep = torch.tensor([i for i in range(len(samples)) if i not in bad], dtype=torch.int64)
        if not len(keep):
            raise ValueError(
                f"data: {split} must hold an image that can be decoded, got {len(samples)} that cannot"
            )
        kept[split] = samples.at(keep) if bad else samples
    return replace(images, **kept), tuple(left_out)  # type: ignore[arg-type]


def said(left_out: tuple[str, ...], images: ImageSet) -> str:
    """One line: how many of the set's images are left out, and which; empty where none is."""
    if not left_out:
        return ""
    total = len(left_out) + sum(len(samples) for _, samples in _splits(images))
    more = f", and {len(left_out) - LISTED} more" if len(left_out) > LISTED else ""
    return (
        f"data: {len(left_out)} of {total} images left out, they cannot be decoded: "
        f"{', '.join(left_out[:LISTED])}{more}"
    )


def _splits(images: ImageSet) -> list[tuple[str, Source]]:
    found = {name: getattr(images, name) for name in ("train", "test", "val")}
    return [(name, samples) for name, samples in found.items() if samples is not None]
