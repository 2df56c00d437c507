"""A service in this process, for clients that need no socket."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx


class InProcess(httpx.BaseTransport):
    """Runs an ASGI app for a synchronous client, on an event loop of its own thread."""

    def __init__(self, app: Any) -> None:
        self._asgi = httpx.ASGITransport(app=app)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="manyeyes-in-process")
        self._loop = asyncio.Runner()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request; several at once wait for each other."""
        whole = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        return self._thread.submit(lambda: self._loop.run(self._answer(whole))).result()

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._asgi.handle_async_request(request)
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        # As it came, encoded or not: who asked undoes the encoding, as with any other transport.
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=_Whole([part async for part in answer.stream])
        )

    def close(self) -> None:
        """End the event loop and its thread."""
        self._thread.submit(self._loop.close).result()
        self._thread.shutdown()


class _Whole(httpx.SyncByteStream):
    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Any:
        return iter(self._parts)
