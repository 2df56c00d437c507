"""Bodies and answers in gzip or zstd: undone while they stream, and made where a caller takes them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import anyio.to_thread
import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyeyes.errors import InvalidRequest, RequestTooLarge
from manyeyes.service.errors import MEDIA_TYPE, problem
from manyeyes.service.middleware.log import request_id_in
from manyeyes.service.settings import ServiceSettings

ENCODINGS: Final = ("zstd", "gzip")
"""Which are known, the preferred one first."""

_PIECE_BYTES: Final = 2**18
_SLICE_BYTES: Final = 256  # of zstd at a time: at most 64 blocks of 128 KiB come out
_ZSTD_WINDOW_BYTES: Final = 8 * 2**20  # what RFC 8878 asks of every decoder, and no more
_FREE_BYTES: Final = 8 * 2**20
_MAX_RATIO: Final = 100
"""JSON with images in base64 shrinks to three quarters, texts to a fifth, a bomb to a thousandth."""
_OFF_LOOP_BYTES: Final = 16 * 2**10
_LEAST_BYTES: Final = 1024
_COMPRESSED_TYPES: Final = ("application/json", MEDIA_TYPE)
_WEIGHTED: Final = re.compile(r"\s*([\w*+.-]+)\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")


class Encodings:
    """Undoes the Content-Encoding of bodies, and compresses answers of JSON for callers who accept that.

    Stands outside of BodyLimit, which therefore counts what a body becomes; here is counted what comes over the wire,
    and how many times larger it becomes.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding = ", ".join(headers.getlist("content-encoding")).strip().lower()
        if encoding not in ("", "identity"):
            decoder = _DECODERS.get(encoding)
            if decoder is None:
                detail = (
                    f"the Content-Encoding is {encoding[:100]!r}; send zstd or gzip, or the body as it is"
                )
                await problem(
                    415,
                    InvalidRequest.code,
                    detail,
                    title="Unsupported Media Type",
                    request_id=request_id_in(scope),
                    headers={"Accept-Encoding": ", ".join(ENCODINGS)},
                )(scope, receive, send)
                return
            receive = _Decoding(decoder(), receive, max_wire_bytes=int(self.settings.max_body_bytes)).receive
            # What is read from now on has neither this encoding nor this length.
            hidden = (b"content-encoding", b"content-length")
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in hidden]
        accepted = preferred(headers.get("accept-encoding", ""))
        await self.app(scope, receive, _Compressing(accepted, send).send)


def preferred(accepted: str) -> str | None:
    """Return the encoding that a caller likes best, of those that are known; None for no encoding.

    >>> [preferred(told) for told in ("gzip, deflate, br", "gzip, zstd", "gzip;q=1, zstd;q=0.5", "*", "zstd;q=0", "")]
    ['gzip', 'zstd', 'gzip', 'zstd', None, None]
    """
    weights: dict[str, float] = {}
    for part in accepted.lower().split(","):
        if told := _WEIGHTED.fullmatch(part):
            weights[told[1]] = float(told[2] or 1)
    liked = {encoding: weights.get(encoding, weights.get("*", 0.0)) for encoding in ENCODINGS}
    best = max(ENCODINGS, key=lambda encoding: liked[encoding])
    return best if liked[best] > 0 else None


