"""Probes."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from manyeyes.service.access.callers import open_to_all
from manyeyes.service.context import Service
from manyeyes.service.routes.answers import answers, as_json
from manyeyes.service.schemas.base import Health

SHAPES = (Health,)


def make_router(_: Service) -> APIRouter:
    """Return the routes of probes."""
    router = APIRouter(tags=["operations"])

    @router.get(
        "/healthz",
        summary="Does the process answer?",
        responses=answers("Health"),
        dependencies=[open_to_all()],
    )
    async def healthz() -> Response:
        return as_json({"status": "ok"})

    return router
