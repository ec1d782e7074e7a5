"""Targets: archives, and files of weights."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from litfast import lfc
from litfast.data.archive import extract
from litfast.engine import checkpoint
from litfast.models.weights import load_weights

from .harness import Target
from .spoil import any_bytes, plain, spoilt_table

MOST = 1 << 20  # bytes that an archive may unpack to here

NAMES = [
    "a",
    "set/a",
    "set/b/c",
    "../out",
    "/abs",
    "set/../../out",
    "a/../b",
    "C:\\out",
    "..\\out",
    ".",
    "",
    "é",
    "x" * 300,
]
LINKS = [
    "a",
    "set/a",
    "..",
    "../..",
    "/etc/passwd",
    "b/..",
    "set",
    ".",
    "",
    "\\\\server\\share",
    "a/../../..",
]
KINDS = [
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
]
KINDS += [tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"V", b"g"]
member = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from(KINDS),
    st.sampled_from(LINKS),
    st.binary(max_size=20),
    st.booleans(),
)


def tar_of(members: list[tuple[str, bytes, str, bytes, bool]], how: tuple[int, str]) -> bytes:
    """A tar of whatever members, of any of the formats; a member may announce more than it has."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=how[0]) as tar:
        for name, kind, target, content, is_bomb in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(content) if kind in (tarfile.REGTYPE, tarfile.CONTTYPE) else 0
            info.pax_headers = {"size": str(1 << 40)} if is_bomb and how[0] == tarfile.PAX_FORMAT else {}
            tar.addfile(info, io.BytesIO(content))
    pack: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gz": gzip.compress, "xz": lzma.compress}
    return pack[how[1]](packed.getvalue())


def zip_of(members: list[tuple[str, bytes, str, bytes, bool]]) -> bytes:
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        warnings.simplefilter("ignore", UserWarning)  # a name that comes twice
        for name, kind, target, content, is_bomb in members:
            info = zipfile.ZipInfo(name or "a")
            info.external_attr = (0o120777 if kind == tarfile.SYMTYPE else 0o100644) << 16
            opened.writestr(
                info, bytes(2 * MOST) if is_bomb else target if kind == tarfile.SYMTYPE else content
            )
    return packed.getvalue()


formats = st.tuples(
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.just("")
)
packings = st.tuples(st.just(tarfile.PAX_FORMAT), st.sampled_from(["gz", "xz"]))
GOOD: list[tuple[str, bytes, str, bytes, bool]] = [
    ("set", tarfile.DIRTYPE, "", b"", False),
    ("set/a", tarfile.REGTYPE, "", b"1234", False),
    ("set/link", tarfile.SYMTYPE, "a", b"", False),
]
archives = st.one_of(
    st.builds(tar_of, st.lists(member, min_size=1, max_size=4), st.one_of(formats, packings)),
    st.builds(zip_of, st.lists(member, min_size=1, max_size=4)),
    any_bytes(
        *(
            tar_of(GOOD, (kind, ""))
            for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
        ),
        tar_of(GOOD, (tarfile.PAX_FORMAT, "gz")),
        tar_of(GOOD, (tarfile.PAX_FORMAT, "xz")),
        zip_of(GOOD[:2]),
    ),
)


def unpack(case: tuple[bytes, str | None], folder: Path) -> None:
    """Nothing outside of the new folder, nothing in it that leads there; after an error nothing at all."""
    data, top = case
    (folder / "archive").write_bytes(data)
    place = folder / "place"
    place.mkdir()
    (place / "secret").touch()
    try:
        extract(folder / "archive", place / "into", top=top, max_bytes=MOST)
    except Exception:
        assert _below(place) == [place / "secret"]
        raise
    finally:
        assert sorted(folder.iterdir()) == [folder / "archive", place]
    into = place / "into"
    assert sorted(place.iterdir()) == [into, place / "secret"]
    for path in _below(into):
        assert path.resolve().is_relative_to(into.resolve()) and (
            path.is_file() or path.is_dir() or path.is_symlink()
        )
    assert sum(path.stat().st_size for path in _below(into) if path.is_file()) <= MOST


