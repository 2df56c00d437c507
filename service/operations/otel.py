"""Traces by OpenTelemetry, sent to a collector over OTLP/HTTP. Imported only where traces are asked for.

What is sent: names of stages, times, counts, the route, the recipe's name. What callers sent is in no span.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from manyeyes import __version__
from manyeyes.service.operations.spans import TRACE, Attribute


class Tracing:
    """Traces of one app, with a provider of its own: what else in the process traces is left alone.

    endpoint: where a collector listens, as http://collector:4318; empty where the variables of OpenTelemetry say it.
    """

    def __init__(self, endpoint: str = "") -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win; OTEL_TRACES_SAMPLER is read by the provider.
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "manyeyes"}))
        url = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("manyeyes.service", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """Trace a request, below the span of the caller where its ``traceparent`` names one."""
        # Not the path itself: it may hold what callers made up, and names of spans are to be few.
        span = self._tracer.start_span(
            method,
            context=self._propagator.extract(headers),
            kind=api.SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": path[:200]},
        )
        token = contexts.attach(api.set_span_in_context(span))
        trace = TRACE.set(self)
        try:
            yield RequestSpan(span, method, self._propagator)
        finally:
            TRACE.reset(trace)
            contexts.detach(token)
            span.end()

    def span(self, name: str, attributes: dict[str, Attribute]) -> AbstractContextManager[Any]:
        """Return a context whose time is a span; an exception that leaves it is noted by its type alone."""
        return self._span(name, attributes)

    @contextmanager
    def _span(self, name: str, attributes: dict[str, Attribute]) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                # Its message may quote what came in.
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(api.Status(api.StatusCode.ERROR))
                raise

    def place(self) -> contexts.Context:
        """Return the context that is current here."""
        return contexts.get_current()

    def record(
        self, place: Any, name: str, started_ns: int, ended_ns: int, attributes: dict[str, Attribute]
    ) -> None:
        """Keep a span that is over."""
        span = self._tracer.start_span(name, context=place, start_time=started_ns, attributes=attributes)
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is left, as far as the collector takes it, and stop."""
        self._provider.force_flush(5_000)
        self._provider.shutdown()


class RequestSpan:
    """The span of a request."""

    def __init__(self, span: api.Span, method: str, propagator: TraceContextTextMapPropagator) -> None:
        self._span = span
        self._method = method
        self._propagator = propagator

    @property
    def trace_id(self) -> str:
        """The id of the trace, 32 hexadecimal digits."""
        return api.format_trace_id(self._span.get_span_context().trace_id)

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says of the trace."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, api.set_span_in_context(self._span))
        return carrier

    def answered(self, route: str, status: int | None, facts: Mapping[str, Any]) -> None:
        """Say what came of the request. facts: of the log's line."""
        self._span.update_name(f"{self._method} {route}")
        self._span.set_attribute("http.route", route)
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        for fact, value in facts.items():
            if isinstance(value, (str, int, float, bool)):
                self._span.set_attribute(f"manyeyes.{fact}", value)
        if status is None or status >= 500:
            self._span.set_status(api.Status(api.StatusCode.ERROR))
