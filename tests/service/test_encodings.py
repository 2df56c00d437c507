"""Bodies and answers in gzip and zstd: the same contents, limits that count what they become, and no bombs."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from manyeyes.service.errors import handle_errors
from manyeyes.service.middleware.bodies import BodyLimit
from manyeyes.service.middleware.encodings import Encodings
from manyeyes.service.middleware.log import RequestLog
from manyeyes.service.settings import ServiceSettings

COMPRESS = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}


def _app(**limits: object) -> Starlette:
    async def echo(request: Request) -> Response:
        body = await request.body()
        return Response(body, headers={"Seen": str(sorted(request.headers))})

    async def answer(request: Request) -> Response:
        headers = {"ETag": '"1"'} if "etag" in request.query_params else {}
        headers |= {"Cache-Control": "no-store"} if "secret" in request.query_params else {}
        return JSONResponse({"text": "a" * int(request.query_params["n"])}, headers=headers)

    async def stream(request: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b'{"a": 1}' * 500

        return StreamingResponse(lines(), media_type="application/json")

    made = ServiceSettings(**limits)
    app = Starlette(
        routes=[
            Route("/echo", echo, methods=["POST"]),
            Route("/answer", answer),
            Route("/stream", stream),
        ],
        middleware=[
            Middleware(RequestLog),
            Middleware(Encodings, settings=made),
            Middleware(BodyLimit, settings=made),
        ],
    )
    handle_errors(app)
    return app


def _ask(app: Starlette, ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            return await ask(client)

    return asyncio.run(run())


def _post(app: Starlette, body: bytes, encoding: str, *, packet: int = 65536) -> httpx.Response:
    async def packets() -> AsyncIterator[bytes]:
        for start in range(0, len(body), packet):
            yield body[start : start + packet]

    return _ask(app, lambda c: c.post("/echo", content=packets(), headers={"Content-Encoding": encoding}))


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.binary(max_size=5000), min_size=1, max_size=4),
    encoding=st.sampled_from(sorted(COMPRESS)),
    packet=st.integers(1, 3000),
)
def test_a_body_is_what_it_was_before(parts: list[bytes], encoding: str, packet: int) -> None:
    body = b"".join(COMPRESS[encoding](part) for part in parts)  # members, and frames, may follow each other
    answer = _post(_app(), body, encoding, packet=packet)
    assert answer.status_code == 200
    assert answer.content == b"".join(parts)
    assert "content-encoding" not in answer.headers["seen"]
    assert "content-length" not in answer.headers["seen"]


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "x-gzip", "GZIP"])
def test_a_large_body_arrives_whole(encoding: str) -> None:
    data = random.Random(1).randbytes(3_000_000) + b"x" * 3_000_000
    assert _post(_app(), COMPRESS["zstd" if encoding == "zstd" else "gzip"](data), encoding).content == data


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "gzip, gzip", "x" * 300])
def test_an_encoding_that_is_not_known_is_refused(encoding: str) -> None:
    refused = _post(_app(), b"x", encoding)
    assert refused.status_code == 415
    assert refused.headers["accept-encoding"] == "zstd, gzip"
    assert refused.json()["code"] == "invalid_request"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_damage_and_a_missing_end_are_refused(encoding: str) -> None:
    body = COMPRESS[encoding](random.Random(1).randbytes(5000))
    wrong_ones = [body[:-1], body[:100], b"x" + body, body + b"rubbish"]
    if encoding == "gzip":  # which has a checksum
        wrong_ones.append(body[:50] + b"\xff" * 50 + body[100:])
    for wrong in wrong_ones:
        refused = _post(_app(), wrong, encoding)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert _post(_app(), b"", encoding).content == b""


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_the_limit_is_of_what_a_body_becomes(encoding: str) -> None:
    app = _app(max_body_bytes=100_000)
    data = random.Random(1).randbytes(50_000)
    assert _post(app, COMPRESS[encoding](data * 2), encoding).status_code == 200
    assert _post(app, COMPRESS[encoding](data * 2 + b"x"), encoding).status_code == 413


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("packet", [100, 65536])
def test_a_bomb_is_refused_and_costs_little(encoding: str, packet: int) -> None:
    bomb = (
        COMPRESS[encoding](bytes(2**20)) * 1500
        if encoding == "zstd"
        else COMPRESS[encoding](bytes(200 * 2**20))
    )
    app = _app()
    tracemalloc.start()
    started = time.perf_counter()
    refused = _post(app, bomb, encoding, packet=packet)
    took_s = time.perf_counter() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (refused.status_code, refused.json()["code"]) == (413, "request_too_large")
    assert "100 times" in refused.json()["detail"]
    assert peak < 64 * 2**20
    assert took_s < 5


def test_members_of_nothing_are_counted_by_what_they_take_on_the_wire() -> None:
    assert _post(_app(max_body_bytes=10_000), gzip.compress(b"") * 1000, "gzip").status_code == 413


def test_a_window_that_is_too_large_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    body = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    refused = _post(_app(), body.compress(b"x" * 10_000_000) + body.flush(), "zstd")
    assert refused.status_code == 422


@pytest.mark.parametrize(
    ("accepted", "got"), [("gzip, br", "gzip"), ("zstd, gzip", "zstd"), ("identity", None)]
)
@pytest.mark.parametrize("n", [10, 2000, 500_000])
def test_answers_are_compressed_where_that_is_worth_it(accepted: str, got: str | None, n: int) -> None:
    answer = _ask(_app(), lambda c: c.get(f"/answer?n={n}", headers={"Accept-Encoding": accepted}))
    assert answer.json() == {"text": "a" * n}
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers.get("content-encoding") == (got if n >= 1024 else None)


def test_what_has_an_etag_or_a_secret_or_streams_stays_as_it_is() -> None:
    for path in ("/answer?n=5000&etag", "/answer?n=5000&secret", "/stream"):
        answer = _ask(_app(), lambda c, path=path: c.get(path, headers={"Accept-Encoding": "gzip"}))
        assert "content-encoding" not in answer.headers
        assert len(answer.content) > 5000


def test_an_answer_has_the_same_json_in_every_encoding() -> None:
    answers = [
        _ask(_app(), lambda c, told=told: c.get("/answer?n=99999", headers={"Accept-Encoding": told})).content
        for told in ("identity", "gzip", "zstd")
    ]
    assert len(set(answers)) == 1
    json.loads(answers[0])
