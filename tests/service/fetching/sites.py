"""A web server on this machine that serves what fetching has to cope with, and counts who asked."""

from __future__ import annotations

import io
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


def png(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class Site:
    """host, port: where it listens. asked: the path and the Host header of every request. turned: path → Location."""

    host: str
    port: int
    asked: list[tuple[str, str]] = field(default_factory=list)
    turned: dict[str, str] = field(default_factory=dict)


@contextmanager
def a_site(host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """Run the server: /red.png, /big (1 GiB without a length), /said (a length beyond all limits), /slow, …"""
    site = Site(host, 0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Host", "")))
            path = self.path.partition("?")[0]
            if path in site.turned:
                self._answer(302, b"", Location=site.turned[path])
            elif path == "/red.png":
                self._answer(200, png())
            elif path == "/big":
                self.send_response(200)
                self.send_header("Connection", "close")
                self.end_headers()
                for _ in range(1024):
                    self.wfile.write(b"x" * 2**20)
            elif path == "/said":
                self.send_response(200)
                self.send_header("Content-Length", str(10**15))
                self.end_headers()
            elif path == "/slow":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                for _ in range(600):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.1)
            elif path == "/cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x")
                self.close_connection = True
            elif path == "/gzip":
                self._answer(200, b"\x1f\x8b", **{"Content-Encoding": "gzip"})
            elif path == "/fails":
                self._answer(500, b"")
            elif path.startswith("/loop"):
                self._answer(302, b"", Location=f"/loop{len(path)}")
            else:
                self._answer(404, b"")

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # whoever asked has hung up, which is what many of the tests are about

    server = Server((host, 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
