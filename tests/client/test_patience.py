"""When calls are sent again, and when they are given up: the engine by itself, and over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from manyeyes import AsyncClient, Client
from manyeyes.client.calls import Answer
from manyeyes.client.patience import (
    MAX_WAIT_S,
    Patience,
    Send,
    Tally,
    Wait,
    attempts,
    retry_after_s,
)
from manyeyes.errors import (
    DeadlineExceeded,
    IdempotencyConflict,
    ManyeyesError,
    Overloaded,
    RateLimited,
    ServiceFailed,
    ServiceUnavailable,
    by_code,
)
from manyeyes.service.errors import STATUS
from manyeyes.testing import FakeService, status_of

Outcome = Answer | httpx.TransportError


def _answer(status: int, code: str = "", **headers: str) -> Answer:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    if not code:
        return Answer(status, told, b"", "http://s")
    told["content-type"] = "application/problem+json"
    return Answer(status, told, json.dumps({"code": code, "detail": "told"}).encode(), "http://s")


def _run(
    outcomes: Iterator[Outcome], patience: Patience, *, took_s: float = 0.0, **options: Any
) -> tuple[Answer | ManyeyesError, list[Send | Wait]]:
    """Run the engine against outcomes and a clock of its own; return what it came to and what it asked for."""
    now = 0.0
    asked: list[Send | Wait] = []
    options = {"repeats": False, "rng": random.Random(3), "tally": Tally()} | options
    steps = attempts(patience, base_url="http://s", clock=lambda: now, **options)
    try:
        step = next(steps)
        while True:
            asked.append(step)
            if isinstance(step, Send):
                now += took_s
                step = steps.send(next(outcomes))
            else:
                now += step.seconds
                step = steps.send(None)
    except StopIteration as done:
        return done.value, asked
    except ManyeyesError as error:
        return error, asked


_OUTCOMES = st.sampled_from(
    [
        _answer(200),
        _answer(404),
        _answer(429, retry_after="2"),
        _answer(503),
        _answer(502),
        _answer(504, "deadline_exceeded"),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
    ]
)


@given(
    outcomes=st.lists(_OUTCOMES, min_size=12, max_size=12),
    max_retries=st.integers(0, 10),
    deadline_s=st.none() | st.floats(0.5, 30),
    repeats=st.booleans(),
    once=st.booleans(),
)
def test_attempts_end_within_their_bounds(
    outcomes: list[Outcome], max_retries: int, deadline_s: float | None, repeats: bool, once: bool
) -> None:
    patience = Patience(timeout_s=5, deadline_s=deadline_s, max_retries=max_retries)
    tally = Tally()
    result, asked = _run(iter(outcomes), patience, took_s=0.1, repeats=repeats, once=once, tally=tally)
    sent = [step for step in asked if isinstance(step, Send)]
    waited = [step.seconds for step in asked if isinstance(step, Wait)]
    assert 1 <= len(sent) <= max_retries + 1
    assert len(waited) == len(sent) - 1
    assert (tally.seen.attempts, tally.seen.retries) == (len(sent), len(sent) - 1)
    assert tally.seen.waited_s == pytest.approx(sum(waited))
    assert all(0 < step.timeout_s <= 5 for step in sent)
    if deadline_s is not None:
        assert sum(waited) + 0.1 * (len(sent) - 1) < deadline_s
    final = outcomes[len(sent) - 1]
    if isinstance(result, Answer):
        assert result is final
    elif isinstance(result, DeadlineExceeded):
        assert deadline_s is not None
    else:
        assert isinstance(result, ServiceUnavailable) and isinstance(final, httpx.TransportError)
    # Nothing that succeeded or was refused for good was asked again.
    assert all(
        not isinstance(o, Answer) or o.status in (429, 502, 503, 504) for o in outcomes[: len(sent) - 1]
    )
    if once:
        assert not any(isinstance(o, httpx.ReadError) for o in outcomes[: len(sent) - 1])


def test_waits_grow_and_stand_on_what_was_asked() -> None:
    _, asked = _run(iter([_answer(503)] * 9), Patience(max_retries=8))
    waits = [step.seconds for step in asked if isinstance(step, Wait)]
    assert all(0.125 * 2**n <= wait <= min(MAX_WAIT_S, 0.25 * 2**n) for n, wait in enumerate(waits))
    _, asked = _run(iter([_answer(429, retry_after="7"), _answer(200)]), Patience())
    assert isinstance(asked[1], Wait) and asked[1].busy
    assert 7 < asked[1].seconds < 7.3


def test_a_date_to_come_back_is_honoured() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=20)
    assert 18 < retry_after_s(_answer(503, retry_after=format_datetime(soon, usegmt=True))) <= 20
    assert retry_after_s(_answer(503, retry_after="²")) == 0


def test_a_slow_call_is_asked_for_again_only_where_it_is_known_again() -> None:
    slow = httpx.ReadTimeout("slow")
    result, _ = _run(iter([slow, _answer(200)]), Patience())
    assert isinstance(result, ServiceUnavailable)
    under_way = _answer(409, IdempotencyConflict.code, retry_after="1")
    result, asked = _run(iter([slow, under_way, under_way, _answer(200)]), Patience(), repeats=True)
    assert isinstance(result, Answer) and result.status == 200
    assert len(asked) == 7
    # Somebody else's call under the same key is somebody else's.
    result, asked = _run(iter([under_way]), Patience(), repeats=True)
    assert isinstance(result, Answer) and result.status == 409


def test_a_deadline_counts_attempts_and_waits() -> None:
    patience = Patience(timeout_s=60, deadline_s=10, max_retries=50)
    result, asked = _run(iter([_answer(429, "overloaded", x_request_id="r1")] * 60), patience, took_s=1)
    assert isinstance(result, DeadlineExceeded)
    assert isinstance(result, TimeoutError)
    assert (result.status, result.request_id) == (429, "r1")
    assert result.attempts == sum(isinstance(step, Send) for step in asked) < 8
    assert "overloaded" in str(result)
    sends = [step.timeout_s for step in asked if isinstance(step, Send)]
    assert sends[0] == 10 and sends == sorted(sends, reverse=True)


@pytest.mark.parametrize(
    "wrong", [{"timeout_s": 0}, {"deadline_s": -1}, {"max_retries": -1}, {"timeout_s": float("nan")}]
)
def test_impossible_patience_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 0|0 or more"):
        Client(**wrong)


# Over sockets


@contextmanager
def _wire(respond: Callable[[Any, int], None]) -> Iterator[str]:
    """Run a server that writes raw bytes, for what no HTTP server would send."""
    count = 0

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            nonlocal count
            while (line := self.rfile.readline()).strip():
                head = {line.decode().lower()}
                while (line := self.rfile.readline()).strip():
                    head.add(line.decode().lower())
                length = next((h.split(":")[1] for h in head if h.startswith("content-length")), "0")
                self.rfile.read(int(length))
                count += 1
                try:
                    respond(self, count)
                except OSError:
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _both(url: str, **options: Any) -> Iterator[Callable[[], Any]]:
    """Yield, for each kind of client, what lists the recipes."""

    def over_threads() -> Any:
        with Client(url, **options) as client:
            return client.recipes()

    def over_tasks() -> Any:
        async def run() -> Any:
            async with AsyncClient(url, **options) as client:
                return await client.recipes()

        return asyncio.run(run())

    yield from (over_threads, over_tasks)


def test_an_answer_that_trickles_ends_in_time() -> None:
    def trickle(handler: Any, _: int) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.02)

    with _wire(trickle) as url:
        for ask in _both(url, timeout_s=0.4):
            began = time.monotonic()
            with pytest.raises(ServiceUnavailable, match=r"0\.4 s"):
                ask()
            assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("zstd", zstandard.compress)], ids=["gzip", "zstd"]
)
def test_encoded_answers_are_read(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    body = encode(b'{"recipes": [{"name": "r"}], "broken": []}')

    def respond(handler: Any, _: int) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
        handler.wfile.write(head.encode() + body)

    with _wire(respond) as url:
        for ask in _both(url):
            assert ask() == [{"name": "r"}]


def test_a_broken_encoding_is_named_so() -> None:
    def respond(handler: Any, _: int) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope")

    with _wire(respond) as url:
        for ask in _both(url):
            with pytest.raises(ServiceFailed, match="encoding"):
                ask()
        with Client(url) as client:
            assert client.healthy() is False


def test_garbage_instead_of_http_is_tried_again(flaky: Any) -> None:
    def respond(handler: Any, count: int) -> None:
        body = b'{"recipes": [], "broken": []}'
        good = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        handler.wfile.write(b"\x00\x01garbage\r\n\r\n" if count % 2 else good)
        if count % 2:
            handler.connection.close()
            raise OSError

    with _wire(respond) as url:
        for ask in _both(url):
            assert ask() == []


def test_connections_are_kept_and_counted(flaky: Any) -> None:
    opened: list[Any] = []
    seen = flaky.fake.handle

    with Client(flaky.url, max_connections=3) as client:
        pool = client._http._transport._pool  # type: ignore[attr-defined]
        flaky.fake.handle = lambda request: (opened.append(len(pool.connections)), seen(request))[1]
        threads = [threading.Thread(target=lambda: client.label(["a"], recipe="r")) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.stats.calls == 12
    assert max(opened) <= 3


# What refusals carry


@pytest.mark.parametrize("kind", by_code().values(), ids=list(by_code()))
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_every_code_comes_back_as_its_class_with_what_the_service_said(
    kind: type[ManyeyesError], is_async: bool
) -> None:
    assert status_of(kind("x")) == STATUS[kind.code]
    fake = FakeService()
    fake.fail(kind("what went wrong"), times=5)

    async def over_tasks() -> None:
        async with fake.async_client() as client:
            await client.label(["a"], recipe="r")

    def ask() -> None:
        if is_async:
            asyncio.run(over_tasks())
        else:
            fake.client().label(["a"], recipe="r")

    with pytest.raises(kind, match="what went wrong") as caught:
        ask()
    error = caught.value
    assert type(error) is kind
    assert error.status == STATUS[kind.code]
    assert error.attempts == (5 if error.status in (429, 502, 503, 504) else 1)
    assert error.request_id == f"fake-{error.attempts}"
    assert error.problem["code"] == kind.code


def test_an_error_that_never_left_this_machine_says_so() -> None:
    error = Overloaded("x")
    assert (error.status, error.request_id, error.attempts, dict(error.problem)) == (None, None, 0, {})


def test_options_of_a_copy_are_its_own_and_its_connections_are_shared() -> None:
    fake = FakeService()
    fake.fail(RateLimited("slow down"), times=2)
    client = fake.client()
    hasty = client.with_options(max_retries=0, timeout_s=1)
    with pytest.raises(RateLimited):
        hasty.recipes()
    assert client.recipes() == []
    assert client.stats.retries == 1
    assert hasty.stats == client.stats
