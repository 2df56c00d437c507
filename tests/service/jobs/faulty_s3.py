"""A real S3 server (moto) behind a proxy that fails as buckets do: by a seeded plan, the same for every run.

Whether a request fails depends on the seed, its method, its path and how often these came before, and on nothing else:
so threads and processes may come in any order.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Literal, TypeAlias

Named: TypeAlias = Literal[
    "error", "slow_down", "reset", "hang", "half", "lost", "lost_hang", "unconditional"
]
Fault: TypeAlias = Named | tuple[int, str]
"""What may happen to a request.

error: 500, and nothing done. slow_down: 503, and nothing done. reset: the connection ends without an answer. hang: no
answer until long after the client gave up. half: of the answer's body, half. lost: it is done, but the answer is a 500.
lost_hang: it is done, and there is no answer. unconditional: it is done, but `If-None-Match` is passed over. A status
and a code: this is the answer, and nothing is done.
"""
FAULTS: Final[tuple[Named, ...]] = ("error", "slow_down", "reset", "hang", "half", "lost", "lost_hang")
Plan: TypeAlias = Callable[[str, str, int], Fault | None]
"""Method, path, how often both came before → what happens."""

PAGE: Final = 100
"""Names in a page of a listing; S3 itself gives a thousand."""
_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "host", "te", "trailer", "upgrade", "expect"}
_REFUSALS: Final[Mapping[Fault, tuple[int, str]]] = {
    "error": (500, "InternalError"),
    "slow_down": (503, "SlowDown"),
}
_ERROR: Final = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>on purpose</Message></Error>"


def seeded(seed: int, rate: float, faults: tuple[Fault, ...] = FAULTS, *, at_most: int = 3) -> Plan:
    """Return a plan by which some requests fail, none of them more often than ``at_most``."""

    def plan(method: str, path: str, before: int) -> Fault | None:
        if before >= at_most:
            return None
        digest = hashlib.sha256(f"{seed} {method} {path} {before}".encode()).digest()
        if int.from_bytes(digest[:4], "big") >= rate * 2**32:
            return None
        return faults[digest[4] % len(faults)]

    return plan


def nothing(method: str, path: str, before: int) -> Fault | None:
    """Fail never."""
    del method, path, before
    return None


@dataclass
class FaultyS3:
    """A server with a proxy before it. plan: may be set at any time. happened: fault → how often. asked: method → …."""

    address: str
    straight: str
    hang_s: float = 3.0
    plan: Plan = nothing
    happened: Counter[Fault] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    _before: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def env(self, *, straight: bool = False) -> dict[str, str]:
        """Return the environment of a client; ``straight`` past the faults."""
        return {
            "AWS_ENDPOINT_URL": self.straight if straight else self.address,
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-see",
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        """Make a bucket, past the faults."""
        request = urllib.request.Request(f"{self.straight}/{name}", method="PUT")
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200

    def forget(self) -> None:
        """Count from 0 again, and fail no more."""
        with self._lock:
            self.plan = nothing
            for counter in (self.happened, self.asked, self._before):
                counter.clear()

    def decide(self, method: str, path: str) -> Fault | None:
        """Return what is to happen to a request, and count it."""
        path = re.sub(r"uploadId=[^&]*", "uploadId=", path)  # which is another one for each try
        with self._lock:
            before = self._before[method, path]
            self._before[method, path] += 1
            self.asked[method] += 1
            fault = self.plan(method, path, before)
            if fault is not None:
                self.happened[fault] += 1
        return fault


@contextmanager
def faulty_s3(*, hang_s: float = 3.0) -> Iterator[FaultyS3]:
    """Run a server in a process of its own, and a proxy in threads of this one; both listen on this machine alone."""
    with _server() as straight:
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        proxy.daemon_threads = True
        proxy.block_on_close = False
        s3 = FaultyS3(f"http://127.0.0.1:{proxy.server_address[1]}", straight, hang_s)
        proxy.s3 = s3  # type: ignore[attr-defined]
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield s3
        finally:
            proxy.shutdown()
            thread.join()
            proxy.server_close()


@contextmanager
def _server() -> Iterator[str]:
    code = (
        "import sys; from moto.server import ThreadedMotoServer as S; s = S('127.0.0.1', 0, verbose=False); s.start();"
        "print(s.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Two conditional writes at once are one after the other, as in S3; moto looks first and writes then.
    _one_by_one: Final = threading.Lock()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def do_any(self) -> None:
        s3: FaultyS3 = self.server.s3  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = s3.decide(self.command, self.path)
        if isinstance(fault, tuple) or fault in _REFUSALS:
            self._refuse(*(fault if isinstance(fault, tuple) else _REFUSALS[fault]))
            return
        if fault in ("reset", "hang"):
            time.sleep(s3.hang_s if fault == "hang" else 0)
            self.close_connection = True
            return
        if fault == "unconditional":
            del self.headers["If-None-Match"]
        status, headers, answer = self._forward(s3, body)
        if fault == "lost":
            self._refuse(500, "InternalError")
        elif fault == "lost_hang":
            time.sleep(s3.hang_s)
            self.close_connection = True
        else:
            self._answer(status, headers, answer, half=fault == "half")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

    def _forward(self, s3: FaultyS3, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        upstream = http.client.HTTPConnection(s3.straight.removeprefix("http://"), timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        conditional = "If-None-Match" in self.headers and self.command == "PUT"
        try:
            with self._one_by_one if conditional else nullcontext():
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, *, half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {*_HOP, "content-length"}:
                self.send_header(name, value)
        length = len(body)
        if self.command == "HEAD":
            length = int({name.lower(): value for name, value in headers.items()}.get("content-length", 0))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)
        self.close_connection = self.close_connection or half

    def _refuse(self, status: int, code: str) -> None:
        body = b"" if self.command == "HEAD" else _ERROR.format(code=code).encode()
        self._answer(status, {"Content-Type": "application/xml"}, body)
