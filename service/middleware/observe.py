"""Counts and traces every request: the outermost layer, so that what the others refuse counts, too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyeyes.service.operations.metrics import Metrics

if TYPE_CHECKING:
    from manyeyes.service.operations.otel import RequestSpan, Tracing

NO_ROUTE: Final = "(none)"


class Observe:
    """Tells the metrics, and the tracing where there is one, of every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        if self.tracing is None:
            await self._measured(scope, receive, send, None)
            return
        with self.tracing.request(scope["method"], scope["path"], Headers(scope=scope)) as span:
            scope["state"]["trace_id"] = span.trace_id
            await self._measured(scope, receive, send, span)

    async def _measured(self, scope: Scope, receive: Receive, send: Send, span: RequestSpan | None) -> None:
        status: int | None = None
        started = time.perf_counter()

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                if span is not None:
                    MutableHeaders(scope=message).update(span.headers)
            await send(message)

        self.metrics.http_open.inc()
        try:
            await self.app(scope, receive, send_watched)
        finally:
            self.metrics.http_open.dec()
            state, route = scope["state"], route_of(scope)
            self.metrics.answered(route, scope["method"], status, time.perf_counter() - started)
            if "problem" in state:
                self.metrics.problem(state["problem"])
            if span is not None:
                span.answered(route, status, state.get("facts", {}))


def route_of(scope: Scope) -> str:
    """Return the template of the route that a request is for, such as /v1/recipes/{name}, or "(none)".

    Also of a request that was refused before it came to any route: nobody makes up values of a label.
    """
    found = scope.get("route")
    if found is None and (app := scope.get("app")) is not None:
        for route in app.routes:
            if route.matches(scope)[0] is not Match.NONE:
                found = route
                break
    return getattr(found, "path", NO_ROUTE)
