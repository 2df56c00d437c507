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

from manyeyes.service.middleware.settings import ConnectionSettings

_MAX_HEAD_BYTES: Final = 64 * 2**10
_MAX_PIPELINED: Final = 16
_OTHER_DESCRIPTORS: Final = 128
"""What the process opens beside connections: the store, the cache, models, what is fetched."""


def connection_class(settings: ConnectionSettings) -> type[HttpToolsProtocol]:
    """Return what a server makes of each connection: ``uvicorn.Config(app, http=…)``."""
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
            elif self not in waiting:  # the first bytes of another request
                self._wait()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head, self._n_head = True, 0

        def on_headers_complete(self) -> None:
            self._in_head = False
            if len(self.pipeline) >= _MAX_PIPELINED:
                raise ValueError("too many requests at once")  # which the parser makes a bad request
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._answered is not None:
                self._answered.cancel()
            self._answered = self.loop.call_later(settings.answer_timeout_s, self._cut_off_if_stuck)

        def connection_lost(self, exc: Exception | None) -> None:
            self._leave()
            if self._answered is not None:
                self._answered.cancel()
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
