"""A batch job as the service tells of it: in the shape of OpenAI's batches, with times as everywhere here."""

from __future__ import annotations

from typing import Any, Final

from manyeyes.service.jobs.layout import LABELS
from manyeyes.service.routes.resources import iso
from manyeyes.service.store.job_records import JobEvent, JobRecord

_TIMES: Final = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "cancelling_at",
    "cancelled_at",
)


def job_answer(job: JobRecord) -> dict[str, Any]:
    """Return a job as JSON."""
    asked, progress = job.request["request"], job.progress
    told: dict[str, Any] = {
        "id": job.id,
        "object": "job",
        "status": job.status,
        "request_counts": counts_of(progress),
        "created_at": iso(job.created_at),
        **{name: iso(getattr(job, name)) for name in _TIMES},
        "errors": {"object": "list", "data": [dict(error) for error in job.errors]} if job.errors else None,
        "recipe": job.recipe_name,
        "recipe_version": job.recipe_version,
        "source": None if job.request.get("submitted") else asked["source"]["uri"],
        "output": {
            "uri": asked["out"],
            "job": (progress or {}).get("job") or None,
            "labels": f"{asked['out'].rstrip('/')}/{LABELS}" if job.status == "completed" else None,
        },
        "progress": None if progress is None else progress_answer(progress),
        "metadata": dict(job.metadata),
        "key_id": job.key_id,
        "request_id": job.request_id,
    }
    return told


def counts_of(progress: Any) -> dict[str, int]:
    """Return OpenAI's three numbers. completed: rows that models and functions are done with, without an error."""
    if not progress:
        return {"total": 0, "completed": 0, "failed": 0}
    counts = progress["counts"]
    failed = int(counts["failed"])
    return {
        "total": int(progress.get("n_rows") or 0),
        "completed": max(0, int(counts["rows"]) - failed),
        "failed": failed,
    }


def progress_answer(progress: Any) -> dict[str, Any]:
    """Return how far a job is, as its process told it."""
    counts = progress["counts"]
    return {
        "pass": progress["pass_"],
        "shards_done": progress["shards_done"],
        "shards": progress["shards"],
        **{name: counts[name] for name in ("labeled", "abstained", "failed")},
        "errors": dict(counts["errors"]),
        "computed": dict(progress["computed"]),
        "seconds": progress["seconds"],
        "rows_per_s": progress["rows_per_s"],
        "eta_s": progress["eta_s"],
    }


def event_answer(event: JobEvent) -> dict[str, Any]:
    """Return what an event of the stream holds."""
    at = {"created_at": iso(event.created_at)}
    if event.kind == "progress":
        return {
            **at,
            "status": event.data["status"],
            "request_counts": counts_of(event.data),
            "progress": progress_answer(event.data),
        }
    return at | dict(event.data)


def line_answer(event: JobEvent) -> dict[str, Any]:
    """Return an event as a line of the job's log."""
    data = event.data
    if event.kind == "status":
        wrong = "; ".join(f"{error['code']}: {error['message']}" for error in data.get("errors", ()))
        told = f"the job is {data['status'].replace('_', ' ')}" + (f": {wrong}" if wrong else "")
        level = "error" if data["status"] == "failed" else "info"
    else:
        told, level = data["message"], data["level"]
    return {
        "number": event.number,
        "created_at": iso(event.created_at),
        "kind": event.kind,
        "level": level,
        "message": told,
    }
