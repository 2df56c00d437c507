"""Keys that open the service to others, and the log of who changed what."""

from __future__ import annotations

from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from manyeyes.errors import NotFound
from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.routes.answers import answers
from manyeyes.service.routes.resources import (
    Cursor,
    Limit,
    Only,
    by_whom,
    iso,
    paged,
    read_shape,
    store_of,
    takes,
    told,
    with_status,
)
from manyeyes.service.schemas.access import (
    EXAMPLE_CREATE,
    AuditLine,
    AuditList,
    KeyCreate,
    KeyList,
    KeyOut,
    NewKey,
)
from manyeyes.service.store.records import AuditRecord, KeyRecord

SHAPES: Final = (AuditLine, AuditList, KeyCreate, KeyList, KeyOut, NewKey)

_Id = Annotated[str, Path(max_length=100, examples=["01a2087235a972199e0e12e0faf7d7a2"])]


def make_router(service: Service) -> APIRouter:
    """Return the routes of keys and of the audit."""
    router = APIRouter(tags=["access"])

    @router.post(
        "/v1/keys",
        summary="Make a key",
        status_code=201,
        responses=with_status(answers("NewKey", 404, 408, 409, 413, 415, 422, status=201)),
        openapi_extra=takes("KeyCreate", EXAMPLE_CREATE),
        dependencies=[needs("admin")],
    )
    async def create(request: Request) -> Response:
        """Make a key. Its `secret` is in this answer and nowhere else: only a digest is kept.

        For that reason the answer is not kept under an `Idempotency-Key`, either.
        """
        store = store_of(service)
        asked = await read_shape(request, KeyCreate, EXAMPLE_CREATE)
        who = by_whom(request)
        record, secret = await anyio.to_thread.run_sync(
            lambda: store.keys.create(
                asked.name,
                asked.scopes,
                expires_at=asked.expires_at,
                rate_per_minute=asked.rate_per_minute,
                **who,
            )
        )
        answer = told(
            request, _key(record) | {"secret": secret}, status=201, location=f"/v1/keys/{record.id}"
        )
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @router.get(
        "/v1/keys",
        summary="List the keys",
        responses=with_status(answers("KeyList", 404, 422), 304),
        dependencies=[needs("admin")],
    )
    async def keys(request: Request, limit: Limit = 50, cursor: Cursor = None) -> Response:
        """List the keys of the store, the newest first; those of the settings are the operator's."""
        store = store_of(service)
        page = await anyio.to_thread.run_sync(store.keys.list, limit, cursor)
        return told(request, paged(page, _key))

    @router.get(
        "/v1/keys/{key_id}",
        summary="One key",
        responses=with_status(answers("KeyOut", 404, 422), 304),
        dependencies=[needs("admin")],
    )
    async def key(request: Request, key_id: _Id) -> Response:
        """Return a key without its secret. One that was revoked is gone from here; `GET /v1/keys` lists it still."""
        store = store_of(service)
        record = await anyio.to_thread.run_sync(store.keys.get, key_id)
        if record.revoked_at is not None:
            raise NotFound(
                f"the key {key_id!r} was revoked at {iso(record.revoked_at)}; GET /v1/keys lists it still"
            )
        return told(request, _key(record))

    @router.delete(
        "/v1/keys/{key_id}",
        summary="Revoke a key",
        responses=with_status(answers("KeyOut", 404, 422)),
        dependencies=[needs("admin")],
    )
    async def revoke(request: Request, key_id: _Id) -> Response:
        """End a key for good. Elsewhere it may open something for as long as `MANYEYES_KEY_CACHE_S` says."""
        store = store_of(service)
        who = by_whom(request)
        record = await anyio.to_thread.run_sync(lambda: store.keys.revoke(key_id, **who))
        if service.keys is not None:
            service.keys.forget()
        return told(request, _key(record))

    @router.get(
        "/v1/audit",
        summary="Who changed what",
        responses=with_status(answers("AuditList", 404, 422), 304),
        dependencies=[needs("admin")],
    )
    async def audit(
        request: Request,
        limit: Limit = 50,
        cursor: Cursor = None,
        subject: Only = None,
        actor: Only = None,
        action: Only = None,
    ) -> Response:
        """List every change of recipes, label models, keys and batches, the newest first."""
        store = store_of(service)
        page = await anyio.to_thread.run_sync(
            lambda: store.audit.list(
                limit, cursor, subject=subject or None, actor=actor or None, action=action or None
            )
        )
        return told(request, paged(page, _line))

    return router


def _key(key: KeyRecord) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "author": key.author,
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "rate_per_minute": key.rate_per_minute,
        "revoked_at": iso(key.revoked_at),
        "last_used_at": iso(key.last_used_at),
    }


def _line(line: AuditRecord) -> dict[str, Any]:
    return {
        "id": line.id,
        "created_at": iso(line.created_at),
        "actor": line.actor,
        "action": line.action,
        "subject": line.subject,
        "request_id": line.request_id,
        "details": dict(line.details),
    }
