"""What stands before the routes: ids, the log line, keys, and caps that count while a body streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from manyeyes.service.errors import handle_errors
from manyeyes.service.middleware.bodies import BodyLimit
from manyeyes.service.middleware.keys import KeyCheck
from manyeyes.service.middleware.log import RequestLog
from manyeyes.service.settings import ServiceSettings

KEY = "a-key-that-is-long-enough"


def _app(settings: ServiceSettings) -> Starlette:
    """Return a small app behind the same layers as the service's."""

    async def count(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    async def fail(request: Request) -> PlainTextResponse:
        raise ZeroDivisionError("the secret of the caller")

    app = Starlette(
        routes=[
            Route("/count", count, methods=["POST"]),
            Route("/fail", fail),
            Route("/healthz", lambda _: PlainTextResponse("ok")),
        ],
        middleware=[
            Middleware(RequestLog),
            Middleware(KeyCheck, settings=settings),
            Middleware(BodyLimit, settings=settings),
        ],
    )
    handle_errors(app)
    return app


def _ask(app: ASGIApp, ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            return await ask(client)

    return asyncio.run(run())


async def _chunks(n: int, *, size: int = 256, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    for _ in range(n):
        await asyncio.sleep(pause_s)
        yield b"x" * size


def test_a_body_up_to_the_limit_passes_and_one_byte_more_does_not() -> None:
    app = _app(ServiceSettings(max_body_bytes=1024))
    assert _ask(app, lambda c: c.post("/count", content=b"x" * 1024)).text == "1024"
    refused = _ask(app, lambda c: c.post("/count", content=b"x" * 1025))
    assert (refused.status_code, refused.json()["code"]) == (413, "request_too_large")


def test_a_body_without_a_length_is_counted_while_it_streams() -> None:
    app = _app(ServiceSettings(max_body_bytes=1024))
    assert _ask(app, lambda c: c.post("/count", content=_chunks(4))).text == "1024"
    refused = _ask(app, lambda c: c.post("/count", content=_chunks(5)))
    assert (refused.status_code, refused.headers["content-type"]) == (413, "application/problem+json")


def test_a_length_that_is_a_lie_does_not_help() -> None:
    app = _app(ServiceSettings(max_body_bytes=1024))
    refused = _ask(app, lambda c: c.post("/count", content=_chunks(5), headers={"content-length": "10"}))
    assert refused.status_code == 413
    assert (
        _ask(app, lambda c: c.post("/count", content=_chunks(1), headers={"content-length": "1e9"})).text
        == "256"
    )


def test_all_bodies_together_have_a_limit_and_it_is_given_back() -> None:
    settings = ServiceSettings(max_body_bytes=1024, max_held_bytes=1536)
    app = _app(settings)

    async def together() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            calls = [client.post("/count", content=_chunks(4, pause_s=0.01)) for _ in range(3)]
            statuses = [answer.status_code for answer in await asyncio.gather(*calls)]
            after = await client.post("/count", content=b"x" * 1024)
            return [*statuses, after.status_code]

    statuses = asyncio.run(together())
    assert 429 in statuses[:3]
    assert statuses[3] == 200


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    app = _app(ServiceSettings(body_timeout_s=0.05))
    late = _ask(app, lambda c: c.post("/count", content=_chunks(3, pause_s=0.1)))
    assert (late.status_code, late.json()["title"]) == (408, "Request Timeout")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong-key-wrong-key"}, {"Authorization": KEY}, {"X-Api-Key": "no"}],
)
def test_without_a_key_nothing_opens(headers: dict[str, str]) -> None:
    app = _app(ServiceSettings(api_keys=KEY))
    refused = _ask(app, lambda c: c.post("/count", content=_chunks(3), headers=headers))
    assert (refused.status_code, refused.json()["code"]) == (401, "access_denied")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.headers["connection"] == "close"  # the body was not read
    assert KEY not in refused.text
    assert _ask(app, lambda c: c.get("/no/such/path", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY}"}, {"X-Api-Key": KEY}]
)
def test_a_key_opens_and_probes_need_none(headers: dict[str, str]) -> None:
    app = _app(ServiceSettings(api_keys=KEY))
    assert _ask(app, lambda c: c.post("/count", content=b"abc", headers=headers)).text == "3"
    assert _ask(app, lambda c: c.get("/healthz")).text == "ok"


def test_each_request_has_an_id_and_one_log_line_without_contents(caplog: pytest.LogCaptureFixture) -> None:
    app = _app(ServiceSettings(api_keys=KEY))
    with caplog.at_level(logging.INFO, logger="manyeyes.service"):
        named = _ask(
            app,
            lambda c: c.post(
                "/count?q=private", content=b"private", headers={"X-Request-Id": "mine-1", "X-Api-Key": KEY}
            ),
        )
        forged = _ask(app, lambda c: c.get("/healthz", headers={"X-Request-Id": 'a"b c'}))
    assert named.headers["x-request-id"] == "mine-1"
    assert len(forged.headers["x-request-id"]) == 32
    line = caplog.records[0].facts  # type: ignore[attr-defined]
    assert line.keys() == {"request_id", "method", "path", "status", "ms"}
    assert (line["request_id"], line["path"], line["status"]) == ("mine-1", "/count", 200)
    assert "private" not in caplog.text
    assert KEY not in caplog.text


def test_a_bug_is_a_problem_that_points_to_the_log_and_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = _app(ServiceSettings())
    failed = _ask(app, lambda c: c.get("/fail"))
    assert (failed.status_code, failed.json()["code"]) == (500, "service_failed")
    assert failed.json()["request_id"] in failed.json()["detail"]
    assert "secret" not in failed.text
    assert "ZeroDivisionError" in caplog.text


def test_a_caller_who_leaves_while_sending_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = _app(ServiceSettings())
    sent: list[Message] = []

    async def run() -> None:
        messages: list[Message] = [
            {"type": "http.request", "body": b"abc", "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Message:
            return messages.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/count", "headers": [], "query_string": b""}
        await app(scope, receive, send)

    with caplog.at_level(logging.INFO, logger="manyeyes.service"):
        asyncio.run(run())
    assert sent == []
    assert caplog.records[0].facts["client"] == "gone"  # type: ignore[attr-defined]
