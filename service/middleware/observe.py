"""Counts and traces every request: the outermost layer, so that what the others refuse counts, too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyeyes.service.operations.metrics import Metrics

if TYPE_CHECKING:
    from manyeyes.service.operations.otel import RequestSpan, Tracing

NO_ROUTE: Final = "(none)"


class Observe:
    """Tells the metrics, and the tracing where there is one, of every request.

    routes: those whose templates are told; what is under none of them is told as "(none)".
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        tracing: Tracing | None = None,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing
        self.routes = tuple(routes)
        # Most paths are their own templates; only the others are matched one by one.
        self._plain = {path for route in routes if "{" not in (path := str(getattr(route, "path", "{")))}

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
            state, route = scope["state"], self._route_of(scope)
            self.metrics.answered(route, scope["method"], status, time.perf_counter() - started)
            if "problem" in state:
                self.metrics.problem(state["problem"])
            if span is not None:
                span.answered(route, status, state.get("facts", {}))

    def _route_of(self, scope: Scope) -> str:
        # Not scope["route"]: a request that was refused before it came to any route is to count under its own, too.
        if scope["path"] in self._plain:
            return str(scope["path"])
        for route in self.routes:
            if route.matches(scope)[0] is not Match.NONE:
                return str(getattr(route, "path_format", NO_ROUTE))
        return NO_ROUTE
