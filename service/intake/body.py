"""The body of a call, whichever way it came."""

from __future__ import annotations

import anyio.to_thread
from fastapi import Request
from starlette.exceptions import HTTPException

from manyeyes.service.intake.calls import TO_LABEL, Asks, Call, call_from_form, call_from_json
from manyeyes.service.intake.multipart import read_parts
from manyeyes.service.settings import ServiceSettings


async def read_call(request: Request, settings: ServiceSettings, *, asks: Asks = TO_LABEL) -> Call:
    """Read the body of a call with items, by default one to label; base64 and JSON are undone off the event loop."""
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        parts = await read_parts(
            content_type, request.stream(), max_parts=2 * settings.max_items + 2 + len(asks.options)
        )
        return await anyio.to_thread.run_sync(
            lambda: call_from_form(parts, max_items=settings.max_items, asks=asks)
        )
    if media_type == "application/json":
        body = await request.body()
        return await anyio.to_thread.run_sync(
            lambda: call_from_json(body, max_items=settings.max_items, asks=asks)
        )
    raise HTTPException(
        415,
        f"the Content-Type is {content_type[:100]!r}; send application/json, or multipart/form-data for image files",
    )
