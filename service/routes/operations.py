"""What watches the service: whether it is ready, and what it counts."""

from __future__ import annotations

from typing import Final

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from manyeyes.errors import ServiceUnavailable
from manyeyes.service.access.callers import needs, open_to_all
from manyeyes.service.context import Service
from manyeyes.service.errors import RETRY_AFTER_S, STATUS, problem, request_id_of
from manyeyes.service.routes.answers import answers, as_json
from manyeyes.service.schemas.operations import Ready

SHAPES: Final = (Ready,)

_PAGE: Final = {
    media_type: {"schema": {"type": "string"}}
    for media_type in ("text/plain", "application/openmetrics-text")
}


def make_router(service: Service) -> APIRouter:
    """Return the routes that watch."""
    router = APIRouter(tags=["operations"])

    @router.get(
        "/readyz",
        summary="Can the service do its work now?",
        responses=answers("Ready"),
        dependencies=[open_to_all()],
    )
    async def readyz(request: Request) -> Response:
        """Say whether calls may be sent here: the pipeline lives, models answer, the store answers, nothing drains.

        Otherwise a problem document with status 503, whose `checks` say what is down. It looks at most once a second.
        """
        told = await service.readiness.look()
        wrong = {name: fault for name, fault in told.items() if fault is not None}
        if not wrong:
            return as_json({"status": "ready", "checks": dict.fromkeys(told, "ok")})
        code = ServiceUnavailable.code
        return problem(
            STATUS[code],
            code,
            "not ready: " + "; ".join(f"{name}: {fault}" for name, fault in wrong.items()),
            request_id=request_id_of(request),
            headers={"Retry-After": str(RETRY_AFTER_S)},
            extra={"checks": {name: fault or "ok" for name, fault in told.items()}},
        )

    @router.get(
        "/metrics",
        summary="Metrics, for Prometheus",
        responses=answers(None, others=_PAGE),
        dependencies=[open_to_all() if service.settings.open_metrics else needs("read")],
    )
    async def metrics(request: Request) -> Response:
        """Return what the service counts, as Prometheus' text, or as OpenMetrics where `Accept` asks for that."""
        page, media_type = await anyio.to_thread.run_sync(
            service.metrics.page, request.headers.get("accept", "")
        )
        return Response(page, headers={"Content-Type": media_type})

    return router
