"""What a service says of batch jobs, as small values that never change. Times are UTC and aware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, cast

from manyeyes.client.kept import as_record
from manyeyes.errors import ManyeyesError, ServiceFailed, by_code

JobStatus: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled"
]
FINAL: Final = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class JobCounts:
    """Rows. total: 0 until they are counted. completed: done without an error; failed: with one."""

    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is. pass_: "votes", then "labels". errors: code → rows. seconds: since it first began.

    labeled, abstained, failed: rows. computed: feature → inputs that its model was given.
    """

    pass_: str
    shards_done: int
    shards: int
    labeled: int
    abstained: int
    failed: int
    errors: Mapping[str, int]
    computed: Mapping[str, int]
    seconds: float
    rows_per_s: float | None = None
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobOutput:
    """Where everything of a job lies. job: how it is called there. labels: where they are, once it is completed."""

    uri: str
    job: str | None = None
    labels: str | None = None


@dataclass(frozen=True, slots=True)
class JobState:
    """A batch job as it was a moment ago. errors: why it failed. source: None where its items came with the call."""

    id: str
    status: JobStatus
    request_counts: JobCounts
    created_at: datetime
    recipe: str
    recipe_version: str
    output: JobOutput
    in_progress_at: datetime | None = None
    finalizing_at: datetime | None = None
    completed_at: datetime | None = None
    failed_at: datetime | None = None
    cancelling_at: datetime | None = None
    cancelled_at: datetime | None = None
    errors: tuple[ManyeyesError, ...] = ()
    source: str | None = None
    progress: JobProgress | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    key_id: str = ""
    request_id: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class JobLine:
    """A line of a job's log. kind: a change of "status", or a "log" line. level: such as "warning"."""

    number: int
    created_at: datetime
    kind: str
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that was told of a job. kind: "status", "progress", "log", or "end" with the whole job, the last.

    number: its place among the events; None for what has none. data: as the service tells it.
    """

    kind: str
    data: Mapping[str, Any]
    number: int | None = None


def job_state(told: Mapping[str, Any]) -> JobState:
    """Read a job. Raises KeyError, TypeError or ValueError where it is none."""
    return as_record(
        JobState,
        told,
        request_counts=as_record(JobCounts, told["request_counts"]),
        output=as_record(JobOutput, told["output"]),
        progress=job_progress(told.get("progress")),
        errors=tuple(_error(one) for one in (told.get("errors") or {}).get("data", ())),
    )


def job_progress(told: Mapping[str, Any] | None) -> JobProgress | None:
    """Read how far a job is, where that is said."""
    return None if told is None else as_record(JobProgress, told, pass_=told["pass"])


def with_event(state: JobState, event: JobEvent) -> JobState:
    """Return a job as an event says that it is now."""
    if event.kind == "end":
        return job_state(event.data)
    if event.kind == "progress":
        state = replace(
            state,
            request_counts=as_record(JobCounts, event.data["request_counts"]),
            progress=job_progress(event.data["progress"]),
        )
    if "status" in event.data and event.data["status"] not in FINAL:
        state = replace(state, status=cast(JobStatus, event.data["status"]))
    return state


def _error(told: Mapping[str, str]) -> ManyeyesError:
    return by_code().get(told["code"], ServiceFailed)(told["message"])
