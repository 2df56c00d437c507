"""Calls that are made once however often they are sent: a POST with an ``Idempotency-Key`` is answered again as before.

What a caller sent under a key is known by its route and its body's digest. The answer is kept where it is final; what a
caller is asked to send again (408, 429, 5xx) is not.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import MutableMapping
from typing import Any, Final

import anyio
import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyeyes.errors import IdempotencyConflict, IdempotencyMismatch, InvalidRequest, ManyeyesError
from manyeyes.service.access.callers import LOCAL
from manyeyes.service.access.settings import AccessSettings
from manyeyes.service.errors import Refusal, problem_of
from manyeyes.service.middleware.log import request_id_in
from manyeyes.service.store.records import InFlight, Mismatch, New, Replay
from manyeyes.service.store.store import Store

log: Final = logging.getLogger("manyeyes.service")

MAX_KEY_CHARS: Final = 255
REPLAYED: Final = "Idempotency-Replayed"
_LEASE_S: Final = 30.0
_PASSING: Final = frozenset({408, 409, 425, 429})
"""Refusals that say "not now"; a caller who comes back with the same call is to be heard again."""


class Idempotency:
    """Keeps answers under the keys of callers. Innermost, so that what it reads is counted and decoded already.

    A body is read whole before the call is made: only then is it known whether it is the one that came before. Without
    a store no call changes anything, and keys are not looked at.
    """

    def __init__(self, app: ASGIApp, settings: AccessSettings, store: Store | None) -> None:
        self.app = app
        self.settings = settings
        self.store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        key = headers.get("idempotency-key")
        if key is None or scope["method"] != "POST" or self.store is None:
            await self.app(scope, receive, send)
            return
        try:
            _check(key)
            body = await _read(receive, headers.get("content-type", ""))
            if not body.complete:  # what went wrong is for the route to answer, as without a key
                await self.app(scope, body.receive, send)
                return
            token = await self._begin(scope, key, body)
        except (ManyeyesError, Refusal) as error:
            await problem_of(error, request_id=request_id_in(scope))(scope, receive, send)
            return
        if isinstance(token, Response):
            scope.setdefault("state", {}).setdefault("facts", {})["replayed"] = True
            await token(scope, receive, send)
            return
        await self._make(token, scope, body.receive, send)

    async def _begin(self, scope: Scope, key: str, body: _Body) -> str | Response:
        """Return the token of a call that is to be made, or what it was answered before."""
        store = self.store
        assert store is not None
        caller = scope.get("state", {}).get("caller") or LOCAL
        query = scope.get("query_string", b"").decode("latin-1")
        route = f"{scope['method']} {scope['path']}" + (f"?{query}" if query else "")
        begun = await anyio.to_thread.run_sync(
            lambda: store.idempotency.begin(
                caller.key_id,
                key,
                body_digest=body.digest,
                route=hashlib.sha256(route.encode("utf-8", "surrogatepass")).hexdigest(),
                lease_s=_LEASE_S,
                keep_s=self.settings.idempotency_hours * 3600,
            )
        )
        if isinstance(begun, Replay):
            return Response(begun.body, begun.status, {**begun.headers, REPLAYED: "true"})
        if isinstance(begun, InFlight):
            raise Refusal(
                IdempotencyConflict(
                    "the call with this Idempotency-Key is still being made; ask again in a moment, and its answer"
                    " will be there"
                ),
                retry_after_s=1 if begun.retry_after_s > 1 else max(1, math.ceil(begun.retry_after_s)),
            )
        if isinstance(begun, Mismatch):
            raise IdempotencyMismatch(
                "this Idempotency-Key came before, with another body or to another path; give every call a key of its"
                " own, and send the same call again only unchanged"
            )
        assert isinstance(begun, New)
        return begun.token

    async def _make(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        kept = _Kept(send, max_bytes=self.settings.idempotency_max_bytes)
        failed: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._hold, token)
                try:
                    await self.app(scope, receive, kept)
                except Exception as error:
                    failed = error  # a task group would wrap it
                group.cancel_scope.cancel()
        finally:
            # Also where the server gives this call up.
            with anyio.CancelScope(shield=True):
                await self._end(token, kept)
        await kept.release()
        if failed is not None:
            raise failed

    async def _hold(self, token: str) -> None:
        """Say that the call goes on, for as long as it does; a process that is gone does not."""
        store = self.store
        assert store is not None
        while True:
            await anyio.sleep(_LEASE_S / 3)
            try:
                await anyio.to_thread.run_sync(lambda: store.idempotency.extend(token, lease_s=_LEASE_S))
            except ManyeyesError as error:
                log.warning("the lease of a call with an idempotency key could not be extended: %s", error)

    async def _end(self, token: str, kept: _Kept) -> None:
        store = self.store
        assert store is not None
        answer = kept.answer()
        try:
            if answer is None:
                await anyio.to_thread.run_sync(store.idempotency.abandon, token)
            else:
                status, headers, body = answer
                await anyio.to_thread.run_sync(
                    lambda: store.idempotency.finish(token, status=status, headers=headers, body=body)
                )
        except ManyeyesError as error:
            # The call was made, and its caller is to know; the key is free again once the lease is over.
            log.warning("the answer of a call with an idempotency key could not be kept: %s", error)


def _check(key: str) -> None:
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise InvalidRequest(
            f"an Idempotency-Key is 1 to {MAX_KEY_CHARS} printable ASCII characters, such as a UUID, got {len(key)}"
        )


class _Body:
    """A body that was read, and is given to the route as it came, each part once."""

    def __init__(self, receive: Receive) -> None:
        self._later = receive
        self._parts: deque[Message] = deque()
        self._error: Exception | None = None
        self.complete = False
        self.digest = ""

    async def receive(self) -> Message:
        if self._parts:
            return self._parts.popleft()
        if self._error is not None:
            raise self._error
        return await self._later()


async def _read(receive: Receive, content_type: str) -> _Body:
    body = _Body(receive)
    media_type, _, options = content_type.partition(";")
    digest = _Digest(media_type.strip().lower(), options)
    while not body.complete:
        try:
            message = await receive()
        except Exception as error:  # a cap that is reached: the route reads as far, and its layers answer
            body._error = error
            return body
        body._parts.append(message)
        if message["type"] != "http.request":
            return body
        digest.update(message.get("body", b""))
        body.complete = not message.get("more_body", False)
    body.digest = digest.hexdigest()
    return body


class _Digest:
    """The SHA-256 of a body and its media type, without a form's boundary, which is a new one each time it is sent."""

    def __init__(self, media_type: str, options: str) -> None:
        self._sha = hashlib.sha256(media_type.encode("latin-1", "replace") + b"\n")
        self._boundary = b""
        self._tail = b""
        if media_type == "multipart/form-data":
            for option in options.split(";"):
                name, _, value = option.strip().partition("=")
                if name.lower() == "boundary":
                    self._boundary = value.strip('"').encode("latin-1", "replace")

    def update(self, chunk: bytes) -> None:
        if not self._boundary:
            self._sha.update(chunk)
            return
        # A boundary may begin in one chunk and end in the next.
        pieces = (self._tail + chunk).split(self._boundary)
        for piece in pieces[:-1]:
            self._sha.update(piece + b"\x00boundary\x00")
        keep = min(len(self._boundary) - 1, len(pieces[-1]))
        end = len(pieces[-1]) - keep
        self._sha.update(pieces[-1][:end])
        self._tail = pieces[-1][end:]

    def hexdigest(self) -> str:
        self._sha.update(self._tail)
        self._tail = b""
        return self._sha.hexdigest()