def _below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def signed(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def lfc_file(content: bytes, folder: Path) -> None:
    file = folder / "x.lfc"
    file.write_bytes(signed(content))
    tensors = lfc.load(file)
    for tensor in tensors.values():
        assert tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.itemsize
    state = folder / "y.lfc"
    lfc.save(state, tensors)
    assert list(lfc.load(state)) == list(tensors)


def _lfc_contents() -> list[bytes]:
    import tempfile

    weight = torch.tensor([0.0, 0, 0, 1, 0, 2, 0, 0, 1, 0] * 30)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "x.lfc"
        contents = []
        for state in ({"weight": weight, "bias": torch.arange(2.0)}, network().state_dict()):
            lfc.save(file, state)
            contents.append(file.read_bytes()[:-4])
        return contents


def lfc_of(header: Any, payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<4sHI", b"LFC\0", 1, len(text)) + text + payload


HEADER = {"spec": None, "tensors": [["a", "float32", [3], "raw", 12], ["b", "uint8", [40], "shared", 30]]}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def weights_of(suffix: str) -> Callable[[bytes, Path], None]:
    """`load_weights` of a file of that suffix: the model takes all of it, or stays as it was."""

    def run(content: bytes, folder: Path) -> None:
        file = folder / f"weights{suffix}"
        file.write_bytes(signed(content) if suffix == ".lfc" else content)
        model = network()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        try:
            load_weights(model, file)
        except ValueError:
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
            raise
        sum(float(value.double().sum()) for value in model.state_dict().values())

    return run


def _torch_files() -> list[bytes]:
    made = []
    for state in (network().state_dict(), {"state_dict": network().state_dict(), "epoch": 3}):
        for zipped in (True, False):
            packed = io.BytesIO()
            torch.save(state, packed, _use_new_zipfile_serialization=zipped)
            made.append(packed.getvalue())
    return made


def _safetensors() -> bytes:
    from safetensors.torch import save

    return save(dict(network().state_dict()))


class Evil:
    """What runs code when it is unpickled, where someone lets it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/litfast-was-here"),)


def rezipped(content: bytes, replaced: bytes) -> bytes:
    """A torch file whose pickle or first tensor is another one, with checksums that are right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(made, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            target.writestr(info.filename, replaced if info.filename.endswith("data.pkl") else data)
    return made.getvalue()


def _pickle(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        return next(source.read(info) for info in source.infolist() if info.filename.endswith("data.pkl"))


def _checkpoint() -> bytes:
    packed = io.BytesIO()
    state = {"progress": {"epoch": 1, "sums": {"loss": [1.0]}}, "model": network().state_dict(), "journal": 3}
    torch.save(state, packed)
    return packed.getvalue()


TORCH, SAVED = _torch_files(), _checkpoint()
EVIL = [pickle.dumps(Evil(), protocol=2), rezipped(SAVED, pickle.dumps({"progress": Evil()}, protocol=2))]


def read_checkpoint(content: bytes, folder: Path) -> None:
    file = folder / "last.pt"
    file.write_bytes(content)
    try:
        state = checkpoint.load(file)
    finally:
        assert not Path("/tmp/litfast-was-here").exists()
    assert isinstance(state["progress"], dict)


def _target(
    name: str, run: Callable[[Any, Path], object], cases: Any, says: str, *also: type[Exception]
) -> Target:
    return Target(name=name, cases=cases, run=run, says=says, refusals=(ValueError, *also))


zipped_pickles = any_bytes(_pickle(SAVED)).map(lambda pickled: rezipped(SAVED, pickled))
CONTAINERS = [
    _target(
        "archives", unpack, st.tuples(archives, st.sampled_from([None, None, "set"])), "extract: ", OSError
    ),
    _target(
        "lfc file",
        lfc_file,
        st.one_of(
            any_bytes(*_lfc_contents()),
            st.builds(lfc_of, spoilt_table([HEADER], plain), st.binary(min_size=42, max_size=42)),
        ),
        "lfc: ",
    ),
    _target("weights, lfc", weights_of(".lfc"), any_bytes(_lfc_contents()[1]), "lfc: |load_weights: "),
    _target("weights, safetensors", weights_of(".safetensors"), any_bytes(_safetensors()), "load_weights: "),
    _target(
        "weights, torch",
        weights_of(".pt"),
        st.one_of(
            any_bytes(*TORCH, *EVIL),
            any_bytes(_pickle(TORCH[0])).map(lambda pickled: rezipped(TORCH[0], pickled)),
        ),
        "load_weights: ",
    ),
    _target(
        "checkpoint", read_checkpoint, st.one_of(any_bytes(SAVED, *EVIL), zipped_pickles), "checkpoint: "
    ),
]
