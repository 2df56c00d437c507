"""What OpenAPI says of every route alike: who may call it, and the headers of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from manyeyes.service.access.callers import Needs

SCHEMES: Final[dict[str, Any]] = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of the operator's. Each operation names the scope that the key needs; `admin` opens all.",
    },
    "password": {
        "type": "http",
        "scheme": "basic",
        "description": "The same key as the password; the name does not matter.",
    },
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "The same key."},
}
"""The ways in which a key may come."""

_REQUEST_ID: Final = {
    "X-Request-Id": {
        "description": "Names the request in the log of the service: the caller's, or one made up.",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    }
}
_RETRY: Final = {
    "Retry-After": {
        "description": "Seconds after which to send the call again.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
}
_BY_STATUS: Final[dict[str, dict[str, Any]]] = {
    "401": {
        "WWW-Authenticate": {
            "description": "How to send a key.",
            "required": True,
            "schema": {"type": "string"},
        }
    },
    "429": _RETRY,
    "503": _RETRY,
}


def describe_all(told: dict[str, Any], routes: Sequence[BaseRoute], *, keys: bool) -> None:
    """Add to a description what holds for every route; keys: whether callers need one."""
    for route in routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods or ():
            operation = told["paths"][route.path_format][method.lower()]
            scope = next(
                (one.dependency.scope for one in route.dependencies if isinstance(one.dependency, Needs)),
                None,
            )
            if keys:
                operation["security"] = [] if scope is None else [{name: [scope]} for name in SCHEMES]
            for status, answer in operation["responses"].items():
                answer["headers"] = {
                    **_REQUEST_ID,
                    **_BY_STATUS.get(str(status), {}),
                    **answer.get("headers", {}),
                }
    if keys:
        told.setdefault("components", {})["securitySchemes"] = SCHEMES
