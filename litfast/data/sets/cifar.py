"""CIFAR-10 and CIFAR-100 in both official layouts: binary records, and Python pickles."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litfast.data.sets.image_set import Images, ImageSet

# the normalisation that the published CIFAR-10 ResNet checkpoints (akamaster) were trained with
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = 3 * 32 * 32


def cifar10(root: str | Path) -> ImageSet:
    """CIFAR-10 from the folder `cifar-10-batches-bin` or `cifar-10-batches-py`, told apart by their files.

    Binary: `data_batch_*.bin`, `test_batch.bin` (1 label byte a record), class names from `batches.meta.txt`.
    Python: the pickles `data_batch_1` to `data_batch_9`, `test_batch`, class names from `batches.meta`. A
    file may hold any number of records; without names a class is called by its number. A pickle may hold
    plain values and uint8 arrays alone: anything else is refused before any of it is built.

    Raises:
        ValueError: a file that is missing, truncated or refused, a label of 10 or more.
    """
    layout = _Layout(
        name="cifar10",
        classes=10,
        label_bytes=1,
        binary=("data_batch_*.bin", "test_batch.bin", "batches.meta.txt"),
        python=("data_batch_[1-9]", "test_batch", "batches.meta"),
        keys=("labels", "label_names"),
    )
    return _image_set(Path(root), layout)


def cifar100(root: str | Path) -> ImageSet:
    """CIFAR-100 from the folder `cifar-100-binary` or `cifar-100-python`, told apart by their files.

    Binary: `train.bin`, `test.bin` (two label bytes a record; the second, fine one counts), class names from
    `fine_label_names.txt`. Python: the pickles `train`, `test` (the fine labels count), class names from
    `meta`. All else is as for `cifar10`.

    Raises:
        ValueError: a file that is missing, truncated or refused, a label of 100 or more.
    """
    layout = _Layout(
        name="cifar100",
        classes=100,
        label_bytes=2,
        binary=("train.bin", "test.bin", "fine_label_names.txt"),
        python=("train", "test", "meta"),
        keys=("fine_labels", "fine_label_names"),
    )
    return _image_set(Path(root), layout)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    name: str
    classes: int
    label_bytes: int  # the last of them is the label
    binary: tuple[str, str, str]  # a pattern of the training files, the test file, the class names
    python: tuple[str, str, str]
    keys: tuple[str, str]  # of the labels in a batch, of the class names in the meta file

    @property
    def record(self) -> int:
        return self.label_bytes + PIXELS


def _image_set(folder: Path, layout: _Layout) -> ImageSet:
    files = _files(folder, layout)
    read, names = (
        (_read_binary, layout.binary[2]) if files[-1].suffix == ".bin" else (_read_pickle, layout.python[2])
    )
    *train, test = (_checked(file, *read(file, layout), layout) for file in files)
    return ImageSet(
        name=layout.name,
        train=_joined(train),
        test=test,
        val=None,
        classes=_class_names(folder / names, layout),
        mean=MEAN,
        std=STD,
        crop=4,
        flip=True,
    )


def _files(folder: Path, layout: _Layout) -> list[Path]:
    """The training files, then the test file; of the binary layout where a folder holds both."""
    found: list[Path] = []
    for train, test, _ in (layout.binary, layout.python):
        files = [*sorted(folder.glob(train)), *folder.glob(test)]
        if len(files) >= 2 and files[-1].name == test:
            return files
        found += files
    rule = " or ".join(f"{train} and {test}" for train, test, _ in (layout.binary, layout.python))
    got = ", ".join(file.name for file in found) or "neither"
    raise ValueError(f"{layout.name}: {folder} must hold {rule}, got {got}")


def _read_binary(file: Path, layout: _Layout) -> tuple[Tensor, Tensor]:
    found = file.stat().st_size
    if found == 0 or found % layout.record:
        raise ValueError(
            f"{layout.name}: {file} must be a multiple of {layout.record} bytes, got {found} bytes; "
            "it is truncated or of another layout"
        )
    records = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8).view(-1, layout.record)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1].long()


def _read_pickle(file: Path, layout: _Layout) -> tuple[Tensor, Tensor]:
    content = _unpickled(file, layout)
    labels, data = content.get(layout.keys[0]), content.get("data")
    pixels = data.pixels if isinstance(data, _Array) else None
    if pixels is None or pixels.shape[1] != PIXELS:
        got = "none" if pixels is None else list(pixels.shape)
        raise ValueError(f"{layout.name}: data of {file} must be a [N, {PIXELS}] uint8 array, got {got}")
    if not isinstance(labels, list) or not all(type(x) is int and 0 <= x < 2**63 for x in labels):
        raise ValueError(
            f"{layout.name}: {layout.keys[0]} of {file} must be a list of integers from 0 on, "
            f"got {type(labels).__name__}"
        )
    if not 0 < len(labels) == len(pixels):
        raise ValueError(
            f"{layout.name}: {layout.keys[0]} of {file} must be one for each of its {len(pixels)} "
            f"images, got {len(labels)}"
        )
    return pixels, torch.tensor(labels)


def _checked(file: Path, pixels: Tensor, labels: Tensor, layout: _Layout) -> Images:
    wrong = (labels >= layout.classes).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"{layout.name}: labels of {file} must be below {layout.classes}, "
            f"got {int(labels[at])} in record {at}"
        )
    return Images(images=pixels.reshape(-1, 3, 32, 32), labels=labels)


def _joined(parts: Sequence[Images]) -> Images:
    images, labels = [part.images for part in parts], [part.labels for part in parts]
    return Images(images=torch.cat(images), labels=torch.cat(labels))


def _class_names(file: Path, layout: _Layout) -> tuple[str, ...]:
    names: Any = []
    if file.is_file():
        is_text = file.suffix == ".txt"
        names = (
            file.read_text("utf-8", "replace").split()
            if is_text
            else _unpickled(file, layout).get(layout.keys[1])
        )
    known = isinstance(names, list) and all(isinstance(name, str | bytes) for name in names)
    if known and len(names) == layout.classes:
        return tuple(_text(name) for name in names)
    return tuple(str(label) for label in range(layout.classes))


def _unpickled(file: Path, layout: _Layout) -> dict[str, Any]:
    """The dict in a pickle of Python 2 or 3, its keys as text."""
    raw = file.read_bytes()
    try:
        _check_opcodes(raw)
        content = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"a {type(content).__name__}")
        return {_text(key): value for key, value in content.items()}
    except Exception as error:  # a spoilt pickle may fail in any way; none of it is more than spoilt
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{layout.name}: {file} must be a pickle of a dict of plain values and uint8 arrays, got {reason}"
        ) from None


def _text(name: object) -> str:
    if not isinstance(name, str | bytes):
        raise pickle.UnpicklingError(f"a name of type {type(name).__name__}")
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


# What Python 2 and 3 pickle plain values and arrays with. No other opcode makes an object or names a class.
_PLAIN = re.compile(
    r"PROTO|FRAME|STOP|MARK|NONE|NEWTRUE|NEWFALSE|INT|BININT[12]?|LONG[14]?|FLOAT|BINFLOAT"
    r"|STRING|(SHORT_)?BIN(STRING|BYTES|UNICODE)|BIN(BYTES|UNICODE)8|UNICODE|EMPTY_(LIST|DICT|TUPLE)|LIST|APPENDS?"
    r"|DICT|SETITEMS?|(BIN|LONG_BIN)?(GET|PUT)|MEMOIZE|GLOBAL|STACK_GLOBAL"
)
_FEW = re.compile("TUPLE[123]?|REDUCE|BUILD")  # an array takes about fifteen


def _check_opcodes(raw: bytes) -> None:
    """Read the opcodes without running them, so that none makes more of the pickle than its own bytes."""
    few = 0
    for count, (opcode, argument, at) in enumerate(pickletools.genops(raw)):
        if _FEW.fullmatch(opcode.name):
            few += 1
        elif not _PLAIN.fullmatch(opcode.name):
            raise pickle.UnpicklingError(f"opcode {opcode.name} at byte {at}")
        if few > 64:
            raise pickle.UnpicklingError("more than 64 tuples and calls")
        # the unpickler sets memory aside for the largest memo index, and for a frame
        if "PUT" in opcode.name and (argument or 0) > count:
            raise pickle.UnpicklingError(f"memo index {argument} at byte {at}")
        if opcode.name == "FRAME" and (argument or 0) > len(raw):
            raise pickle.UnpicklingError(f"a frame of {argument} bytes at byte {at}")


class _Unpickler(pickle.Unpickler):
    """Builds plain values and `_Array`; numpy itself is never called."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _STAND_INS:
            raise pickle.UnpicklingError(f"a reference to {module}.{name}, which was not followed")
        return _STAND_INS[f"{module}.{name}"]


