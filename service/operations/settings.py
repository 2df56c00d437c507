"""What the operator decides about watching the service: its log, its metrics, its probes, its traces."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, Field


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


LogFormat: TypeAlias = Annotated[Literal["json", "text"], BeforeValidator(_lower)]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)
]


class OperationsSettings(BaseModel):
    """How a service is watched.

    log_format: one JSON object a line, or text for people. log_level: what is less grave is not written.
    open_metrics: whether /metrics needs no key.
    canary_every_s: how often each loaded model sees a made image. canary_timeout_s: how long that may take before
        /readyz says so. stale_after_s: how old the heartbeat of a stage may be.
    otel_endpoint: where traces go, as http://collector:4318; without it, OTEL_EXPORTER_OTLP_ENDPOINT decides.
    """

    log_format: LogFormat = "json"
    log_level: LogLevel = "info"
    open_metrics: bool = False
    canary_every_s: float = Field(default=30.0, gt=0)
    canary_timeout_s: float = Field(default=20.0, gt=0)
    stale_after_s: float = Field(default=30.0, gt=0)
    otel_endpoint: str = Field(default="", max_length=2_000, repr=False)
