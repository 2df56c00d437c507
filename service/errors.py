"""The one place where error codes become HTTP statuses, and errors become RFC 9457 problem documents.

Every answer that is not a success has the media type ``application/problem+json`` and the same members, whether an item
limit, a wrong path or a bug was behind it. The SDK maps ``code`` back to the same error class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from manyeyes.errors import InvalidRequest, ManyeyesError, ServiceFailed, ServiceUnavailable, by_code

MEDIA_TYPE: Final = "application/problem+json"

STATUS: Final[Mapping[str, int]] = {
    "error": 500,
    "invalid_recipe": 422,
    "invalid_expression": 422,
    "recipe_not_found": 404,
    "untrusted_recipe": 403,
    "access_denied": 401,
    "invalid_settings": 500,
    "invalid_votes": 500,  # The service makes the votes itself, so these are never the caller's doing.
    "invalid_request": 422,
    "invalid_source": 422,
    "request_too_large": 413,
    "not_fitted": 500,
    "model_not_found": 422,
    "weights_mismatch": 500,
    "missing_dependency": 501,
    "label_not_found": 404,
    "cache_unusable": 500,
    "index_unusable": 500,
    "storage_failed": 502,
    "storage_full": 507,
    "service_unavailable": 503,
    "service_failed": 500,
    "item_error": 422,
    "unreadable_item": 422,
    "empty_item": 422,
    "unsupported_format": 422,
    "undecodable_image": 422,
    "image_too_large": 422,
    "undecodable_video": 422,
    "video_too_large": 422,
    "invalid_item": 422,
    "endpoint_failed": 502,
    "primitive_failed": 500,
    "not_permitted": 403,
    "idempotency_mismatch": 422,
    "idempotency_conflict": 409,
    "already_exists": 409,
    "version_conflict": 412,
    "wrong_state": 409,
    "not_found": 404,
    "overloaded": 429,
    "rate_limited": 429,
    "store_unavailable": 503,
    "deadline_exceeded": 504,
    "address_refused": 422,
    "source_not_found": 422,
    "source_changed": 422,
    "fetch_failed": 502,
}
"""Code → HTTP status, for every code of :func:`manyeyes.errors.by_code`."""

RETRY_AFTER_S: Final = 1


class Refusal(Exception):
    """One of our errors on its way to a caller, with what only HTTP has a place for.

    retry_after_s: when to come back. example: a valid call to show. headers: beside those of every problem.
    """

    # Not a subclass of the error: by_code() maps each code to one class, and that class is the one in errors.py.
    def __init__(
        self,
        error: ManyeyesError,
        *,
        retry_after_s: int | None = None,
        example: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s
        self.example = example
        self.headers = dict(headers or {})


class ProblemResponse(Response):
    """A problem document. Whoever stands outside of it, such as the log, finds its code in the request's state."""

    code: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        scope.setdefault("state", {})["problem"] = self.code
        await super().__call__(scope, receive, send)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    title: str | None = None,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """Return a problem document as a response."""
    document = {
        "type": f"urn:manyeyes:error:{code}",
        "title": title or _title(code),
        "status": status,
        "detail": detail,
        "code": code,
        **({"request_id": request_id} if request_id else {}),
        **(extra or {}),
    }
    response = ProblemResponse(
        # A message may quote what came in, lone surrogates included: ASCII escapes carry them, UTF-8 could not.
        json.dumps(document, ensure_ascii=True),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )
    response.code = code
    return response


def problem_of(error: ManyeyesError | Refusal, *, request_id: str | None = None) -> Response:
    """Return the problem document of one of our own errors."""
    refusal = error if isinstance(error, Refusal) else Refusal(error)
    code = refusal.error.code
    headers = dict(refusal.headers)
    if code == "access_denied":
        headers["WWW-Authenticate"] = 'Bearer realm="manyeyes"'
    if isinstance(refusal.error, ServiceUnavailable) or refusal.retry_after_s:
        headers["Retry-After"] = str(refusal.retry_after_s or RETRY_AFTER_S)
    extra = {"example": refusal.example} if refusal.example is not None else None
    return problem(STATUS[code], code, str(error), request_id=request_id, headers=headers, extra=extra)


def handle_errors(app: Starlette) -> None:
    """Make every error of an app a problem document."""
    app.add_exception_handler(ManyeyesError, _on_our_error)
    app.add_exception_handler(Refusal, _on_our_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, (ManyeyesError, Refusal))
    return problem_of(error, request_id=request_id_of(request))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    code = InvalidRequest.code if error.status_code < 500 else ServiceFailed.code
    detail = error.detail
    headers = dict(error.headers or {})
    if error.status_code == 404:
        detail = f"there is nothing at {request.url.path!r}; GET /openapi.json lists every path"
    elif error.status_code == 405:
        allowed = _allowed(request) or headers.get("Allow", "other methods")
        detail = f"{request.method} is not possible at {request.url.path!r}; allowed: {allowed}"
        headers["Allow"] = allowed
    return problem(
        error.status_code,
        code,
        detail,
        title=phrase,
        request_id=request_id_of(request),
        headers=headers,
    )


def _allowed(request: Request) -> str:
    """Return the methods that the description names for a path; Starlette knows of the first route alone."""
    found = [
        route
        for route in getattr(request.app.state, "routes", ())
        if route.matches(request.scope)[0] is not Match.NONE
    ]
    # Where /recipes/validate is a path of its own, it is not the recipe of that name.
    ranked = sorted(
        (len(route.param_convertors), -route.path_format.count("/"), route.path_format) for route in found
    )
    path = ranked[0][2] if ranked else ""
    methods = {method for route in found if route.path_format == path for method in route.methods}
    return ", ".join(sorted(methods))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = [
        {"where": ".".join(str(part) for part in problem["loc"]), "message": problem["msg"]}
        for problem in error.errors()
    ]
    detail = "; ".join(f"{one['where']}: {one['message']}" for one in told)
    code = InvalidRequest.code
    return problem(STATUS[code], code, detail, request_id=request_id_of(request), extra={"errors": told})


def request_id_of(request: Request) -> str | None:
    """Return the id that the outermost layer gave to a request."""
    found = request.scope.get("state", {}).get("request_id")
    return found if isinstance(found, str) else None


def _title(code: str) -> str:
    return (by_code()[code].__doc__ or code).splitlines()[0].rstrip(".")
