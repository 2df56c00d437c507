"""What others may do to a job, from any process and machine: cancel it, have its failed rows tried again."""

from __future__ import annotations

from manyeyes.errors import InvalidRequest, NotFound
from manyeyes.service.jobs.datasets.provenance import read_published
from manyeyes.service.jobs.layout import cancel_file
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.events import ENDED, last_status, tell_status
from manyeyes.service.jobs.shapes import Commit
from manyeyes.service.jobs.work.generations import MAY_PASS, Generation, add_generation, latest_generation
from manyeyes.service.jobs.work.job import read_job


def cancel(storage: Storage, job_id: str) -> bool:
    """Have a job stopped, whoever runs it, within seconds; what was done stays. Returns whether there was one to stop.

    Running it again goes on. Raises NotFound if there is no such job.
    """
    read_job(storage, job_id)
    last = last_status(storage, job_id)
    if last is not None and last.status in ENDED:
        return False
    storage.put(cancel_file(job_id), b"{}")
    tell_status(storage, job_id, "cancelling", "somebody asked for it")
    return True


def is_cancelled(storage: Storage, job_id: str) -> bool:
    """Return whether a job shall stop."""
    return storage.exists(cancel_file(job_id))


def is_published(storage: Storage, job_id: str) -> bool:
    """Return whether the labels of a job's newest generation are what is published in its place."""
    try:
        told = read_published(storage)
    except (NotFound, InvalidRequest):
        return False
    return (told.job, told.generation) == (job_id, latest_generation(storage, job_id))


def take_up(storage: Storage, job_id: str) -> bool:
    """Let a job that had been cancelled begin again; return whether it may.

    It may not where it is to be cancelled and nobody has stopped it yet: that may have been meant for who asks here.
    """
    if not is_cancelled(storage, job_id):
        return True
    last = last_status(storage, job_id)
    if last is None or last.status not in ENDED:
        return False
    storage.delete([cancel_file(job_id)])
    return True


def retry_failed(storage: Storage, job_id: str, *, every: bool = False) -> Generation | None:
    """Have the failed rows of a job tried again; the job is then to be run once more. Returns None if there are none.

    every: also those whose failure does not pass by itself, such as images that cannot be decoded. Raises NotFound if
    there is no such job, InvalidRequest if it is under way: then rows are still being tried.
    """
    job = read_job(storage, job_id)
    last = last_status(storage, job.id)
    if last is not None and last.status not in ENDED:
        raise InvalidRequest(
            f"job {job.id} is {last.status}; retry its failed rows once it has ended: run it to its end, or cancel it"
        )
    again = () if every else MAY_PASS
    newest: dict[int, Commit] = {}
    for index in range(latest_generation(storage, job.id) + 1):
        newest |= {commit.shard: commit for commit in Commits(storage, job.id, "votes", index).all()}
    shards = [
        shard
        for shard, commit in newest.items()
        if any(n and (every or code in again) for code, n in commit.counts.errors.items())
    ]
    if not shards:
        return None
    generation = add_generation(storage, job.id, shards, again)
    storage.delete([cancel_file(job.id)])  # a wish that came too late was not meant for this try
    tell_status(
        storage,
        job.id,
        "in_progress",
        f"failed rows of {len(shards):,} shards are tried again",
        generation=generation.index,
    )
    return generation
