"""Services on real sockets for the SDK: one that answers and fails as it is told, and the real one."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from manyeyes import Item
from manyeyes.testing import FakeService

Trouble = Callable[[int], str]
"""The number of a request, from 0 → what becomes of it: "ok", "busy", "down", "gateway", "reset", "cut", "late"."""


@dataclass
class Flaky:
    """A FakeService behind a socket, and what troubles its answers."""

    url: str
    fake: FakeService
    trouble: Trouble = lambda _: "ok"
    retry_after: str = "0"
    max_items: int = 10_000
    late_s: float = 0.3
    most_at_once: int = 0
    troubles: list[str] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients that hang up are what is tested."""


def _handler(flaky: Flaky) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()
    at_once = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal at_once
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with lock:
                at_once += 1
                flaky.most_at_once = max(flaky.most_at_once, at_once)
                what = flaky.trouble(len(flaky.troubles))
                flaky.troubles.append(what)
            if what == "late":
                time.sleep(flaky.late_s)
            answered = self._answer(what, body)
            # Before it is sent: whoever has the answer may call again at once.
            with lock:
                at_once -= 1
            if answered is None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            else:
                self._send(*answered, cut=what == "cut")

        do_GET = do_POST
        do_DELETE = do_POST

        def _answer(self, what: str, body: bytes) -> tuple[int, bytes, dict[str, str]] | None:
            if what == "reset":
                return None
            told = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
            request = httpx.Request(self.command, flaky.url + self.path, headers=told, content=body)
            if what in ("busy", "down", "gateway"):
                status = {"busy": 429, "down": 503, "gateway": 502}[what]
                return status, b"not now", {"Retry-After": flaky.retry_after}
            with lock:
                answer = flaky.fake.handle(request)
                n_items = len(flaky.fake.calls[-1].items)
            if n_items > flaky.max_items:
                document = b'{"code": "request_too_large", "detail": "too many items"}'
                return 413, document, {"Content-Type": "application/problem+json"}
            return answer.status_code, answer.content, {"Content-Type": answer.headers["content-type"]}

        def _send(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = self.close_connection or cut

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def flaky_service(fake: FakeService) -> Iterator[Flaky]:
    """Run a double behind a real socket."""
    flaky = Flaky("", fake)
    server = _Server(("127.0.0.1", 0), _handler(flaky))
    flaky.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield flaky
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def flaky() -> Iterator[Flaky]:
    """Return a double behind a real socket that labels every item with the colour in its text."""
    with flaky_service(colours()) as made:
        yield made


def colours() -> FakeService:
    """Return a double that labels every item by the last word of its text."""
    return FakeService(lambda item: (item.text or "").rpartition(" ")[2] or None, classes=["red", "blue"])


@pytest.fixture
def flaky_services() -> Callable[[FakeService], Any]:
    """Return what runs any double behind a real socket."""
    return flaky_service


PAINT = """
name: paint
description: Colours, by what is said.
classes: [red, blue]
lfs:
  - {name: says_red, kind: keyword, on: text, any: [red, crimson], vote: red}
  - {name: says_blue, kind: keyword, on: text, any: [blue, navy], vote: blue}
  - {name: shelf, kind: metadata, when: "shelf == 'R'", vote: red}
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, blue: blue}, threshold: 0.4}
primitives: {toy: {}}
"""


@pytest.fixture(scope="session")
def _one_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def manyeyes_home(_one_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give all tests here one home: a service outlives the test in which it opens its cache."""
    monkeypatch.setenv("MANYEYES_HOME", str(_one_home))
    return _one_home


@pytest.fixture(scope="session")
def paint() -> str:
    """Return a recipe that needs no model."""
    return PAINT


@contextmanager
def real_service(folder: Path, **options: Any) -> Iterator[str]:
    """Run a service with a store in a folder, on a free port; give its address."""
    from manyeyes.service.app import create_app, listen, make_server
    from manyeyes.service.settings import ServiceSettings

    recipes = folder / "recipes"
    recipes.mkdir(exist_ok=True)
    (recipes / "folder.yaml").write_text(PAINT.replace("name: paint", "name: folder"))
    settings = ServiceSettings(
        recipes_dir=recipes, port=0, store_url=f"sqlite:///{folder / 'store.db'}", **options
    )
    listener = listen(settings)
    server = make_server(create_app(settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive(), "the server does not stop"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a real service that stores what it labels."""
    from manyeyes.search import Finder

    folder = tmp_path_factory.mktemp("service")
    words = [Item(colour, text=f"a {colour} wall") for colour in ("red", "blue", "green")]
    Finder(clip="toy", on="text").index(words).save(folder / "indexes" / "walls")
    options = {"max_items": 400, "allowed_models": ("toy",), "indexes_dir": folder / "indexes"}
    with real_service(folder, **options) as address:
        yield address