class _Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what some more bytes become, a bounded piece at a time. Raises InvalidRequest."""

    @property
    def complete(self) -> bool:
        """Whether what was fed ends where it may end."""


class _Gzip:
    def __init__(self) -> None:
        self._member: Any = zlib.decompressobj(wbits=31)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member.eof:  # another one may follow (RFC 1952, 2.2)
                self._member = zlib.decompressobj(wbits=31)
            self._begun = True
            try:
                yield self._member.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise InvalidRequest(
                    f"the body is not gzip, as its Content-Encoding says: {error}"
                ) from error
            data = self._member.unused_data or self._member.unconsumed_tail

    @property
    def complete(self) -> bool:
        return not self._begun or self._member.eof


class _Zstd:
    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._frame: Any = self._decompressor.decompressobj()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _SLICE_BYTES):
            rest = data[start : start + _SLICE_BYTES]
            while rest:
                if self._frame.eof:
                    self._frame = self._decompressor.decompressobj()
                self._begun = True
                try:
                    yield self._frame.decompress(rest)
                except zstandard.ZstdError as error:
                    raise InvalidRequest(
                        f"the body is not zstd, as its Content-Encoding says, or its window is larger than 8 MiB:"
                        f" {error}"
                    ) from error
                rest = self._frame.unused_data

    @property
    def complete(self) -> bool:
        return not self._begun or bool(self._frame.eof)


_DECODERS: Final[dict[str, Callable[[], _Decoder]]] = {"gzip": _Gzip, "x-gzip": _Gzip, "zstd": _Zstd}


class _Decoding:
    def __init__(self, decoder: _Decoder, receive: Receive, *, max_wire_bytes: int) -> None:
        self._decoder = decoder
        self._receive = receive
        # What cannot be compressed grows a little.
        self._max_wire_bytes = max_wire_bytes + max_wire_bytes // 100 + 1024
        self._pieces: Iterator[bytes] = iter(())
        self._on_loop = False
        self._last = False
        self._over = False
        self._n_wire = 0
        self._n_made = 0

    async def receive(self) -> Message:
        if self._over:
            return await self._receive()
        while True:
            piece = await self._next_piece()
            if piece is not None:
                return {"type": "http.request", "body": piece, "more_body": True}
            if self._last:
                if not self._decoder.complete:
                    raise InvalidRequest("the compressed body ends early; it was cut off on the way")
                self._over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                self._over = True
                return message
            data = message.get("body", b"")
            self._last = not message.get("more_body", False)
            self._n_wire += len(data)
            if self._n_wire > self._max_wire_bytes:
                raise RequestTooLarge(
                    f"the compressed body holds more than {self._max_wire_bytes:,} bytes; send the items in several"
                    " calls"
                )
            self._pieces = self._decoder.feed(data)
            self._on_loop = len(data) < _OFF_LOOP_BYTES

    async def _next_piece(self) -> bytes | None:
        """Return some bytes of the body, at least one, or None where more has to come first."""
        collected: list[bytes] = []
        size = 0
        while size < _PIECE_BYTES:
            # What a small packet first becomes is little work; what it goes on to become may not be.
            if self._on_loop and not size:
                piece = next(self._pieces, None)
            else:
                piece = await anyio.to_thread.run_sync(next, self._pieces, None)
            if piece is None:
                break
            collected.append(piece)
            size += len(piece)
        self._n_made += size
        if self._n_made > max(_FREE_BYTES, _MAX_RATIO * self._n_wire):
            raise RequestTooLarge(
                f"the body becomes more than {_MAX_RATIO} times as large as it was sent; send it less compressed"
            )
        return b"".join(collected) if size else None


class _Compressing:
    def __init__(self, encoding: str | None, send: Send) -> None:
        self._encoding = encoding
        self._send = send
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message  # until it is known how much follows
            return
        start, self._start = self._start, None
        if start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        headers = MutableHeaders(scope=start)
        if headers.get("content-type", "").partition(";")[0].strip() in _COMPRESSED_TYPES:
            headers.add_vary_header("Accept-Encoding")
            body = message.get("body", b"")
            whole = not message.get("more_body", False)
            if self._encoding and whole and len(body) >= _LEAST_BYTES and _may_change(headers):
                compress = _COMPRESSORS[self._encoding]
                if len(body) < _OFF_LOOP_BYTES:
                    body = compress(body)
                else:
                    body = await anyio.to_thread.run_sync(compress, body)
                headers["Content-Encoding"] = self._encoding
                headers["Content-Length"] = str(len(body))
                message = {**message, "body": body}
        await self._send(start)
        await self._send(message)


def _may_change(headers: MutableHeaders) -> bool:
    # An ETag names one row of bytes, and callers send it back to say which version they mean to change. What must not
    # be stored holds a secret, whose length compression would tell.
    kept = headers.get("cache-control", "")
    return "content-encoding" not in headers and "etag" not in headers and "no-store" not in kept


def _gzip(data: bytes) -> bytes:
    compressor = zlib.compressobj(level=5, wbits=31)
    return compressor.compress(data) + compressor.flush()


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


_COMPRESSORS: Final[dict[str, Callable[[bytes], bytes]]] = {"gzip": _gzip, "zstd": _zstd}
