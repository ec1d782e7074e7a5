"""Targets: files of weights, and checkpoints."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from litfast import lfc
from litfast.engine import checkpoint
from litfast.models.weights import load_weights

from .harness import Target
from .spoil import any_bytes, plain, spoilt_table


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


def _target(name: str, run: Callable[[Any, Path], object], cases: Any, says: str) -> Target:
    return Target(name=name, cases=cases, run=run, says=says)


zipped_pickles = any_bytes(_pickle(SAVED)).map(lambda pickled: rezipped(SAVED, pickled))
WEIGHTS = [
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
