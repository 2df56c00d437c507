"""What the store keeps of batch jobs, as records that never change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

Status: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled"
]
FINAL: Final = ("completed", "failed", "cancelled")
"""Where a job stays, until somebody retries it."""
OPEN: Final = ("validating", "in_progress", "finalizing", "cancelling")
Wish: TypeAlias = Literal["run", "cancel", "retry", "resume"]
Kind: TypeAlias = Literal["status", "progress", "log"]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A batch job. request: what its process is told; its ``request`` is a ``JobRequest``.

    progress: as it was last told; None before. wish: what is to happen next. claim: who runs it, if anybody; beat:
    grows for as long as it does. crashes: how often its process died since it last got on. n_events: the number of its
    last event. errors: why it failed.
    """

    id: str
    created_at: datetime
    key_id: str
    request_id: str | None
    recipe_name: str
    recipe_version: str
    request: Mapping[str, Any]
    metadata: Mapping[str, str]
    status: Status
    wish: Wish
    claim: str | None
    beat: int
    crashes: int
    n_events: int
    progress: Mapping[str, Any] | None
    errors: tuple[Mapping[str, str], ...]
    in_progress_at: datetime | None = None
    finalizing_at: datetime | None = None
    completed_at: datetime | None = None
    failed_at: datetime | None = None
    cancelling_at: datetime | None = None
    cancelled_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class OpenJob:
    """As much of a job that is not over as is looked at every second."""

    id: str
    status: Status
    wish: Wish
    claim: str | None
    beat: int
    n_events: int


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that was told of a job. number: 1, 2, … without gaps. kind: of the status, the progress, or a line."""

    number: int
    created_at: datetime
    kind: Kind
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class News:
    """What whoever runs a job has to say of it. Of members that are None nothing changes.

    events: (kind, data), in order; a change of status is one by itself.
    """

    status: Status | None = None
    wish: Wish | None = None
    progress: Mapping[str, Any] | None = None
    errors: tuple[Mapping[str, str], ...] | None = None
    crashes: int | None = None
    events: tuple[tuple[Kind, Mapping[str, Any]], ...] = field(default=())
