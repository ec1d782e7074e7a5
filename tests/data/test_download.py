"""Transfers from a server in this process that breaks off, forgets, refuses, lies or says nothing."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from litfast.data.download import download

from .conftest import Server

CONTENT = os.urandom(600_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


def get(server: Server, folder: Path, **options: Any) -> Path:
    options = {"md5": MD5, "timeout": 5.0, "pause": 0.01} | options
    download([f"{server.address}/a.bin"], folder / "a.bin", **options)
    return folder / "a.bin"


@pytest.fixture(autouse=True)
def _serve(server: Server) -> None:
    server.files["/a.bin"] = CONTENT


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("length", [True, False])
def test_a_file_arrives_whole_and_says_how_far_it_is(length: bool, server: Server, tmp_path: Path) -> None:
    server.length = length
    seen: list[tuple[str, int, int | None]] = []
    assert get(server, tmp_path / "new", progress=lambda *now: seen.append(now)).read_bytes() == CONTENT
    assert left(tmp_path / "new") == {"a.bin"}
    assert seen[-1] == ("a.bin", 600_000, 600_000 if length else None)
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})


def test_a_file_that_is_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    get(server, tmp_path)
    assert len(server.asked) == 1


def test_a_file_of_that_name_with_another_content_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(ValueError, match=rf"fetch: {tmp_path}/a.bin must have md5 {MD5}, got another file"):
        get(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"mine" and not server.asked


def test_a_broken_transfer_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cut = [200_000, 300_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    tag = server.tag("/a.bin")
    expected = [(None, None), ("bytes=200000-", tag), ("bytes=500000-", tag)]
    assert [(wanted, condition) for _, wanted, condition in server.asked] == expected
    assert left(tmp_path) == {"a.bin"}


def test_a_later_call_goes_on_where_the_last_one_broke(server: Server, tmp_path: Path) -> None:
    server.cut = [250_000]
    with pytest.raises(
        OSError, match=r"250000 of 600000 bytes \(1 attempts\); 250000 bytes of it are kept in"
    ):
        get(server, tmp_path, attempts=1)
    assert left(tmp_path) == {"a.bin.part", "a.bin.part.etag"}
    get(server, tmp_path)
    assert server.asked[1][1:] == ("bytes=250000-", server.tag("/a.bin"))
    assert left(tmp_path) == {"a.bin"}


def test_an_interrupted_call_is_taken_up(server: Server, tmp_path: Path) -> None:
    def interrupt(name: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, progress=interrupt)
    arrived = (tmp_path / "a.bin.part").stat().st_size
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert 0 < arrived < 600_000 and server.asked[1][1] == f"bytes={arrived}-"


def test_chunks_that_break_off_are_noticed(server: Server, tmp_path: Path) -> None:
    server.length, server.cut = False, [250_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut = False, [400_000]
    seen: list[int] = []
    assert get(server, tmp_path, progress=lambda name, done, total: seen.append(done)).read_bytes() == CONTENT
    assert server.asked[1][1] == "bytes=400000-" and min(seen[seen.index(400_000) + 1 :]) < 400_000


def test_a_file_that_changed_meanwhile_starts_anew(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"], server.cut = CONTENT[::-1], [250_000]
    with pytest.raises(OSError, match="250000 of 600000 bytes"):
        get(server, tmp_path, attempts=1)
    server.files["/a.bin"] = CONTENT
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in server.asked] == [None, "bytes=250000-"]  # answered with the whole


def test_a_rest_that_fits_no_more_starts_anew_once(server: Server, tmp_path: Path) -> None:
    server.etag = False
    for rest in (b"of another file", CONTENT + b"too much", CONTENT):
        (tmp_path / "a.bin.part").write_bytes(rest)
        assert get(server, tmp_path).read_bytes() == CONTENT
        assert left(tmp_path) == {"a.bin"}
        (tmp_path / "a.bin").unlink()
    ranges = [wanted for _, wanted, _ in server.asked]
    assert ranges == ["bytes=15-", None, "bytes=600008-", None, "bytes=600000-"]


def test_a_corrupted_file_is_deleted_and_named(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT[:-1] + b"?"
    with pytest.raises(
        ValueError, match=rf"fetch: a.bin from {server.address}/a.bin must have md5 {MD5}, got"
    ):
        get(server, tmp_path)
    assert left(tmp_path) == set() and len(server.asked) == 1


@pytest.mark.parametrize("code", [404, 403, 410])
def test_what_the_server_has_not_is_one_line_at_once(code: int, server: Server, tmp_path: Path) -> None:
    server.codes = [code]
    with pytest.raises(
        OSError, match=rf"fetch: a.bin must be had from an address, got .*a.bin: HTTP {code} \w"
    ):
        get(server, tmp_path)
    assert left(tmp_path) == set() and len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.codes = [503, 500, 429]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 4


def test_attempts_are_counted_in_a_row_and_wait_longer_each_time(server: Server, tmp_path: Path) -> None:
    server.codes = [503, 503, 503]
    started = time.monotonic()
    with pytest.raises(OSError, match=r"HTTP 503 Service Unavailable \(3 attempts\)"):
        get(server, tmp_path, attempts=3, pause=0.1)
    assert time.monotonic() - started > 0.3
    server.codes, server.cut = [0, 503, 0, 503], [10_000, 10_000]
    assert get(server, tmp_path, attempts=3).read_bytes() == CONTENT


def test_a_silent_server_times_out(server: Server, tmp_path: Path) -> None:
    server.delay = 1.0
    started = time.monotonic()
    with pytest.raises(OSError, match=r"nothing came for 0.2 s \(2 attempts\)"):
        get(server, tmp_path, timeout=0.2, attempts=2)
    assert time.monotonic() - started < 1.0


def test_nobody_there_is_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"Connection refused \(2 attempts\)"):
        download(["http://127.0.0.1:9/a"], tmp_path / "a", md5=MD5, attempts=2, pause=0.01)


def test_a_name_that_nobody_knows_is_given_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        OSError, match=r"a must be had from an address, got http://nowhere/a: Name or service not"
    ):
        download(["http://nowhere/a"], tmp_path / "a", md5=MD5, pause=60.0)


def test_the_next_address_is_asked_when_one_fails(server: Server, tmp_path: Path) -> None:
    addresses = [f"{server.address}/none", f"{server.address}/a.bin"]
    download(addresses, tmp_path / "a.bin", md5=MD5)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    with pytest.raises(OSError, match=r"/none: HTTP 404 .*; .*/neither: HTTP 404 "):
        download([addresses[0], f"{server.address}/neither"], tmp_path / "b.bin", md5=MD5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the disk that is always full")
def test_a_full_disk_is_one_line(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    monkeypatch.setattr("litfast.data.download._Part.begin", lambda self, mark: None)  # keeps the link
    line = (
        rf"fetch: {tmp_path}/a.bin.part cannot be written: No space left on device; what has arrived is kept"
    )
    with pytest.raises(OSError, match=line):
        get(server, tmp_path)
    assert len(server.asked) == 1
