"""What can be asked of batch jobs: one function a route, which returns the call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

from manyeyes.client.calls import Call, place
from manyeyes.client.items import Form, Labelable, fill_form
from manyeyes.client.job_records import JobLine, JobState, job_state
from manyeyes.client.kept import Page, as_record
from manyeyes.client.resource_routes import PAGE
from manyeyes.errors import InvalidRequest
from manyeyes.types import Label

SourceLike: TypeAlias = "str | Mapping[str, Any] | Iterable[Labelable]"
"""Where the rows of a job come from: the address of a bucket's prefix, a table or an archive; the same with options,
as ``{"uri": …, "kind": …, "columns": …, "join": …, "recursive": …}``; or a list of items, with images by address."""
EngineName: TypeAlias = Literal["local", "ray"]

_SOURCE: Final = ("uri", "kind", "columns", "join", "recursive")


def submit(source: SourceLike, recipe: str, out: str, options: Mapping[str, Any]) -> Call[JobState]:
    """Ask for a job. options: fields of the call; those that are None are left out."""
    body: dict[str, Any] = {"recipe": recipe, "out": out}
    if isinstance(source, str):
        body["source"] = source
    elif isinstance(source, Mapping) and set(source) <= set(_SOURCE):
        body["source"] = dict(source)
    else:
        body["items"] = _entries(fill_form(source))
    body |= {name: value for name, value in options.items() if value is not None}
    return Call("POST", place("jobs"), _read, body=body, writes=True)


def job(id: str) -> Call[JobState]:
    """Read one job."""
    return Call("GET", place("jobs", id), _read)


def jobs(status: str | None, cursor: str | None) -> Call[Page[JobState]]:
    """List jobs."""
    return Call(
        "GET",
        place("jobs"),
        lambda answer: answer.read(
            lambda told: Page(tuple(job_state(row) for row in told["data"]), told["next_cursor"])
        ),
        params={"limit": PAGE, "cursor": cursor, "status": status},
    )


def cancel(id: str) -> Call[JobState]:
    """End a job early."""
    return Call("POST", place("jobs", id, "cancel"), _read, writes=True)


def retry(id: str) -> Call[JobState]:
    """Try failed rows again, or go on with a job that was not done."""
    return Call("POST", place("jobs", id, "retry"), _read, writes=True)


def logs(id: str, cursor: str | None) -> Call[Page[JobLine]]:
    """Read what happened to a job."""
    return Call(
        "GET",
        place("jobs", id, "logs"),
        lambda answer: answer.read(
            lambda told: Page(tuple(as_record(JobLine, row) for row in told["data"]), told["next_cursor"])
        ),
        params={"limit": PAGE, "cursor": cursor},
    )


def labels(id: str, cursor: str | None) -> Call[Page[Label]]:
    """Read labels of a job."""
    return Call(
        "GET",
        place("jobs", id, "labels"),
        lambda answer: answer.read(
            lambda told: Page(tuple(Label.from_dict(row) for row in told["data"]), told["next_cursor"])
        ),
        params={"limit": 1000, "cursor": cursor},
    )


def events(id: str, last: int) -> Call[Any]:
    """Follow a job. last: the number of the last event that came."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    return Call(
        "GET",
        place("jobs", id, "events"),
        lambda answer: answer,
        headers=headers | ({"Last-Event-ID": str(last)} if last else {}),
    )


def options_of(
    *,
    fit: bool,
    gold: str | None,
    metadata: Mapping[str, str] | None,
    shard_rows: int | None,
    attempts: int | None,
    max_error_rate: float | None,
    min_rows: int | None,
    engine: EngineName | None,
    workers: int | None,
    update: bool,
    same_rows: bool,
) -> dict[str, Any]:
    """Return the options of a job as the service reads them; what the service does by itself is not sent."""
    breaker = {"max_error_rate": max_error_rate, "min_rows": min_rows}
    engines = {"name": engine, "workers": workers}
    return {
        "fit": fit or None,
        "gold": gold,
        "metadata": None if not metadata else dict(metadata),
        "shard_rows": shard_rows,
        "attempts": attempts,
        "breaker": {name: value for name, value in breaker.items() if value is not None} or None,
        "engine": {name: value for name, value in engines.items() if value is not None} or None,
        "update": None if update else False,
        "same_rows": same_rows or None,
    }


def _entries(form: Form) -> list[Any]:
    for label in form.unsent.values():
        assert label.error is not None
        raise label.error
    if form.files:
        raise InvalidRequest(
            "the images of a job come by address: put them into a bucket that the service reads, and pass Url('s3://…'),"
            " or the bucket's address as the source; `client.label_many` sends files"
        )
    return [json.loads(entry) for entry in form.entries]


def _read(answer: Any) -> JobState:
    state: JobState = answer.read(job_state)
    return state
