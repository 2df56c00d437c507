"""How routes answer: JSON that is JSON, and what OpenAPI says of each answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from manyeyes.errors import ItemError
from manyeyes.service.errors import MEDIA_TYPE

TOLD: Final = {
    400: "The request is not well-formed",
    401: "No key, or a wrong one",
    403: "The key does not open this, or a recipe asks for what only the operator may ask for",
    404: "Nothing of that name or id is there",
    408: "The body took too long to arrive",
    409: "The same call is under way, or the name is taken",
    412: "What was to be changed has changed in the meantime",
    413: "More bytes or items than the service takes at once",
    415: "Of a media type or an encoding that is not read here",
    422: "The call or the recipe cannot be used as written",
    429: "Too much waits already, or the key asks too often; come back after `Retry-After` seconds",
    500: "The service failed",
    501: "An optional package is not installed on the service",
    502: "A bucket that the call names does not do what is asked of it",
    503: "On its way down, or its database does not answer; come back after `Retry-After` seconds",
    504: "Not done within the time that a call has",
    507: "There is no room left in the bucket that the call names",
}
ALWAYS: Final = (401, 403, 429, 500, 503)
"""What any route may answer."""
WITH_ITEMS: Final = (404, 408, 413, 415, 422, 501, 504)
"""What a route that takes items may answer besides."""


def ref(name: str) -> dict[str, str]:
    """Return a reference to a shape in OpenAPI."""
    return {"$ref": f"#/components/schemas/{name}"}


def answers(
    shape: str | None, *problems: int, status: int = 200, others: Mapping[str, Any] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of a route's answers.

    shape: of the success, whose status is `status`; None where it has no body. problems: statuses beside ALWAYS.
    others: media type → what else the success may be.
    """
    content = {} if shape is None else {"application/json": {"schema": ref(shape)}}
    success = (
        {"description": "OK", "content": content | dict(others or {})}
        if content or others
        else {"description": "OK"}
    )
    return {
        status: success,
        **{
            status: {"description": TOLD[status], "content": {MEDIA_TYPE: {"schema": ref("Problem")}}}
            for status in sorted({*problems, *ALWAYS})
        },
    }


def body_of(shape: str, form: str, example: Any) -> dict[str, Any]:
    """Return what OpenAPI says of a call with items: a shape as JSON, with an example, and another as a form."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": ref(shape), "example": example},
                "multipart/form-data": {"schema": ref(form)},
            },
        }
    }


def item_error(error: ItemError) -> dict[str, str]:
    """Return what is wrong with one item, as every answer with items shows it."""
    return {"code": error.code, "message": str(error)}


def as_json(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer. A float is read back as the same float; NaN would be no JSON, and raises ValueError."""
    return Response(
        json.dumps(content, allow_nan=False),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )
