"""Webdataset shards: uncompressed tars whose members of one name are one sample."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch
from torch import Tensor

from litfast.data.archive import Header
from litfast.data.sets.image_set import ImageSet, Members

IMAGES = ("jpg", "jpeg", "png")
MOST_LABEL_BYTES = 1 << 20
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision has them
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
INDEX_VERSION = "v1.2"  # of DALI's wds2idx


def webdataset(root: str | Path, *, size: int | None = None, classes: int | None = None) -> ImageSet:
    """The set in `root/train-*.tar` and `root/test-*.tar` (or `val-*.tar`; beside test, for validation).

    A sample is the run of members that share their path up to the first dot of the file name: an image (jpg,
    jpeg or png) and its label, a whole number in a `cls` member or, without one, under "label" in a `json`
    one; members of other kinds, and files whose name has no dot or begins with it, are passed over. The tars
    are read once, header by header, and nothing is extracted. Normalisation and augmentation are those of
    `image_folder`.

    Args:
        size: pixels that the shorter side is resized to, the middle square being taken; None for images that
            all have one size.
        classes: how many there are; None takes one more than the training split's largest label, and asks
            that it uses all the numbers below.

    Raises:
        ValueError: a missing split, a tar that is compressed, truncated or holds links or paths that leave
            it, a sample without image or label or with two, a label out of range.
    """
    if size is not None and size < 1:
        raise ValueError(f"webdataset: size must be at least 1, got {size}")
    shards = _shards(Path(root))
    splits = {split: _members(tars) for split, tars in shards.items()}
    count = _count(splits["train"].labels, Path(root)) if classes is None else classes
    for members in splits.values():
        _check_labels(members, count)
    test = "test" if "test" in splits else "val"
    return ImageSet(
        name="webdataset",
        train=splits["train"],
        test=splits[test],
        val=splits.get("val") if test == "test" else None,
        classes=tuple(str(label) for label in range(count)),
        mean=MEAN,
        std=STD,
        crop=4,
        flip=True,
        size=size,
    )


def write_index(tar: str | Path, index: str | Path) -> None:
    """Write the index that DALI's webdataset reader takes (text, as `wds2idx` of DALI 1.2 on writes it).

    A line with version and number of samples, then for each sample its members' extension, offset, size and
    name, all on one line. The file is replaced as a whole or not at all.

    Raises:
        ValueError: as `webdataset` for the tar itself; an empty tar, or a name with white space, which would
            break the format.
    """
    tar, index = Path(tar), Path(index)
    lines = []
    for sample in _samples(tar):
        for part in sample:
            if part.name.split() != [part.name]:
                raise ValueError(
                    f"write_index: names in {tar} must be without white space, got {part.name!r}"
                )
        parts = (f"{part.extension} {part.offset} {part.size} {part.name}" for part in sample)
        lines.append(" ".join(parts))
    descriptor, aside = tempfile.mkstemp(dir=index.parent, prefix=f"{index.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n".join([f"{INDEX_VERSION} {len(lines)}", *lines, ""]))
        os.replace(aside, index)
    except BaseException:
        os.unlink(aside)
        raise


@dataclass(frozen=True)
class _Part:
    """A member of a tar."""

    key: str  # the path up to the file name's first dot
    extension: str  # all that follows that dot
    offset: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.key}.{self.extension}"


def _shards(folder: Path) -> dict[str, tuple[Path, ...]]:
    found = {split: tuple(sorted(folder.glob(f"{split}-*.tar"))) for split in ("train", "test", "val")}
    suffixes = (".gz", ".tgz", ".bz2", ".xz", ".zst")
    packed = sorted(path.name for path in folder.glob("*-*.t*") if path.suffix in suffixes)
    if not found["train"] or not (found["test"] or found["val"]):
        got = ", ".join([path.name for tars in found.values() for path in tars[:3]] + packed[:3])
        raise ValueError(
            f"webdataset: {folder} must hold uncompressed train-*.tar and test-*.tar (or val-*.tar), "
            f"got {got or 'neither'}"
        )
    if packed:
        raise ValueError(f"webdataset: {folder} must hold uncompressed tars only, got {packed[0]}")
    return {split: tars for split, tars in found.items() if tars}


def _members(tars: tuple[Path, ...]) -> Members:
    rows: list[tuple[int, int, int, int]] = []
    keys: list[str] = []
    for number, tar in enumerate(tars):
        with tar.open("rb") as file:
            for sample in _samples(tar):
                image = _one(tar, sample, "image", IMAGES)
                label = _label(tar, file, _label_part(tar, sample))
                rows.append((number, image.offset, image.size, label))
                keys.append(image.key)
    which, offset, size, labels = torch.tensor(rows, dtype=torch.int64).unbind(1)
    return Members(tars=tars, tar=which, offset=offset, size=size, keys=tuple(keys), labels=labels.clone())


def _samples(tar: Path) -> Iterator[list[_Part]]:
    """Runs of members of one key, as wds2idx groups them; at least one."""
    sample: list[_Part] = []
    for part in _parts(tar):
        if sample and sample[-1].key != part.key:
            yield sample
            sample = []
        sample.append(part)
    if not sample:
        raise ValueError(f"webdataset: {tar} must hold at least 1 sample, got none")
    yield sample


def _parts(tar: Path) -> Iterator[_Part]:
    """The files in a tar, in its order; links, paths that leave it and damage are refused."""
    with tar.open("rb") as file:
        begin = file.read(6)
        packed = next((kind for magic, kind in PACKED.items() if begin.startswith(magic)), None)
        if packed is not None:
            raise ValueError(f"webdataset: {tar} must be an uncompressed tar, got {packed}")
        file.seek(0)
        last = "its beginning"
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as archive:
                for member in archive:
                    last = member.name
                    if not last.isprintable():  # it would break a line of the index
                        raise ValueError(f"webdataset: names in {tar} must be printable, got {last!r}")
                    if member.isdir():
                        continue
                    _check_member(tar, member)
                    folder, _, name = member.name.rpartition("/")
                    stem, _, extension = name.partition(".")
                    if stem and extension:
                        key = f"{folder}/{stem}" if folder else stem
                        yield _Part(key, extension, member.offset_data, member.size)
                end = archive.offset
        except tarfile.TarError as error:
            raise ValueError(f"webdataset: {tar} must be a whole tar, got: {error} after {last}") from None
        file.seek(end)
        # tarfile takes any end for the end of the archive
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(
                f"webdataset: {tar} must end with a block of zeros, got none after {last}; "
                "it is truncated or damaged"
            )


def _check_member(tar: Path, member: tarfile.TarInfo) -> None:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "something else"
        raise ValueError(f"webdataset: {tar} must hold plain files only, got {kind}: {member.name}")
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"webdataset: names in {tar} must stay below it, got {member.name}")


def _one(tar: Path, sample: list[_Part], what: str, kinds: tuple[str, ...]) -> _Part:
    found = [part for part in sample if part.extension.lower() in kinds]
    if len(found) != 1:
        got = ", ".join(part.extension for part in (found or sample))
        raise ValueError(
            f"webdataset: {tar}:{sample[0].key} must have one {what} ({', '.join(kinds)}), got {got}"
        )
    return found[0]


def _label_part(tar: Path, sample: list[_Part]) -> _Part:
    has_cls = any(part.extension.lower() == "cls" for part in sample)
    return _one(tar, sample, "label", ("cls",) if has_cls else ("cls", "json"))


def _label(tar: Path, file: BinaryIO, part: _Part) -> int:
    rule = f"{tar}:{part.name} must hold a whole number from 0 on"
    if part.size > MOST_LABEL_BYTES:
        raise ValueError(f"webdataset: {rule}, got {part.size} bytes")
    file.seek(part.offset)
    content = file.read(part.size)
    is_plain = part.extension.lower() == "cls"
    try:
        label: object = int(content) if is_plain else json.loads(content)["label"]
    except (ValueError, TypeError, LookupError, RecursionError):
        label = None
    if type(label) is not int or not 0 <= label < 1 << 31:
        under = "" if is_plain else ' under "label"'
        raise ValueError(f"webdataset: {rule}{under}, got {content[:60]!r}")
    return label


def _count(labels: Tensor, folder: Path) -> int:
    seen = labels.unique()
    if int(seen[-1]) != len(seen) - 1:
        gap = int((seen != torch.arange(len(seen))).nonzero()[0])
        raise ValueError(
            f"webdataset: training labels of {folder} must use every number up to the largest, "
            f"got {int(seen[-1])} and no {gap}; give `classes` if that is so"
        )
    return len(seen)


def _check_labels(members: Members, classes: int) -> None:
    wrong = (members.labels >= classes).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"webdataset: the label of {members.name(at)} must be below {classes}, "
            f"got {int(members.labels[at])}"
        )
