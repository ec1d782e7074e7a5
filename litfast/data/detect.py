"""Which known set lies in a folder or an archive, told by its file names."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from litfast.data.archive import archive_kind, members
from litfast.data.sets.image_folder import EXTENSIONS, SPLITS

DEPTH, WIDE, NARROW = 3, 10_000, 20  # levels that are looked at; entries of the folder itself, of one below
IMAGE = rf"[^/]+({'|'.join(map(re.escape, EXTENSIONS))})"
SPLIT = f"({'|'.join(SPLITS)})"
MNIST, FASHION = bytes([5, 0, 4, 1, 9, 2, 1, 3, 1, 4]), bytes([9, 0, 0, 3, 0, 2, 7, 2, 5, 5])


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A set by what its folder must hold: for each pattern a path that matches it."""

    name: str  # of DATASETS
    format: str
    patterns: tuple[str, ...]
    words: str  # the patterns, for people

    def is_in(self, paths: Sequence[str]) -> bool:
        return all(any(re.fullmatch(pattern, path, re.I) for path in paths) for pattern in self.patterns)


LAYOUTS = (
    Layout(
        name="cifar10",
        format="CIFAR-10, binary",
        patterns=(r"data_batch_\d+\.bin", r"test_batch\.bin"),
        words="data_batch_*.bin and test_batch.bin",
    ),
    Layout(
        name="cifar10",
        format="CIFAR-10, Python pickles",
        patterns=(r"data_batch_\d+", "test_batch"),
        words="data_batch_* and test_batch",
    ),
    Layout(
        name="cifar100",
        format="CIFAR-100, binary",
        patterns=(r"train\.bin", r"test\.bin"),
        words="train.bin and test.bin",
    ),
    Layout(
        name="cifar100",
        format="CIFAR-100, Python pickles",
        patterns=("train", "test", "meta"),
        words="train, test and meta",
    ),
    Layout(
        name="mnist",
        format="IDX",
        patterns=(r"train-images[-.]idx3-ubyte(\.gz)?", r"train-labels[-.]idx1-ubyte(\.gz)?"),
        words="train-images-idx3-ubyte and its companions",
    ),
    Layout(
        name="celeba",
        format="CelebA",
        patterns=(r"list_attr_celeba\.txt",),
        words="list_attr_celeba.txt",
    ),
    Layout(
        name="amazon_polarity",
        format="Amazon reviews, CSV",
        patterns=(r"train\.csv(\.gz)?", r"test\.csv(\.gz)?"),
        words="train.csv and test.csv",
    ),
    Layout(
        name="text",
        format="text corpus",
        patterns=(r"train\.txt(\.gz)?", r"valid\.txt(\.gz)?", r"test\.txt(\.gz)?"),
        words="train.txt, valid.txt and test.txt",
    ),
    Layout(
        name="text",
        format="Penn Treebank",
        patterns=(r"ptb\.train\.txt(\.gz)?", r"ptb\.valid\.txt(\.gz)?", r"ptb\.test\.txt(\.gz)?"),
        words="ptb.train.txt and its companions",
    ),
    Layout(
        name="text",
        format="WikiText",
        patterns=(r"wiki\.train\.tokens(\.gz)?", r"wiki\.valid\.tokens(\.gz)?", r"wiki\.test\.tokens(\.gz)?"),
        words="wiki.train.tokens and its companions",
    ),
    Layout(
        name="image_folder",
        format="image folder",
        patterns=(rf"{SPLIT}/[^/]+/{IMAGE}",),
        words="train/CLASS/*.jpg",
    ),
    Layout(
        name="webdataset",
        format="webdataset",
        patterns=(r"train-[^/]*\.tar",),
        words="train-*.tar",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A set that was recognised."""

    path: Path
    name: str  # of DATASETS
    format: str
    archive: str | None = None  # the kind of archive that it is still packed in


def detect(path: str | Path) -> Found:
    """The set in a folder, or in an archive that holds such a folder.

    File names decide; of a large folder a part is looked at. Two layouts need more: MNIST and Fashion-MNIST
    differ by their first labels, the Amazon sets by their classes.

    Raises:
        ValueError: nothing is there, or nothing that is known: the line says what was looked for.
    """
    path = Path(path)
    if path.is_dir():
        paths = sorted(_below(path))
        layout = _layout(paths)
        if layout is None or (layout.name == "webdataset" and not _has_shards(path)):
            raise ValueError(f"detect: {path} must hold {_wanted()}, got {_summary(paths)}{_hint(path)}")
        return Found(path=path, name=_name(layout, path), format=layout.format)
    kind = archive_kind(path) if path.is_file() else None
    if kind is None:
        got = "another file" if path.is_file() else "nothing of that name"
        raise ValueError(f"detect: {path} must be a folder or an archive, got {got}")
    paths = _packed(path)
    if _is_shard(paths):
        return Found(path=path, name="webdataset", format="webdataset shard", archive=kind)
    layout = _layout(_without_top(paths))
    if layout is None:
        raise ValueError(f"detect: {path} must hold {_wanted()}, got {_summary(paths)}")
    return Found(path=path, name=_name(layout, path), format=layout.format, archive=kind)


def _layout(paths: Sequence[str]) -> Layout | None:
    return next((layout for layout in LAYOUTS if layout.is_in(paths)), None)


def _below(folder: Path, depth: int = DEPTH, limit: int = WIDE, before: str = "") -> Iterator[str]:
    """Paths of files, some of each folder."""
    with os.scandir(folder) as entries:
        for entry in islice(entries, limit):
            if not entry.is_dir():
                yield before + entry.name
            elif depth > 1:
                yield from _below(folder / entry.name, depth - 1, NARROW, f"{before}{entry.name}/")


def _packed(archive: Path) -> list[str]:
    """Paths of the first files in an archive."""
    with members(archive) as entries:
        files = (str(PurePosixPath(entry.name)) for entry in entries if entry.kind == "file")
        return list(islice(files, 1000))


def _without_top(paths: list[str]) -> list[str]:
    """The paths below the one folder that holds all of them, if there is one."""
    tops = {path.partition("/")[0] for path in paths}
    if len(tops) != 1 or tops & set(paths):
        return paths
    return [path.partition("/")[2] for path in paths]


def _is_shard(paths: list[str]) -> bool:
    """Samples of a webdataset: an image and its class under one key, `0001.jpg` and `0001.cls`."""
    labelled = {_key(path) for path in paths if path.endswith((".cls", ".json"))}
    return any(_key(path) in labelled for path in paths if re.fullmatch(rf"(.*/)?{IMAGE}", path, re.I))


def _key(path: str) -> str:
    """The path up to the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _has_shards(folder: Path) -> bool:
    """Whether the first archive of a folder is a shard; any archive may lie in a folder."""
    first = min(folder.glob("train-*.tar"))
    return archive_kind(first) == "tar" and _is_shard(_packed(first))


def _name(layout: Layout, path: Path) -> str:
    """Of two sets in one layout, the one that it is."""
    if layout.name == "mnist":
        first = _start(path, "train-labels*", 18)[8:]
        fashion = first == FASHION or (first != MNIST and "fashion" in path.name.lower())
        return "fashion_mnist" if fashion else "mnist"
    if layout.name == "amazon_polarity":
        classes = set(re.findall(rb'^"(\d)"', _start(path, "train.csv*", 1 << 20), re.M))
        full = bool(classes - {b"1", b"2"})
        return "amazon_full" if full or (not classes and "full" in path.name) else "amazon_polarity"
    return layout.name


def _start(folder: Path, pattern: str, count: int) -> bytes:
    """The first bytes of a file, unpacked; none where there is no such file, or a broken one."""
    for file in sorted(folder.glob(pattern)) if folder.is_dir() else ():
        try:
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
                return bytes(opened.read(count))
        except (OSError, EOFError, zlib.error):
            return b""
    return b""


def _wanted() -> str:
    return "a known set (" + "; ".join(f"{layout.format}: {layout.words}" for layout in LAYOUTS) + ")"


def _summary(paths: Sequence[str]) -> str:
    tops = sorted({path.partition("/")[0] for path in paths})
    return ", ".join(tops[:5]) + (f" and {len(tops) - 5} more" if len(tops) > 5 else "") or "no files"


def _hint(folder: Path) -> str:
    """A folder or archive within it that is known: often the path is one step short."""
    for entry in sorted(folder.iterdir())[:NARROW]:
        if entry.is_dir() and (layout := _layout(list(_below(entry)))):
            return f"; {entry} holds {layout.format}"
    return ""
