"""Tar headers that announce what is not there, for `extract` and for webdataset shards."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from litfast.data import archive as archives
from litfast.data.archive import extract
from litfast.data.sets.webdataset import webdataset


def refused(archive: Path, into: Path, message: str) -> None:
    """In one line that names the archive; nothing is left."""
    before = sorted(into.parent.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        extract(archive, into)
    assert str(caught.value).startswith("extract: ") and str(archive) in str(caught.value)
    assert sorted(into.parent.rglob("*")) == before


def raw(path: Path, *headers: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> Path:
    """A tar of headers without content."""
    path.write_bytes(b"".join(header.tobuf(format=form) for header in headers) + bytes(1024))
    return path


def header(name: str, **values: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_long_name_is_not_set_aside_as_it_is_announced(kind: bytes, tmp_path: Path) -> None:
    archive = raw(tmp_path / "a.tar", header("a", type=kind, size=1 << 40))
    refused(archive, tmp_path / "into", "got: a header that announces 1099511627776 bytes")


def test_a_size_below_nothing_does_not_lead_backwards(tmp_path: Path) -> None:
    archive = raw(tmp_path / "a.tar", header("a", size=-512))
    refused(archive, tmp_path / "into", "got: a header that announces -512 bytes")


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"size": "-512"}, "a header that announces -512 bytes"),
        ({"GNU.sparse.map": "a,b", "GNU.sparse.size": "1"}, "a header that cannot be read"),
        ({"path": "a\0b"}, "be named without null bytes"),
    ],
)
def test_pax_records_are_not_believed(records: dict[str, str], said: str, tmp_path: Path) -> None:
    archive = raw(tmp_path / "a.tar", header("a", pax_headers=records), form=tarfile.PAX_FORMAT)
    refused(archive, tmp_path / "into", said)


def test_endless_zeros_behind_a_packed_tar_are_not_read_to_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_BEHIND", 1 << 20)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(raw(tmp_path / "a").read_bytes() + bytes(2 << 20)))
    refused(tmp_path / "a.tar.gz", tmp_path / "into", "more than 1048576 bytes follow its end")


def test_a_shard_with_a_size_below_nothing_leads_into_no_circle(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name in ("a.png", "a.cls"):
            tar.addfile(header(name, size=1), io.BytesIO(b"0"))
    raw(tmp_path / "test-0.tar", header("a.png", size=-512))
    with pytest.raises(
        ValueError, match=r"test-0.tar must be a whole tar, got: a header that announces -512"
    ):
        webdataset(tmp_path)


def test_a_name_that_would_break_a_line_of_the_index_is_refused(tmp_path: Path) -> None:
    raw(tmp_path / "train-0.tar", header("a\nb.png"))
    raw(tmp_path / "test-0.tar", header("a.png"))
    with pytest.raises(ValueError, match=r"names in .*train-0\.tar must be printable, got 'a\\nb\.png'"):
        webdataset(tmp_path)
