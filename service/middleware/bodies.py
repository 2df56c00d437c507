"""Caps on bodies, counted while they stream."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyeyes.errors import Overloaded, RequestTooLarge
from manyeyes.service.errors import Refusal, problem_of
from manyeyes.service.middleware.log import request_id_in
from manyeyes.service.settings import ServiceSettings


class BodyLimit:
    """Caps the bytes of one body and of all bodies held at once, counted while they stream, and the time they take.

    The cap is raised inside ``receive``, so it reaches whoever reads the body as one of our own errors.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app = app
        self.settings = settings
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = int(self.settings.max_body_bytes)
        announced = Headers(scope=scope).get("content-length", "")
        n_announced = int(announced) if announced.isdecimal() and len(announced) < 20 else 0
        refused: RequestTooLarge | Refusal | None = None
        if n_announced > limit:
            refused = _too_large(n_announced, limit)
        elif self.held_bytes and self.held_bytes + n_announced > self.settings.max_held_bytes:
            refused = self._full()
        if refused is not None:
            await problem_of(refused, request_id=request_id_in(scope))(scope, receive, send)
            return
        mine = 0
        complete = False

        def hold(n_bytes: int) -> None:
            """Count bytes that this call makes the service hold; fewer with a negative number."""
            nonlocal mine
            mine += n_bytes
            self.held_bytes += n_bytes
            if n_bytes > 0 and mine > limit:
                raise _too_large(mine, limit)
            if n_bytes > 0 and self.held_bytes > self.settings.max_held_bytes:
                raise self._full()

        # What is fetched for a call counts like what came with it.
        scope.setdefault("state", {})["hold"] = hold
        deadline = asyncio.get_running_loop().time() + self.settings.body_timeout_s

        async def receive_counted() -> Message:
            nonlocal complete
            if complete:  # Only a disconnect can follow, and whoever waits for that has no deadline.
                return await receive()
            try:
                # Not anyio's, which costs several times as much, for every packet of every body.
                async with asyncio.timeout_at(deadline):
                    message: MutableMapping[str, Any] = await receive()
            except TimeoutError:
                late = f"the body did not arrive within {self.settings.body_timeout_s:g} s; send fewer items at once"
                raise HTTPException(408, late) from None
            complete = not message.get("more_body", False)
            hold(len(message.get("body", b"")))
            return message

        try:
            await self.app(scope, receive_counted, send)
        finally:
            self.held_bytes -= mine

    def _full(self) -> Refusal:
        return Refusal(
            Overloaded(
                f"the service holds as many bytes of requests as it may ({self.settings.max_held_bytes:,});"
                " send this again in a moment"
            )
        )


def _too_large(n_bytes: int, limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"the request holds at least {n_bytes:,} bytes; this service takes {limit:,} at once. Send the items in several"
        " calls, or smaller images"
    )
