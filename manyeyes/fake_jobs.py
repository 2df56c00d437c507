"""The batch jobs of a service that is none; see :mod:`manyeyes.testing`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from manyeyes.errors import ManyeyesError, NotFound, WrongState
from manyeyes.types import Label

_FINAL: Final = ("completed", "failed", "cancelled")


@dataclass(slots=True)
class FakeJob:
    """A job of the double. ids: of its rows. status: as the next call sees it."""

    id: str
    call: Mapping[str, Any]
    ids: Sequence[str]
    status: str = "validating"
    errors: list[dict[str, str]] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    fails_with: ManyeyesError | None = None


class FakeJobs:
    """Answers ``/v1/jobs``. label: an id → its label. hold: whether jobs stay under way until they are cancelled.

    A job gets on by itself whenever its events are asked for, and a step whenever it is.
    """

    def __init__(self, label: Callable[[str], Label], all_ids: Callable[[], Sequence[str]]) -> None:
        self._label = label
        self._all_ids = all_ids
        self._sources: dict[str, tuple[str, ...]] = {}
        self._failing: list[ManyeyesError] = []
        self._jobs: dict[str, FakeJob] = {}
        self.hold = False

    def put(self, source: str, ids: Sequence[str]) -> None:
        """Say which rows there are at an address; at others are all items that the double has labels for."""
        self._sources[source] = tuple(ids)

    def fail(self, error: ManyeyesError) -> None:
        """Let the next job fail; a retry of it does not."""
        self._failing.append(error)

    def answer(
        self, method: str, path: str, params: Mapping[str, str], body: Any, last: str
    ) -> httpx.Response | None:
        """Answer a call; None if it is about no jobs. Raises what a service would refuse it with."""
        parts = path.strip("/").split("/")
        if parts[:2] != ["v1", "jobs"]:
            return None
        if parts[2:] == []:
            return self._made(body) if method == "POST" else self._listed(params)
        job = self._jobs.get(parts[2])
        if job is None:
            raise NotFound(f"there is no job {parts[2]!r} of this key; GET /v1/jobs lists all")
        what = "/".join(parts[3:])
        if (method, what) == ("GET", ""):
            self._step(job)
        elif (method, what) == ("POST", "cancel"):
            self._become(job, "cancelled" if job.status not in _FINAL else job.status)
        elif (method, what) == ("POST", "retry"):
            self._retry(job)
        elif (method, what) == ("GET", "events"):
            return self._events(job, int(last or 0))
        elif (method, what) == ("GET", "logs"):
            return _page([_line(n, told) for n, (kind, told) in enumerate(job.events, 1) if kind == "status"])
        elif (method, what) == ("GET", "labels"):
            if job.status != "completed":
                raise NotFound(f"job {job.id} is {job.status}; its labels are there once it is completed")
            return _page([self._label(id).to_dict() for id in job.ids])
        else:
            return None
        return httpx.Response(200, json=self._told(job))

    def _made(self, call: Any) -> httpx.Response:
        if call.get("items") is not None:
            ids = [item["id"] for item in call["items"]]
        else:
            source = call["source"]
            uri = source if isinstance(source, str) else source["uri"]
            ids = list(self._sources.get(uri, self._all_ids()))
        job = FakeJob(f"{len(self._jobs) + 1:032x}", call, ids)
        job.events.append(("status", {"status": "validating"}))
        job.fails_with = self._failing.pop(0) if self._failing else None
        self._jobs[job.id] = job
        return httpx.Response(201, json=self._told(job))

    def _listed(self, params: Mapping[str, str]) -> httpx.Response:
        wanted = params.get("status")
        jobs = [job for job in reversed(self._jobs.values()) if wanted in (None, job.status)]
        return _page([self._told(job) for job in jobs])

    def _retry(self, job: FakeJob) -> None:
        failed = self._told(job)["request_counts"]["failed"]
        if job.status not in _FINAL or (job.status == "completed" and not failed):
            raise WrongState(f"job {job.id} is {job.status}: there is nothing to retry")
        job.errors = []
        self._become(job, "validating")

    def _step(self, job: FakeJob) -> None:
        if job.status == "validating":
            self._become(job, "in_progress")
        elif job.status == "in_progress" and not self.hold:
            if job.fails_with is not None:
                job.errors = [{"code": job.fails_with.code, "message": str(job.fails_with)}]
                job.fails_with = None
                self._become(job, "failed")
            else:
                told = self._told(job) | {"status": "completed"}
                job.status = "completed"
                counted = self._told(job)
                progress = {name: counted[name] for name in ("request_counts", "progress")}
                job.events.append(("progress", {"status": told["status"], **progress}))
                job.events.append(("status", {"status": "completed"}))

    def _become(self, job: FakeJob, status: str) -> None:
        if status != job.status:
            job.status = status
            job.events.append(("status", {"status": status}))

    def _events(self, job: FakeJob, last: int) -> httpx.Response:
        before = ""
        while job.status not in _FINAL and job.status != before:
            before = job.status
            self._step(job)
        lines = [
            f"id: {n}\nevent: {kind}\ndata: {json.dumps(told)}\n\n"
            for n, (kind, told) in enumerate(job.events, 1)
            if n > last
        ]
        if job.status in _FINAL:
            lines.append(f"event: end\ndata: {json.dumps(self._told(job))}\n\n")
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text="".join(lines))

    def _told(self, job: FakeJob) -> dict[str, Any]:
        labels = [self._label(id) for id in job.ids]
        by_status = Counter(label.status for label in labels) if job.status == "completed" else Counter[str]()
        n_failed = by_status["error"]
        recipe = job.call["recipe"]
        progress = {
            "pass": "labels" if job.status == "completed" else "votes",
            "shards_done": int(job.status == "completed"),
            "shards": 1,
            "labeled": by_status["labeled"],
            "abstained": by_status["abstained"],
            "failed": n_failed,
            "errors": Counter(label.error.code for label in labels if label.error) if n_failed else {},
            "computed": {},
            "seconds": 0.0,
        }
        source = job.call.get("source")
        out = job.call["out"]
        return {
            "id": job.id,
            "object": "job",
            "status": job.status,
            "request_counts": {
                "total": len(job.ids),
                "completed": by_status["labeled"] + by_status["abstained"],
                "failed": n_failed,
            },
            "created_at": _now(),
            "errors": {"object": "list", "data": job.errors} if job.errors else None,
            "recipe": recipe if isinstance(recipe, str) and ":" not in recipe else "fake",
            "recipe_version": "fake",
            "source": source["uri"] if isinstance(source, dict) else source,
            "output": {"uri": out, "labels": f"{out}/labels/" if job.status == "completed" else None},
            "progress": None if job.status == "validating" else progress,
            "metadata": job.call.get("metadata", {}),
            "key_id": "fake",
        }


def _page(rows: list[Any]) -> httpx.Response:
    return httpx.Response(200, json={"data": rows, "has_more": False, "next_cursor": None})


def _line(number: int, told: Mapping[str, Any]) -> dict[str, Any]:
    message = f"the job is {told['status']}"
    return {"number": number, "created_at": _now(), "kind": "status", "level": "info", "message": message}


def _now() -> str:
    return datetime.now(UTC).isoformat()
