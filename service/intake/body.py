"""The body of a call, whichever way it came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final

import anyio.to_thread
from fastapi import Request
from starlette.exceptions import HTTPException

from manyeyes.service.fetching.fetcher import Fetcher, Row, address_of
from manyeyes.service.intake.calls import TO_LABEL, Asks, Call, call_from_form, call_from_json, parse_json
from manyeyes.service.intake.multipart import read_parts
from manyeyes.service.operations.spans import span
from manyeyes.service.settings import ServiceSettings

_FEW_BYTES: Final = 2**19
_FEW_JSON_BYTES: Final = 2**17
"""What is read in a third of a millisecond or so."""


async def read_call(request: Request, settings: ServiceSettings, *, asks: Asks = TO_LABEL) -> Call:
    """Read the body of a call with items, by default one to label, and fetch what they name by address.

    Base64 and JSON are undone off the event loop, unless there is little of them.
    """
    call = await _read_body(request, settings, asks)
    return replace(call, rows=await fetch_rows(request, call.rows))


async def fetch_rows(request: Request, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return rows with the images that they name by address, or with what is wrong with each."""
    fetcher: Fetcher = request.app.state.service.fetcher
    hold = request.scope.get("state", {}).get("hold", lambda _: None)
    n_fetched = sum(address_of(read) is not None for _, read in rows)
    with span("fetch", n_items=n_fetched) if n_fetched else nullcontext():
        return await fetcher.resolve_rows(rows, hold=hold, is_gone=request.is_disconnected)


async def _read_body(request: Request, settings: ServiceSettings, asks: Asks) -> Call:
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        parts = await read_parts(
            content_type, request.stream(), max_parts=2 * settings.max_items + 2 + len(asks.options)
        )
        n_bytes = sum(len(part.data) for part in parts)
        return await _read(
            lambda: call_from_form(parts, max_items=settings.max_items, asks=asks), n_bytes, _FEW_BYTES
        )
    if media_type == "application/json":
        body = await request.body()
        return await _read(
            lambda: call_from_json(body, max_items=settings.max_items, asks=asks), len(body), _FEW_JSON_BYTES
        )
    raise HTTPException(
        415,
        f"the Content-Type is {content_type[:100]!r}; send application/json, or multipart/form-data for image files",
    )


async def _read(read: Callable[[], Call], n_bytes: int, few: int) -> Call:
    """Read what has arrived: off the event loop, unless it is so little that going there takes longer."""
    return read() if n_bytes <= few else await anyio.to_thread.run_sync(read)


async def read_json(request: Request) -> Any:
    """Read a body of JSON, off the event loop. Raises InvalidRequest if it is none."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, f"the Content-Type is {content_type[:100]!r}; send application/json")
    body = await request.body()
    return await anyio.to_thread.run_sync(lambda: parse_json(body, what="the body"))