# A stand-in is a class, and each has __setstate__: so the opcode BUILD changes an instance by its own rule,
# and on the class itself it fails.
class _Array:
    """Stands in for numpy's array while it is unpickled."""

    def __init__(self, kind: object, shape: object, code: object) -> None:
        self.pixels: Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        """Take (version, shape, dtype, is_fortran, bytes), as `numpy.ndarray.__setstate__` does."""
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array without dtype")
        if not isinstance(raw, bytes) or type(shape) is not tuple or [type(n) for n in shape] != [int, int]:
            raise pickle.UnpicklingError("an array that is not bytes in two dimensions")
        if min(shape) < 1 or len(raw) != shape[0] * shape[1]:
            raise pickle.UnpicklingError(f"an array of shape {shape} in {len(raw)} bytes")
        flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        self.pixels = flat.view(shape[::-1]).t() if is_fortran else flat.view(shape)


class _Dtype:
    """Stands in for numpy's dtype: uint8 or nothing."""

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        if _text(code) != "u1":
            raise pickle.UnpicklingError(f"an array of dtype {_text(code)}")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment say nothing of single bytes."""


class _Encoded:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes into the older protocols."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes in the encoding {encoding}")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a state for bytes")


_STAND_INS = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.ndarray": "numpy.ndarray",  # an argument of _reconstruct, never called
    "numpy.dtype": _Dtype,
    "_codecs.encode": _Encoded,
}
