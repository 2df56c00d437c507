"""A light load generator on raw sockets: prebuilt requests, closed loops of clients, and open loops on a schedule.

It shares two cores with the service that it measures, so that a request may cost it a tenth of a millisecond and no
more: no HTTP library, no JSON. An open loop counts a call's latency from when it was *due*, also where the generator or
the service was too busy to take it then: a service that stalls is charged for all who would have come (no coordinated
omission).
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_COUNTER: Final = 15  # bytes; base64 makes 20 characters of them, whatever comes before or after
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LAST: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_BOUNDARY: Final = b"photo-after-photo"
_COMMENT: Final = b"\xff\xfe" + (2 + _COUNTER).to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Request:
    """A request with holes for a counter, so that no two are alike although their pixels are.

    pieces: the bytes around the holes. as_base64: how the counter is written. n_items: images in it.
    """

    pieces: tuple[bytes, ...]
    n_items: int
    as_base64: bool = False

    def numbered(self, number: int) -> bytes:
        """Return the bytes of one request."""
        counter = b"%0*x" % (_COUNTER, number)
        return (base64.b64encode(counter) if self.as_base64 else counter).join(self.pieces)


def numbered_photo(photo: bytes, number: int) -> bytes:
    """Return a JPEG with a comment that holds a number: the same pixels, another digest."""
    return photo[:2] + _COMMENT + b"%0*x" % (_COUNTER, number) + photo[2:]


def form(url: str, photos: Sequence[bytes], *, field: str, fields: Sequence[tuple[str, str]] = ()) -> Request:
    """Return a multipart request with some JPEGs as `field`, and plain fields before them."""
    pieces = [b""]
    for name, value in fields:
        pieces[-1] += b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (
            _BOUNDARY, name.encode(), value.encode()
        )  # fmt: skip
    for n, photo in enumerate(photos):
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="%d.jpg"\r\n' % (
            _BOUNDARY, field.encode(), n
        )  # fmt: skip
        pieces[-1] += head + b"Content-Type: image/jpeg\r\n\r\n" + photo[:2] + _COMMENT
        pieces.append(photo[2:] + b"\r\n")
    pieces[-1] += b"--%b--\r\n" % _BOUNDARY
    kind = b"multipart/form-data; boundary=" + _BOUNDARY
    return _request(url, kind, pieces, len(photos), as_base64=False)


def data_url(url: str, photo: bytes, *, before: str, after: str) -> Request:
    """Return a JSON request with one JPEG as a data URL between two pieces of JSON."""
    head, rest = photo[:2] + _COMMENT, photo[2:]
    assert len(head) % 3 == 0, "what comes before the counter must end where a group of base64 ends"
    pieces = [
        before.encode() + b'"data:image/jpeg;base64,' + base64.b64encode(head),
        base64.b64encode(rest) + b'"' + after.encode(),
    ]
    return _request(url, b"application/json", pieces, 1, as_base64=True)


def _request(url: str, kind: bytes, pieces: list[bytes], n_items: int, *, as_base64: bool) -> Request:
    told = urlsplit(url)
    length = sum(map(len, pieces)) + (len(pieces) - 1) * (20 if as_base64 else _COUNTER)
    head = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (
        told.path.encode(), told.netloc.encode(), kind, length
    )  # fmt: skip
    return Request((head + pieces[0], *pieces[1:]), n_items, as_base64)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request. due, done: seconds on the monotonic clock. status: 0 where the connection broke.

    n_items: images in it. wrong: whether the body said that one of them has an error.
    """

    due: float
    done: float
    status: int
    n_items: int
    wrong: bool

    @property
    def latency_s(self) -> float:
        return self.done - self.due


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.open = True
        self._buffer = bytearray()
        self._ends_at = 0
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._ends_at:
            head_ends = self._buffer.find(b"\r\n\r\n")
            if head_ends < 0:
                return
            length = _LENGTH.search(self._buffer, 0, head_ends)
            self._ends_at = head_ends + 4 + (int(length[1]) if length else 0)
            if _LAST.search(self._buffer, 0, head_ends):
                self.open = False
        if len(self._buffer) >= self._ends_at:
            body = bytes(self._buffer)
            self._buffer.clear()
            self._ends_at = 0
            status = _STATUS.match(body)
            self._settle(int(status[1]) if status else 0, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._settle(0, b"")

    def _settle(self, status: int, body: bytes) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((status, body))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        if self.transport is None or not self.open:
            return 0, b""
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._waiting

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class _Callers:
    """Connections to one address, reused where one is idle."""

    def __init__(self, address: str, requests: Sequence[Request], first: int) -> None:
        told = urlsplit(address)
        self.host, self.port = told.hostname or "127.0.0.1", told.port or 80
        self.requests = requests
        self.next = first
        self.idle: list[_Connection] = []
        self.answers: list[Answer] = []

    async def call(self, due: float) -> Answer:
        """Send the next request; note and return what became of it."""
        request, number = self.requests[self.next % len(self.requests)], self.next
        self.next += 1
        connection = None
        while self.idle and connection is None:
            connection = self.idle.pop()
            connection = connection if connection.open else None
        try:
            if connection is None:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(_Connection, self.host, self.port)
            status, body = await connection.ask(request.numbered(number))
        except OSError:
            status, body = 0, b""
        answer = Answer(due, time.monotonic(), status, request.n_items, b'"error"' in body)
        self.answers.append(answer)
        if connection is not None:
            if connection.open:
                self.idle.append(connection)
            else:
                connection.close()
        return answer

    def close(self) -> None:
        for connection in self.idle:
            connection.close()


_numbers = iter(range(0, 16**_COUNTER, 1_000_000))


def closed(address: str, requests: Sequence[Request], *, n_calls: int, n_clients: int) -> list[Answer]:
    """Have some clients make calls, each the next when its last is answered; return all answers.

    Numbers are never used twice in one process, so that no service can know an image from before.
    """

    async def run() -> list[Answer]:
        callers = _Callers(address, requests, next(_numbers))
        left = n_calls

        async def client() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await callers.call(time.monotonic())

        await asyncio.gather(*(client() for _ in range(n_clients)))
        callers.close()
        return callers.answers

    return asyncio.run(run())


def poisson(rate: float, seconds: float, rng: random.Random) -> list[float]:
    """Return when calls are due, in seconds from the start: a Poisson process, ``rate`` calls a second."""
    times, now = [], rng.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += rng.expovariate(rate)
    return times


def on_schedule(
    address: str,
    requests: Sequence[Request],
    times: Iterable[float],
    *,
    watch: Callable[[], None] | None = None,
    every_s: float = 0.25,
) -> list[Answer]:
    """Make calls when they are due, whether or not those before are answered; return all answers.

    times: seconds from the start. watch: called every so often while calls are made.
    """

    async def run() -> list[Answer]:
        callers = _Callers(address, requests, next(_numbers))
        started = time.monotonic() + 0.05
        under_way: set[asyncio.Task[Answer]] = set()

        async def look() -> None:
            while True:
                if watch is not None:
                    watch()
                await asyncio.sleep(every_s)

        looking = asyncio.ensure_future(look())
        for due in times:
            ahead = started + due - time.monotonic()
            await asyncio.sleep(max(0.0, ahead))
            task = asyncio.ensure_future(callers.call(started + due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        while under_way:
            await asyncio.wait(set(under_way))
        looking.cancel()
        callers.close()
        return callers.answers

    return asyncio.run(run())
