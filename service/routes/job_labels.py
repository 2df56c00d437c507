"""The published labels of a job, a page at a time, from where they lie."""

from __future__ import annotations

from typing import Any

from manyeyes.errors import NotFound
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.datasets.provenance import read_published
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.routes.job_calls import PATIENCE_S
from manyeyes.service.store.job_records import JobRecord
from manyeyes.sinks import labels_of_table


def read_labels(job: JobRecord, buckets: Buckets, *, start: int, limit: int) -> dict[str, Any]:
    """Return a page of labels, from a position on. One file of labels is in memory at a time.

    Raises NotFound where there are none yet, or those of another job by now; StorageFailed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = job.request["request"]["out"]
    if job.status != "completed":
        raise NotFound(
            f"job {job.id} is {job.status.replace('_', ' ')}; its labels are there once it is completed"
        )
    storage = Storage.open(out, buckets=buckets, patience_s=PATIENCE_S)
    published = read_published(storage)
    if published.job != (job.progress or {}).get("job"):
        raise NotFound(
            f"{out} holds the labels of another job by now; give each job a place of its own where all are to stay"
        )
    rows: list[dict[str, Any]] = []
    first = 0
    for file in published.files:
        skip, first = max(0, start - first), first + file.rows
        if first <= start or len(rows) >= limit:
            continue
        table = pq.read_table(pa.BufferReader(storage.get(file.path)))
        rows += [label.to_dict() for label in labels_of_table(table.slice(skip, limit - len(rows)))]
    more = start + len(rows) < first
    return {
        "data": rows,
        "has_more": more,
        "next_cursor": str(start + len(rows)) if more else None,
    }
