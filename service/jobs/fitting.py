"""The label model of a job, fitted on the votes of all its rows, which are read shard by shard and forgotten."""

from __future__ import annotations

from manyeyes.service.jobs.job import Job
from manyeyes.service.jobs.storage import Storage


def fit_on_votes(job: Job, storage: Storage, generation: int) -> str:
    """Fit the label model of a generation on its committed votes, once; return its version.

    Every shard's votes must be committed. One that was given with the job is taken as it is. Deterministic, and kept in
    the job's folder by whoever is first, so that all who ask get the same.
    """
    raise NotImplementedError


def label_model_files(job: Job, storage: Storage, generation: int) -> dict[str, bytes]:
    """Return the files of the label model that a generation's labels come from, by name.

    Raises NotFound if it is not fitted yet, WeightsMismatch if they are damaged.
    """
    raise NotImplementedError
