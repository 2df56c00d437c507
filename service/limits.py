"""What stands between a socket and the routes: request ids, the log line, keys, and caps on bodies.

Plain ASGI, so that a body is counted while it streams, and a caller without a key costs nothing but headers.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any, Final

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyeyes.errors import AccessDenied, RequestTooLarge, ServiceFailed, ServiceUnavailable
from manyeyes.service.errors import STATUS, Refusal, problem, problem_of
from manyeyes.service.settings import ServiceSettings

log: Final = logging.getLogger("manyeyes.service")

OPEN_PATHS: Final = frozenset({"/healthz"})
"""What is answered without a key: probes have none, and the answer says nothing."""

_LINGER_S: Final = 5.0
_LINGER_BYTES: Final = 512 * 2**20
_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")


class RequestLog:
    """Outermost: names each request, writes one JSON log line for it, and turns a bug into a problem document.

    A route adds facts to the line through ``scope["state"]["facts"]``; what callers send never goes into it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        brought = headers.get("x-request-id", "")
        request_id = brought if _ID.fullmatch(brought) else uuid.uuid4().hex
        facts: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=request_id, facts=facts)
        started = time.perf_counter()
        status: int | None = None
        unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

        async def receive_watched() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and bool(message.get("more_body", False))
            return message

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                answered = MutableHeaders(scope=message)
                answered["X-Request-Id"] = request_id
                if unread:
                    # Else the server would read on, to reach the next request on this connection.
                    answered["Connection"] = "close"
            elif unread and not message.get("more_body", False):
                # Closing now would reset the connection, and a caller who still sends would never see the answer.
                await send({**message, "more_body": True})
                with anyio.move_on_after(_LINGER_S):
                    left = _LINGER_BYTES
                    while unread and left > 0:
                        left -= len((await receive_watched()).get("body", b""))
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            await self.app(scope, receive_watched, send_named)
        except ClientDisconnect:
            facts["client"] = "gone"
        except Exception:
            log.exception("request %s failed", request_id)
            if status is None:
                await _bug(request_id)(scope, receive, send_named)
        finally:
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round((time.perf_counter() - started) * 1000, 1),
                **facts,
            }
            log.info("%s", json.dumps(line))


def _bug(request_id: str) -> Response:
    detail = f"something went wrong inside the service; its log says more under request {request_id}"
    return problem(STATUS[ServiceFailed.code], ServiceFailed.code, detail, request_id=request_id)


class KeyCheck:
    """Lets in who brings a configured key, as ``Authorization: Bearer …`` or ``X-Api-Key: …``; probes need none."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            key = key_of(Headers(scope=scope))
            if not self.settings.admits(key):
                refused = AccessDenied(
                    f"{'this key is not one of the configured keys' if key else 'a key is needed here'}; send"
                    " `Authorization: Bearer <key>` with a key that the operator of this service gave you"
                )
                await problem_of(refused, request_id=_request_id(scope))(scope, receive, send)
                return
        await self.app(scope, receive, send)


def key_of(headers: Headers) -> str | None:
    """Return the key that a request brings, or None."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or None


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
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            refused = _too_large(int(announced), limit)
            await problem_of(refused, request_id=_request_id(scope))(scope, receive, send)
            return
        mine = 0
        complete = False
        deadline = anyio.current_time() + self.settings.body_timeout_s

        async def receive_counted() -> Message:
            nonlocal mine, complete
            if complete:  # Only a disconnect can follow, and whoever waits for that has no deadline.
                return await receive()
            message: MutableMapping[str, Any] | None = None
            with anyio.move_on_after(deadline - anyio.current_time()):
                message = await receive()
            if message is None:
                late = f"the body did not arrive within {self.settings.body_timeout_s:g} s; send fewer items at once"
                raise HTTPException(408, late)
            n_bytes = len(message.get("body", b""))
            complete = not message.get("more_body", False)
            mine += n_bytes
            self.held_bytes += n_bytes
            if mine > limit:
                raise _too_large(mine, limit)
            if self.held_bytes > self.settings.max_held_bytes:
                raise Refusal(
                    ServiceUnavailable(
                        f"the service holds as many bytes of requests as it may ({self.settings.max_held_bytes:,});"
                        " send this again in a moment"
                    )
                )
            return message

        try:
            await self.app(scope, receive_counted, send)
        finally:
            self.held_bytes -= mine


def _too_large(n_bytes: int, limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"the request holds at least {n_bytes:,} bytes; this service takes {limit:,} at once. Send the items in several"
        " calls, or smaller images"
    )


def _request_id(scope: Scope) -> str | None:
    found = scope.get("state", {}).get("request_id")
    return found if isinstance(found, str) else None
