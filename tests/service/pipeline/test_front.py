"""Saying no before a request comes to the app: the same words, and only to those who may call at all."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from manyeyes.service.app import create_app, listen, make_server
from manyeyes.service.settings import ServiceSettings

KEY = "a-key-that-is-long-enough"
READER = "another-key-that-is-long"


@contextmanager
def full(front: bool = True, **settings: Any) -> Iterator[tuple[str, Any]]:
    """Run a service that has as much to do as it may have; give its address and its app."""
    made = ServiceSettings(max_waiting=1, port=0, **settings)
    app = create_app(made)
    app.state.service.engine.admission.enter(1, 1)
    told: list[str] = []
    if front:
        answered = app.state.front.answered
        app.state.front.answered = lambda refused: (told.append(refused.code), answered(refused))[1]
    else:
        app.state.front = None
    app.state.told = told
    listener = listen(made)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", app
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(timeout=30)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYEYES_HOME", str(tmp_path))


def test_the_answer_is_that_of_the_app() -> None:
    found = []
    for front in (True, False):
        with full(front) as (url, app), httpx.Client(base_url=url) as http:
            for _ in range(3):
                answer = http.post("/v1/label", content=b"x" * 60_000, headers={"X-Request-Id": "mine"})
            assert len(app.state.told) == (3 if front else 0)
            headers = {name: value for name, value in answer.headers.items() if name != "date"}
            found.append((answer.status_code, headers, answer.json()))
            page = http.get("/metrics").text
            assert 'http_requests_total{method="POST",route="/v1/label",status="429"} 3.0' in page
            assert 'http_problems_total{code="overloaded"} 3.0' in page
    assert found[0] == found[1]
    assert found[0][0] == 429
    assert found[0][2]["request_id"] == found[0][1]["x-request-id"] == "mine"


def test_who_may_not_call_is_told_that_by_the_app() -> None:
    digest = hashlib.sha256(READER.encode()).hexdigest()
    with full(api_keys=f"{KEY},sha256:{digest}=read") as (url, app), httpx.Client(base_url=url) as http:

        def ask(**headers: str) -> int:
            return http.post("/v1/label", content=b"{}", headers=headers).status_code

        assert ask() == ask(Authorization="Bearer wrong") == 401
        assert ask(Authorization=f"Bearer {KEY}") == 429
        assert app.state.told == []  # a key is first seen by whoever counts wrong ones
        assert ask(Authorization=f"Bearer {KEY}") == ask(**{"X-Api-Key": KEY}) == 429
        assert len(app.state.told) == 2
        assert ask(Authorization="Bearer wrong") == 401
        for _ in range(2):
            ask(Authorization=f"Bearer {READER}")
        assert len(app.state.told) == 2
    with full() as (url, app), httpx.Client(base_url=url) as http:
        assert http.post("/v1/label", headers={"Host": "evil.example"}).status_code == 403
        assert http.post("/v1/label", headers={"Origin": "http://evil.example"}).status_code == 403
        assert app.state.told == []


@pytest.mark.parametrize(
    "headers", [{"Idempotency-Key": "again"}, {"Transfer-Encoding": "chunked"}, {"Content-Length": "9999999"}]
)
def test_what_is_not_plain_goes_to_the_app(headers: dict[str, str]) -> None:
    with full() as (url, app):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as caller:
            told = "".join(
                f"{name}: {value}\r\n" for name, value in {"Content-Length": "0", **headers}.items()
            )
            if "Transfer-Encoding" in headers:
                told = told.replace("Content-Length: 0\r\n", "")
            caller.sendall(f"POST /v1/label HTTP/1.1\r\nHost: {host}:{port}\r\n{told}\r\n".encode())
            if "Transfer-Encoding" in headers:
                caller.sendall(b"0\r\n\r\n")
            assert caller.recv(100).startswith(b"HTTP/1.1 4")
        assert app.state.told == []


def _answer(caller: socket.socket) -> tuple[bytes, dict[str, Any]]:
    told = b""
    while b"\r\n\r\n" not in told:
        told += caller.recv(65536)
    head, _, body = told.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += caller.recv(65536)
    assert len(body) == length or b"HTTP" in body
    return head, json.loads(body[:length])


@pytest.fixture
def connected() -> Iterator[Callable[[], tuple[socket.socket, bytes]]]:
    """Return a maker of connections to a full service, and the head of a request of 1,000 bytes."""
    with full() as (url, _):
        host, port = url.removeprefix("http://").split(":")
        made: list[socket.socket] = []

        def connect() -> tuple[socket.socket, bytes]:
            made.append(socket.create_connection((host, int(port)), timeout=20))
            return made[-1], f"POST /v1/label HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n".encode()

        yield connect
        for one in made:
            one.close()


def test_a_caller_who_trickles_is_answered_and_then_closed(connected: Any) -> None:
    caller, head = connected()
    started = time.monotonic()
    caller.sendall(head + b"\r\n" + b"x" * 10)
    told, problem = _answer(caller)
    assert 0.3 < time.monotonic() - started < 2
    assert problem["code"] == "overloaded"
    assert b"connection: close" in told
    caller.sendall(b"x" * 990)  # who still writes has read the answer
    assert caller.recv(10) == b""
    silent, head = connected()
    silent.sendall(head + b"\r\n")
    assert b"connection: close" in _answer(silent)[0]
    assert silent.recv(10) == b""
    assert time.monotonic() - started < 15


def test_connections_are_used_again_and_closed_where_the_caller_wants(connected: Any) -> None:
    caller, head = connected()
    for _ in range(3):
        caller.sendall(head + b"\r\n")
        time.sleep(0.02)
        caller.sendall(b"x" * 1000)
        assert b"connection: close" not in _answer(caller)[0]
    caller.sendall((head + b"\r\n" + b"x" * 1000) * 3)  # one behind the other
    told = b""
    while told.count(b"HTTP/1.1 429") < 3 or not told.endswith(b"}"):
        told += caller.recv(65536)
    caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert caller.recv(1000).startswith(b"HTTP/1.1 200")
    caller.sendall(head + b"Connection: close\r\n\r\n" + b"x" * 1000)
    assert b"connection: close" in _answer(caller)[0]
    assert caller.recv(10) == b""


def test_those_who_hang_up_leave_nothing(connected: Any) -> None:
    for _ in range(50):
        caller, head = connected()
        caller.sendall(head + b"\r\nxx")
        caller.close()
    caller, head = connected()
    caller.sendall(head + b"\r\n" + b"x" * 1000)
    assert _answer(caller)[1]["status"] == 429
