"""Turns a refusal of the service back into the error that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from manyeyes.client.calls import Answer
from manyeyes.errors import ItemError, ManyeyesError, ServiceFailed, ServiceUnavailable, by_code

_BUSY = (429, 503)


def checked(answer: Answer, *, attempts: int = 1) -> Answer:
    """Return a success as it is; raise the error that a problem document names."""
    if answer.is_success:
        return answer
    raise error_of(answer, attempts=attempts)


def error_of(answer: Answer, *, attempts: int = 1) -> ManyeyesError:
    """Return the error that a refusal names, with its status, the id of the request and the whole document.

    What is no problem document of a service (a proxy's page, say) is ServiceUnavailable where the status says so, and
    ServiceFailed otherwise.
    """
    document = _document(answer)
    kind = by_code().get(str(document.get("code")), ServiceFailed)
    detail = str(document.get("detail") or "")
    if not detail:
        detail = (
            f"{answer.url} answered {answer.status} with {answer.text[:200]!r}, which no manyeyes service does; check"
            " base_url and what stands between"
        )
        kind = ServiceUnavailable if answer.status in _BUSY else ServiceFailed
    error = kind(detail)
    error.status = answer.status
    error.request_id = answer.request_id or _text(document.get("request_id"))
    error.attempts = attempts
    error.problem = document
    return error


def code_of(answer: Answer) -> str | None:
    """Return the code that a problem document names, or None."""
    return _text(_document(answer).get("code"))


def item_error(told: Mapping[str, Any] | None) -> ItemError | None:
    """Return what is wrong with one item, as ``{"code", "message"}`` tells it; None where nothing is."""
    if told is None:
        return None
    kind = by_code().get(str(told["code"]), ItemError)
    return (kind if issubclass(kind, ItemError) else ItemError)(str(told["message"]))


def _document(answer: Answer) -> Mapping[str, Any]:
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        told = json.loads(answer.content)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
