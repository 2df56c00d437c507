"""Whether requests are traced. Nothing of OpenTelemetry is imported unless they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from manyeyes.errors import MissingDependency
from manyeyes.service.operations.settings import OperationsSettings

if TYPE_CHECKING:
    from manyeyes.service.operations.otel import Tracing

log: Final = logging.getLogger("manyeyes.service")

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def asked_for(settings: OperationsSettings, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether traces are wanted: an endpoint is set, and OpenTelemetry's own variables do not turn them off."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if settings.otel_endpoint:
        return True
    return environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() != "none" and any(
        environ.get(name, "").strip() for name in ENDPOINTS
    )


def make_tracing(settings: OperationsSettings, environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return what traces requests, or None where nobody asked.

    Raises MissingDependency if our own setting asks and the extra is not installed; where only OpenTelemetry's
    variables do, which are often set for a whole cluster, that is a warning.
    """
    if not asked_for(settings, environ):
        return None
    try:
        from manyeyes.service.operations.otel import Tracing
    except ImportError as error:
        told = f"traces need OpenTelemetry ({error.name}); pip install 'manyeyes[otel]'"
        if settings.otel_endpoint:
            raise MissingDependency(told) from error
        log.warning("%s; nothing is traced", told)
        return None
    return Tracing(settings.otel_endpoint)
