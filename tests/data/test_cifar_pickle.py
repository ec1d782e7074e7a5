"""Small pickles in the official Python layouts, and pickles that must not be followed."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from litfast.data import ImageSet
from litfast.data.sets.cifar import cifar10, cifar100


def python2(value: object) -> bytes:
    """The opcodes that Python 2 and numpy 1 wrote the official files with (protocol 2, str of bytes)."""

    def text(raw: bytes) -> bytes:
        return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw

    match value:
        case bytes():
            return text(value)
        case int():
            return b"J" + struct.pack("<i", value)
        case list():
            return b"](" + b"".join(python2(entry) for entry in value) + b"e"
        case dict():
            return b"}(" + b"".join(python2(key) + python2(entry) for key, entry in value.items()) + b"u"
        case np.ndarray():
            dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
            dtype += b"(K\x03U\x01|NNN" + python2(-1) + python2(-1) + b"K\x00tb"
            empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            shape = b"".join(python2(size) for size in value.shape) + b"\x86"
            return empty + b"(K\x01" + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"
    raise TypeError(type(value))


def in_python2(value: object) -> bytes:
    return b"\x80\x02" + python2(value) + b"."


def in_python3(protocol: int) -> Callable[[object], bytes]:
    return lambda value: pickle.dumps(value, protocol=protocol)


def old_numpy(value: object) -> bytes:
    return pickle.dumps(value, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def pixels(*fills: int) -> np.ndarray:
    """[N, 3072]: red counts up from `fill`, green is 7, blue is 9."""
    red = (np.arange(1024)[None] + np.array(fills)[:, None]) % 256
    rest = np.repeat(np.array([[7, 9]]), 1024, axis=1).repeat(len(fills), axis=0)
    return np.concatenate([red, rest], axis=1).astype(np.uint8)


def batch(labels: list[int], fills: list[int]) -> dict[bytes, Any]:
    names = [b"a.png"] * len(labels)
    return {b"batch_label": b"one", b"labels": labels, b"data": pixels(*fills), b"filenames": names}


def write10(folder: Path, dump: Callable[[object], bytes] = in_python2) -> Path:
    (folder / "data_batch_1").write_bytes(dump(batch([3, 9], [0, 1])))
    (folder / "data_batch_2").write_bytes(dump(batch([0], [2])))
    (folder / "test_batch").write_bytes(dump(batch([5], [3])))
    names = [bytes([97 + label]) for label in range(10)]
    (folder / "batches.meta").write_bytes(dump({b"num_vis": 3072, b"label_names": names}))
    return folder


@pytest.mark.parametrize(
    "dump",
    [in_python2, old_numpy, *map(in_python3, range(5))],
    ids=["python 2", "old numpy", *(f"protocol {n}" for n in range(5))],
)
def test_pickles_of_every_age_give_the_images_and_labels(
    dump: Callable[[object], bytes], tmp_path: Path
) -> None:
    cifar = cifar10(write10(tmp_path, dump))
    assert cifar.train.labels.tolist() == [3, 9, 0] and cifar.test.labels.tolist() == [5]
    assert cifar.train.labels.dtype == torch.int64
    assert cifar.classes == tuple("abcdefghij")
    assert (cifar.crop, cifar.flip, cifar.val) == (4, True, None)
    for index, image in enumerate(cifar.train.images):
        assert torch.equal(image[0].long(), (torch.arange(1024) + index).remainder(256).view(32, 32))
        assert (image[1] == 7).all() and (image[2] == 9).all()


def test_an_array_in_fortran_order_is_read_row_by_row(tmp_path: Path) -> None:
    write10(tmp_path)
    turned = batch([1, 2], [4, 8]) | {b"data": np.asfortranarray(pixels(4, 8))}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(turned, protocol=2))
    test = cifar10(tmp_path).test
    assert torch.equal(test.images.flatten(1), torch.from_numpy(pixels(4, 8)))


def test_cifar100_reads_the_fine_label(tmp_path: Path) -> None:
    def write(name: str, fine: list[int]) -> None:
        fills = list(range(len(fine)))
        coarse = [label // 5 for label in fine]
        content = {b"fine_labels": fine, b"coarse_labels": coarse, b"data": pixels(*fills)}
        (tmp_path / name).write_bytes(in_python2(content))

    write("train", [99, 7])
    write("test", [50])
    (tmp_path / "meta").write_bytes(
        in_python2({b"fine_label_names": [b"n%d" % label for label in range(100)]})
    )
    cifar = cifar100(tmp_path)
    assert cifar.train.labels.tolist() == [99, 7] and cifar.test.labels.tolist() == [50]
    assert cifar.classes[99] == "n99" and cifar.name == "cifar100"


def test_without_the_meta_file_a_class_is_called_by_its_number(tmp_path: Path) -> None:
    (write10(tmp_path) / "batches.meta").unlink()
    assert cifar10(tmp_path).classes == tuple("0123456789")


def test_both_layouts_hold_the_same_set(tmp_path: Path) -> None:
    python, binary = tmp_path / "py", tmp_path / "bin"
    python.mkdir()
    binary.mkdir()
    write10(python)
    for name, content in (
        ("data_batch_1", batch([3, 9], [0, 1])),
        ("data_batch_2", batch([0], [2])),
        ("test_batch", batch([5], [3])),
    ):
        rows = zip(content[b"labels"], content[b"data"], strict=True)
        (binary / f"{name}.bin").write_bytes(b"".join(bytes([label]) + row.tobytes() for label, row in rows))
    one, other = cifar10(python), cifar10(binary)
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.train.labels, other.train.labels)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def spoilt(folder: Path, raw: bytes) -> ImageSet:
    (write10(folder) / "test_batch").write_bytes(raw)
    return cifar10(folder)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda mark: Calls(os.system, f"touch {mark}"), r"posix\.system"),
        (lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"), r"(builtins|__builtin__)\.eval"),
        (lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"), r"(builtins|__builtin__)\.exec"),
        (lambda mark: Calls(Path.touch, mark), r""),
        (lambda mark: Calls(np.load, str(mark)), r"numpy\.load"),
        (lambda mark: Calls(np.fromfile, str(mark)), r"numpy"),
    ],
)
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(
    protocol: int, call: Callable[[Path], Calls], named: str, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    raw = pickle.dumps({"labels": [5], "extra": call(mark)}, protocol=protocol)
    with pytest.raises(
        ValueError, match=rf"cifar10: {tmp_path}/test_batch must be .*, got .*{named}"
    ) as caught:
        spoilt(tmp_path, raw)
    assert not mark.exists()
    assert "\n" not in str(caught.value)


def test_the_same_hostile_pickle_does_run_where_nobody_refuses_it(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {mark}")))
    assert mark.exists()


def reconstructed(shape: bytes, dtype: bytes, raw: bytes) -> bytes:
    """A batch whose array has this shape, dtype and content."""
    array = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    kind = b"cnumpy\ndtype\nU" + bytes([len(dtype)]) + dtype + b"\x89\x88\x87R"
    state = b"(K\x01" + shape + kind + b"\x89" + raw + b"tb"
    return b"\x80\x03}(U\x06labels](K\x05eU\x04data" + array + state + b"u."


HUGE = b"J" + struct.pack("<i", 2**30) + b"J" + struct.pack("<i", 3072) + b"\x86"


@pytest.mark.parametrize(
    ("raw", "got"),
    [
        (pickle.dumps({"data": np.array([os, 1], dtype=object).shape, "labels": []}), "data of .*, got none"),
        (pickle.dumps({"data": np.array([{}], dtype=object), "labels": [1]}, 2), "an array of dtype O8"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.float32), "labels": [1]}, 2), "an array of dtype f4"),
        (pickle.dumps({"data": np.zeros((3, 2, 2), np.uint8), "labels": [1]}, 2), "not bytes in two dim"),
        (reconstructed(HUGE, b"u1", b"C\x01x"), r"an array of shape \(1073741824, 3072\) in 1 bytes"),
        (reconstructed(HUGE, b"u1", b"]"), "an array that is not bytes"),
        (reconstructed(b"K\x01K\x02\x86", b"u1", b"C\x02xx"), r"data of .* uint8 array, got \[1, 2\]"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**44) + b"x.", "bytes8"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**44) + b"x.", "bytearray8|BYTEARRAY8"),
        (b"\x80\x04\x95" + struct.pack("<Q", 2**44) + b"}.", "a frame of 17592186044416 bytes"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memo index 2147483647 at byte 3"),
        (b"\x80\x02}p2147483647\n.", "memo index 2147483647"),
        (b"\x80\x02)" + b"\x85" * 100_000 + b".", "more than 64 tuples and calls"),
        (b"\x80\x02cos\nsystem\n(U\x02lstR.", "os.system, which was not followed"),
        (b"(ios\nsystem\n.", "opcode INST"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "opcode NEWOBJ"),
        (b"Pevil\n.", "opcode PERSID"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"\x80\x02cnumpy\ndtype\n}U\x08__init__Nsb.", "__setstate__"),
        (b"\x80\x02cnumpy\ndtype\nN}U\x08__init__Ns\x86b.", "__setstate__"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x05\x00\x00\x00rot13\x86R.", "encoding rot13"),
        (pickle.dumps([1, 2]), "a list"),
        (pickle.dumps({(1, 2): 3}), "a name of type tuple"),
        (in_python2(batch([5], [3]))[:-1000], "[0-9]+ bytes|only"),
        (b"", "pickle exhausted before seeing STOP"),
        (b"no pickle at all", "opcode|STOP"),
    ],
)
def test_what_the_official_files_do_not_hold_is_refused_in_one_line(
    raw: bytes, got: str, tmp_path: Path
) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"cifar10: .*{tmp_path}/test_batch must .*, got") as caught:
        spoilt(tmp_path, raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    caught.match(got)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 + len(str(tmp_path))
    assert peak < 20 * 2**20, "a refused pickle must not set memory aside"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batch([10], [0]), r"labels of {file} must be below 10, got 10 in record 0"),
        (batch([-1], [0]), r"labels of {file} must be a list of integers from 0 on"),
        (batch([True], [0]), r"labels of {file} must be a list of integers from 0 on"),
        (batch([1, 2], [0]), r"labels of {file} must be one for each of its 1 images, got 2"),
        ({"data": pixels(0)}, r"labels of {file} must be a list of integers from 0 on, got NoneType"),
        ({"labels": [1]}, r"data of {file} must be a \[N, 3072\] uint8 array, got none"),
    ],
)
def test_inconsistent_content_names_file_and_rule(
    content: dict[Any, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="cifar10: " + message.format(file=f"{tmp_path}/test_batch")):
        spoilt(tmp_path, pickle.dumps(content, protocol=2))


def test_an_admitted_pickle_holds_no_more_than_about_fifteen_tuples_and_calls() -> None:
    ops = [op.name for op, _, _ in pickletools.genops(pickle.dumps(batch([1], [1]), protocol=2))]
    few = [name for name in ops if name.startswith("TUPLE") or name in ("REDUCE", "BUILD")]
    assert len(few) <= 32  # bytes as keys cost a call each in the older protocols
