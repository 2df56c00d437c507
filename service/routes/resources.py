"""How resources are read and changed over HTTP: pages, ETags, who does it, and a store that may not be there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

from fastapi import Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from manyeyes.errors import NotFound, VersionConflict
from manyeyes.service.access.callers import LOCAL, caller_of
from manyeyes.service.context import Service
from manyeyes.service.errors import request_id_of
from manyeyes.service.intake.body import read_json
from manyeyes.service.intake.options import read_options
from manyeyes.service.routes.answers import ref
from manyeyes.service.store.records import Page
from manyeyes.service.store.store import Store

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
_CURSOR: Final = "`next_cursor` of the page before; left out for the first."
Cursor = Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$", description=_CURSOR)]
"""Of what the store pages: ids."""
Position = Annotated[str | None, Query(pattern=r"^[0-9]{1,9}$", description=_CURSOR)]
"""Of what is counted."""
Only = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$", description="Of this one alone.")]
"""What a list may be narrowed to."""
_ETAG: Final = {
    "ETag": {
        "description": "Changes whenever this does; for `If-None-Match` and `If-Match`.",
        "required": True,
        "schema": {"type": "string"},
    }
}
_LOCATION: Final = {
    "Location": {"description": "The path of what was made.", "required": True, "schema": {"type": "string"}}
}
REVALIDATE: Final = {"Cache-Control": "private, no-cache"}
"""May be kept by the caller, who asks with ``If-None-Match`` whether it still holds."""


def store_of(service: Service) -> Store:
    """Return the store. Raises NotFound where the operator wants nothing kept."""
    if service.store is None:
        raise NotFound(
            "this service keeps nothing (MANYEYES_STORE_URL=none); its operator can give it a store"
        )
    return service.store


def by_whom(request: Request) -> dict[str, Any]:
    """Return what the store notes of a change: ``author`` and ``request_id``."""
    return {"author": key_id_of(request), "request_id": request_id_of(request)}


def key_id_of(request: Request) -> str:
    """Return what names the caller in the audit."""
    return (caller_of(request) or LOCAL).key_id


async def read_shape(request: Request, shape: type[S], example: Any) -> S:
    """Return the body of a call as a shape. Raises InvalidRequest, and shows a sound call."""
    told = await read_json(request)
    return read_options(shape, told, example=example)


def takes(shape: str, example: Any) -> dict[str, Any]:
    """Return what OpenAPI says of a call with a body of JSON."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ref(shape), "example": example}},
        }
    }


def paged(page: Page[T], row: Callable[[T], Any]) -> dict[str, Any]:
    """Return a page as all lists are: ``data``, ``has_more`` and ``next_cursor``."""
    return {
        "data": [row(one) for one in page],
        "has_more": page.next_cursor is not None,
        "next_cursor": page.next_cursor,
    }


def told(
    request: Request,
    content: Any,
    *,
    status: int = 200,
    etag: str | None = None,
    location: str | None = None,
    media_type: str = "application/json",
) -> Response:
    """Return JSON (or a text of another media type) with its ETag; 304 without a body where the caller has it.

    etag: what changes whenever the answer does; by default a hash of it.
    """
    body = content if isinstance(content, str) else json.dumps(content, allow_nan=False)
    tag = f'"{etag or hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:16]}"'
    headers = {**REVALIDATE, "ETag": tag, **({"Location": location} if location else {})}
    if request.method in ("GET", "HEAD") and matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return Response(body, status_code=status, media_type=media_type, headers=headers)


def matches(header: str | None, tag: str) -> bool:
    """Return whether a list of ETags, such as ``"a", W/"b"`` or ``*``, holds one.

    >>> [matches(header, '"a"') for header in ('"a"', 'W/"a", "b"', "*", '"b"', None)]
    [True, True, True, False, False]
    """
    if header is None:
        return False
    return any(one.strip().removeprefix("W/") in (tag, "*") for one in header.split(","))


def require_match(request: Request, current: str) -> bool:
    """Return whether the caller says what it changes, with ``If-Match``. Raises VersionConflict if it is not that.

    current: the ETag's value of what is there now.
    """
    header = request.headers.get("if-match")
    if header is not None and not matches(header, f'"{current}"'):
        raise VersionConflict(
            f'what is here now has the ETag "{current}", not {header[:100]}: somebody changed it in the meantime.'
            " Read it again, and send the change with the new ETag"
        )
    return header is not None


def with_status(responses: Mapping[int | str, Any], *others: int) -> dict[int | str, Any]:
    """Return what OpenAPI says of a route whose answer has an ETag, and that may also succeed in other ways.

    others: 304, and 200 beside 201.
    """
    status, first = next(iter(responses.items()))
    success = {**first, "headers": _ETAG | (_LOCATION if status == 201 else {})}
    said: dict[int, Any] = {
        200: success,
        304: {
            "description": "Not changed since the `ETag` that was sent in `If-None-Match`",
            "headers": _ETAG,
        },
    }
    return {**responses, status: success, **{other: said[other] for other in others}}


def iso(time: datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC."""
    return None if time is None else time.isoformat().replace("+00:00", "Z")