class _Kept:
    """Holds an answer back until it is kept, so that nobody hears of it who could not hear it again.

    One that is longer than max_bytes, or a stream of events, goes through as it comes and is not kept.
    """

    def __init__(self, send: Send, *, max_bytes: int) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._held: list[MutableMapping[str, Any]] = []
        self._n_bytes = 0
        self._complete = False
        self._through = False

    async def __call__(self, message: Message) -> None:
        if self._through:
            await self._send(message)
            return
        self._held.append(message)
        if message["type"] == "http.response.start":
            kind = MutableHeaders(scope=message).get("content-type", "")
            self._through = kind.startswith("text/event-stream")
        else:
            self._n_bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            self._through = self._n_bytes > self._max_bytes
        if self._through:
            await self.release()

    def answer(self) -> tuple[int, dict[str, str], bytes] | None:
        """Return status, headers and body of an answer that is final and whole, or None."""
        if self._through or not self._complete or not self._held:
            return None
        start, *parts = self._held
        status = int(start["status"])
        if status >= 500 or status in _PASSING:
            return None
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in start.get("headers", ())
            if name.lower() not in (b"content-length", b"connection", b"x-request-id")
        }
        if "no-store" in headers.get("cache-control", ""):  # it holds a secret, which is kept nowhere
            return None
        return status, headers, b"".join(part.get("body", b"") for part in parts)

    async def release(self) -> None:
        """Send what is held."""
        held, self._held = self._held, []
        for message in held:
            await self._send(message)
