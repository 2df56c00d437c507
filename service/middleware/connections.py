"""Connections that come to the point: a request whose headers trickle in, or an answer that nobody takes, is cut off.

uvicorn waits for the headers of a request for as long as a caller likes, and takes as many of them. A thousand callers
who never send the last line would take all the descriptors that a process may have, at no cost to themselves. The
parser is httptools', in C: with one in Python, a megabyte of chunks of one byte holds everybody up for half a minute.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from manyeyes.service.middleware.front import Front, Refused
from manyeyes.service.middleware.settings import ConnectionSettings

_PATIENCE_S: Final = 0.5
_LINGER_S: Final = 5.0
_MAX_HEAD_BYTES: Final = 64 * 2**10
_MAX_PIPELINED: Final = 16
_OTHER_DESCRIPTORS: Final = 128
"""What the process opens beside connections: the store, the cache, models, what is fetched."""


def connection_class(settings: ConnectionSettings, front: Front | None = None) -> type[HttpToolsProtocol]:
    """Return what a server makes of each connection: ``uvicorn.Config(app, http=…)``.

    front: refuses requests before they come to the app.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_most = max(1, min(settings.max_connections, descriptors - _OTHER_DESCRIPTORS))
    waiting: dict[HttpToolsProtocol, asyncio.TimerHandle] = {}  # those that waited longest first
    n_open = 0

    class Connection(HttpToolsProtocol):
        """One connection. It waits for a request until all its headers are there."""

        _answered: asyncio.TimerHandle | None = None
        _counts = True
        _in_head = False
        _n_head = 0
        _refused: Refused | None = None
        _late: asyncio.TimerHandle | None = None
        _over = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            nonlocal n_open
            super().connection_made(transport)
            n_open += 1
            self._wait()
            if n_open > n_most:
                # Who sends a request at once is hardly ever the one that waited longest.
                oldest = next(iter(waiting))
                assert isinstance(oldest, Connection)
                oldest._cut_off()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_head:
                self._n_head += len(data)
                if self._n_head > _MAX_HEAD_BYTES:
                    self.send_400_response("The headers of the request are too long.")
                    self._cut_off()
                    return
            if self.cycle is not None and not self.cycle.response_complete:
                self._begin()
            elif self not in waiting and not self._over:  # the first bytes of another request
                self._wait()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head, self._n_head = True, 0
            self._over = False

        def on_headers_complete(self) -> None:
            self._in_head = False
            if len(self.pipeline) >= _MAX_PIPELINED:
                raise ValueError("too many requests at once")  # which the parser makes a bad request
            if front is not None and (self.cycle is None or self.cycle.response_complete):
                method = self.parser.get_method()
                self._refused = front.refuse(method, self.url, self.headers, self.client)
                if self._refused is not None:
                    # A small body is read first, so that the connection is of use for the next request.
                    self._late = self.loop.call_later(_PATIENCE_S, self._answer_refused, True)
                    return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self._refused is None and not self._over:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if self._refused is not None:
                self._answer_refused(False)
            elif not self._over:
                super().on_message_complete()
            else:  # the body of one that was answered late
                self.transport.close()

        def _answer_refused(self, late: bool) -> None:
            """Answer a request that was refused. late: before its body is there; the connection is of no use then."""
            refused, self._refused, self._over = self._refused, None, True
            if self._late is not None:
                self._late.cancel()
            if refused is None or front is None or self.transport.is_closing():
                return
            close = late or self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
            front.answered(refused)  # before the caller can ask what was counted
            self.transport.write(refused.answer(self.server_state.default_headers, close=close))
            self.server_state.total_requests += 1
            self._begin()
            if late:
                # Closing now would reset the connection, and a caller who still sends would never see the answer.
                self._late = self.loop.call_later(_LINGER_S, self.transport.close)
            elif close:
                self.transport.close()
            else:
                self._unset_keepalive_if_required()
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._answered is not None:
                self._answered.cancel()
            self._answered = self.loop.call_later(settings.answer_timeout_s, self._cut_off_if_stuck)

        def connection_lost(self, exc: Exception | None) -> None:
            self._leave()
            for timer in (self._answered, self._late):
                if timer is not None:
                    timer.cancel()
            self._refused = None
            super().connection_lost(exc)

        def _wait(self) -> None:
            if not self.transport.is_closing():
                waiting[self] = self.loop.call_later(settings.head_timeout_s, self._cut_off)

        def _begin(self) -> None:
            timer = waiting.pop(self, None)
            if timer is not None:
                timer.cancel()

        def _leave(self) -> None:
            nonlocal n_open
            self._begin()
            if self._counts:
                self._counts = False
                n_open -= 1

        def _cut_off(self) -> None:
            # At once for those who count; the loop tells of the loss only later.
            self._leave()
            self.transport.abort()

        def _cut_off_if_stuck(self) -> None:
            if self.transport.get_write_buffer_size():
                self._cut_off()

    return Connection
