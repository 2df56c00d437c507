"""Request ids, one log line a request, and the last stop of bugs."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any, Final

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyeyes.errors import ServiceFailed
from manyeyes.service.errors import STATUS, problem
from manyeyes.service.operations.logs import STATE

log: Final = logging.getLogger("manyeyes.service")

_LINGER_S: Final = 5.0
_LINGER_BYTES: Final = 512 * 2**20
_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")


def request_id_in(scope: Scope) -> str | None:
    """Return the id that RequestLog gave to a request."""
    found = scope.get("state", {}).get("request_id")
    return found if isinstance(found, str) else None


def request_id_for(headers: Headers) -> str:
    """Return the id of a request: the one that it brought, or a new one."""
    brought = headers.get("x-request-id", "")
    return brought if _ID.fullmatch(brought) else uuid.uuid4().hex


class RequestLog:
    """Names each request, writes one log line for it, and turns a bug into a problem document.

    A route adds facts to the line through ``scope["state"]["facts"]``; what callers send never goes into it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_for(headers)
        facts: dict[str, Any] = {}
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, facts=facts, sent_secrets=secrets_in(headers))
        about = STATE.set(state)
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
                **({"code": state["problem"]} if "problem" in state else {}),
                **facts,
            }
            log.info("%s %s: %s", line["method"], line["path"], status or "no answer", extra={"facts": line})
            STATE.reset(about)


def secrets_in(headers: Headers) -> tuple[str, ...]:
    """Return what a request brings to say who it is, so that no line about the request shows it."""
    brought = [
        headers.get(name, "") for name in ("authorization", "x-api-key", "cookie", "proxy-authorization")
    ]
    return tuple(secret for value in brought if value for secret in (value, value.rpartition(" ")[2]))


def _bug(request_id: str) -> Response:
    detail = f"something went wrong inside the service; its log says more under request {request_id}"
    return problem(STATUS[ServiceFailed.code], ServiceFailed.code, detail, request_id=request_id)
