"""What is told of a job: changes of its status, what went wrong on the way, and how far it was now and then.

Each event is one small object that is created once under the next number, so that any number of processes may tell of
one job, and whoever reads after a number misses none and sees none twice. A shard that goes well makes no event: ten
thousand shards make a few dozen.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from manyeyes.errors import NotFound, StorageFailed
from manyeyes.service.jobs.layout import events_folder
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import JobStatus

EventKind: TypeAlias = Literal["status", "progress", "problem"]

ENDED: Final = ("completed", "failed", "cancelled")
"""Statuses that stay until somebody runs the job again."""
MOST_CHARS: Final = 4000
_NAME: Final = re.compile(r"(\d{8})\.json")
_TRIES: Final = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was told of a job. id: grows, and never repeats in a job. at: UTC, by the clock of who told it.

    more: flat; of a status its ``status``, of a progress its ``shards_done`` and ``shards``, of a problem its ``shard``
    and ``code``.
    """

    id: int
    at: str
    kind: EventKind
    message: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> JobStatus | None:
        """The status that the job had from here on, where this is a change of status."""
        status = self.more.get("status")
        return cast(JobStatus, status) if self.kind == "status" and status in get_args(JobStatus) else None


def tell(storage: Storage, job: str, kind: EventKind, message: str, **more: Any) -> Event:
    """Add an event to a job's, after all that are there; return it."""
    told = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "kind": kind,
        "message": message[:MOST_CHARS],
        "more": more,
        "by": uuid.uuid4().hex,  # so that no two events are the same bytes, and who created one knows it
    }
    data = json.dumps(told, sort_keys=True, ensure_ascii=False).encode()
    number = max(_numbers(storage, job), default=0) + 1
    for _ in range(_TRIES):
        if storage.create(_path(job, number), data):
            return _event(number, told)
        number += 1
    raise StorageFailed(f"{_TRIES} others told of job {job} at the same time; is one of them in a loop?")


def events_of(storage: Storage, job: str, after: int | None = None) -> list[Event]:
    """Return what was told of a job after an event; by default, all. One listing, and one reading of each new event."""
    numbers = [number for number in _numbers(storage, job) if number > (after or 0)]
    return [event for number in numbers if (event := _read(storage, job, number)) is not None]


def last_status(storage: Storage, job: str) -> Event | None:
    """Return the newest change of a job's status, or None before the first."""
    for number in reversed(_numbers(storage, job)):
        event = _read(storage, job, number)
        if event is not None and event.status is not None:
            return event
    return None


def first_event(storage: Storage, job: str) -> Event | None:
    """Return the oldest event of a job: when it was first started."""
    numbers = _numbers(storage, job)
    return _read(storage, job, numbers[0]) if numbers else None


def tell_status(storage: Storage, job: str, status: JobStatus, message: str = "", **more: Any) -> Event:
    """Add a change of status, unless the job has that status, for that reason, already; return the newest."""
    last = last_status(storage, job)
    if last is not None and (last.status, last.message) == (status, message[:MOST_CHARS]):
        return last
    return tell(storage, job, "status", message, status=status, **more)


def _path(job: str, number: int) -> str:
    return f"{events_folder(job)}{number:08d}.json"


def _numbers(storage: Storage, job: str) -> list[int]:
    """Return the numbers of the events, growing."""
    names = (meta.path.rpartition("/")[2] for meta in storage.list(events_folder(job)))
    return sorted(int(matched[1]) for name in names if (matched := _NAME.fullmatch(name)))


def _read(storage: Storage, job: str, number: int) -> Event | None:
    try:
        return _event(number, json.loads(storage.get(_path(job, number))))
    except NotFound:
        return None  # somebody removes the job


def _event(number: int, told: Mapping[str, Any]) -> Event:
    return Event(number, told["at"], told["kind"], told["message"], told["more"])
