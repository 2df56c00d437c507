"""Which job was begun last in a place."""

from __future__ import annotations

import json

from manyeyes.errors import NotFound
from manyeyes.service.jobs.layout import LATEST
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.work.job import Job, read_job


def find_job(storage: Storage, job_id: str | None = None) -> Job:
    """Return a job; without an id, the one that was begun last. Raises NotFound if there is none."""
    if job_id is not None:
        return read_job(storage, job_id)
    found = read_latest(storage)
    if found is None:
        raise NotFound(
            f"no job was begun in {storage.uri}; manyeyes job run SOURCE --recipe R --out … begins one"
        )
    return read_job(storage, found)


def read_latest(storage: Storage) -> str | None:
    """Return the id of the job that was begun last, or None before the first."""
    try:
        return str(json.loads(storage.get(LATEST))["job"])
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # damaged: what it saves is a listing, and every job is still there under its id


def write_latest(storage: Storage, job: Job) -> bool:
    """Note that a job was begun last, unless that stands there already. Returns whether it is the place's first."""
    latest = read_latest(storage)
    if latest != job.id:
        storage.put(LATEST, json.dumps({"job": job.id, "manifest": job.manifest}, sort_keys=True).encode())
    return latest is None
