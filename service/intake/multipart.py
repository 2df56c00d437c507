"""Reads multipart/form-data into memory, part by part.

Starlette's own form parser would do, but for two things: it takes a body that was cut off for a whole one, and it reads
text that is not UTF-8 as Latin-1, which would be labeled as gibberish. The byte cap is counted below, in
:class:`manyeyes.service.middleware.bodies.BodyLimit`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from manyeyes.errors import InvalidRequest, RequestTooLarge

_MAX_HEADER_BYTES: Final = 8192


@dataclass(slots=True)
class Part:
    """One part of a form. filename: as the caller wrote it, or None for a plain field."""

    name: str
    filename: str | None
    data: bytearray = field(default_factory=bytearray)


async def read_parts(content_type: str, stream: AsyncIterator[bytes], *, max_parts: int) -> list[Part]:
    """Return the parts of a multipart body, in order.

    Raises InvalidRequest if the body is not well-formed or ends too soon, RequestTooLarge above max_parts.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidRequest("the Content-Type names no boundary; let your HTTP library write that header")
    collector = _Collector(max_parts)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.begin_part,
                "on_header_field": collector.header_field,
                "on_header_value": collector.header_value,
                "on_header_end": collector.end_header,
                "on_headers_finished": collector.end_headers,
                "on_part_data": collector.part_data,
                "on_end": collector.end,
            },
        )
        async for chunk in stream:
            if chunk:
                parser.write(chunk)
    except FormParserError as error:
        raise InvalidRequest(f"the multipart body is not well-formed: {error}") from error
    if not collector.ended:
        raise InvalidRequest(
            f"the multipart body ends before its closing boundary, after {len(collector.parts)} parts; it was cut off"
            " on the way, or the boundary in Content-Type is not the one in the body"
        )
    return collector.parts


class _Collector:
    def __init__(self, max_parts: int) -> None:
        self.max_parts = max_parts
        self.parts: list[Part] = []
        self.ended = False
        self._field = b""
        self._value = b""
        self._disposition = b""

    def begin_part(self) -> None:
        self._field, self._value, self._disposition = b"", b"", b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += self._bounded(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._bounded(data[start:end])

    def _bounded(self, more: bytes) -> bytes:
        # Else a header as long as a body would be copied again for every packet of it.
        if len(self._field) + len(self._value) + len(more) > _MAX_HEADER_BYTES:
            raise InvalidRequest(
                f"a header of part {len(self.parts)} is longer than {_MAX_HEADER_BYTES} bytes"
            )
        return more

    def end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field, self._value = b"", b""

    def end_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise InvalidRequest(
                f"part {len(self.parts)} has no `Content-Disposition: form-data; name=…`; use an HTTP library"
            )
        if len(self.parts) >= self.max_parts:
            raise RequestTooLarge(
                f"the form holds more than {self.max_parts:,} parts; send the items in several calls"
            )
        filename = options.get(b"filename")
        self.parts.append(
            Part(
                name=options[b"name"].decode("utf-8", "replace"),
                filename=None if filename is None else filename.decode("utf-8", "replace"),
            )
        )

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += data[start:end]

    def end(self) -> None:
        self.ended = True
