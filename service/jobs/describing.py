"""What a finished job comes to: read once from its commits and parts, shard by shard, and written down."""

from __future__ import annotations

from manyeyes.service.jobs.job import Job
from manyeyes.service.jobs.published import Published
from manyeyes.service.jobs.storage import Storage


def describe(storage: Storage, job: Job, generation: int) -> Published:
    """Return what ``manyeyes.json`` says of a try of a job."""
    raise NotImplementedError
