"""A small HTTP server that can be slow, forgetful and broken."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Server:
    """Its files, its habits, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: bool = True
    length: bool = True  # say Content-Length, or send chunks
    cut: list[int] = field(default_factory=list)  # each answer in turn breaks off after so many bytes
    codes: list[int] = field(default_factory=list)  # each answer in turn is this error
    delay: float = 0.0  # seconds before the first byte of the file
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # path, Range, If-Range

    def tag(self, path: str) -> str:
        return f'"{hashlib.md5(self.files[path]).hexdigest()}"'


class Handler(BaseHTTPRequestHandler):
    habits: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        habits, self.close_connection = self.habits, True
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        habits.asked.append((self.path, wanted, condition))
        if habits.codes and (code := habits.codes.pop(0)):
            return self.send_error(code)
        if self.path not in habits.files:
            return self.send_error(404)
        content = habits.files[self.path]
        first = 0
        if wanted and habits.ranges and condition in (None, habits.tag(self.path)):
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if habits.etag:
            self.send_header("ETag", habits.tag(self.path))
        self._send(content[first:], habits.cut.pop(0) if habits.cut else None)

    def _send(self, content: bytes, cut: int | None) -> None:
        if self.habits.length:
            self.send_header("Content-Length", str(len(content)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
            content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        self.end_headers()
        self.wfile.flush()
        time.sleep(self.habits.delay)
        with suppress(ConnectionError):  # a client may hang up
            self.wfile.write(content[:cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    habits = Server()
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"habits": habits}))
    habits.address = f"http://127.0.0.1:{running.server_address[1]}"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield habits
    running.shutdown()
    thread.join()
    running.server_close()
