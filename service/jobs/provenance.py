"""Publishing: from the commits of a finished job to a dataset that readers may follow.

The winning labels parts are copied to ``labels/part-*.parquet``, then ``manyeyes.json`` is replaced in one step.
"""

from __future__ import annotations

from manyeyes.service.jobs.published import Published
from manyeyes.service.jobs.storage import Storage


def publish(storage: Storage, job: str, generation: int) -> Published:
    """Make what a job's labels pass committed the dataset of this place; return what ``manyeyes.json`` says.

    job: its id. generation: the newest whose labels pass is complete. May be called again, by several coordinators at
    once and after any interruption: the place ends with the newest of what was published, and nothing of anything
    older. Raises InvalidRequest if a shard has no commit, StorageFailed if the place cannot be written.
    """
    raise NotImplementedError


def read_published(storage: Storage) -> Published:
    """Return what ``manyeyes.json`` says. Raises NotFound where nothing was published yet, telling how far a job is."""
    raise NotImplementedError
