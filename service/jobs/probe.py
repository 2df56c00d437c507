"""A look at rows from all over a source, when the first ones failed: is it them, or is it everything?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from manyeyes.errors import ItemError
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.breaker import Hopeless, Watched, spread
from manyeyes.service.jobs.fetch import Fetcher
from manyeyes.service.jobs.job import Job
from manyeyes.service.jobs.manifest import read_rows
from manyeyes.service.jobs.rows import item_of
from manyeyes.service.jobs.shapes import Breaker, Manifest, Row
from manyeyes.service.jobs.storage import Storage
from manyeyes.types import Item

_SHARDS: Final = 20
_TRIES: Final = 2


def probe(
    job: Job,
    manifest: Manifest,
    storage: Storage,
    breaker: Breaker,
    buckets: Buckets | None,
    stop: threading.Event,
) -> Hopeless | None:
    """Return why a job is hopeless if more rows from all over it fail than may, or None.

    The rows go the way of all rows, but nothing is written: they are as many as the breaker wants to know, no more.
    """
    rows = list(_spread_rows(manifest, storage, breaker.min_rows))
    watched = Watched(breaker)
    items: list[Item] = []
    with Fetcher(buckets=buckets) as fetcher:
        for place, data, _ in fetcher.fetch(rows, attempts=_TRIES, stop=stop):
            if isinstance(data, ItemError):
                watched.saw(1, [(rows[place].id, data.code, str(data))])
            else:
                items.append(item_of(rows[place], data))
    if items and not stop.is_set():
        labeler = Labeler(job.recipe, extractor=extractor_for(job.recipe, cache=None))
        collected = labeler.collect(items)
        watched.saw(
            len(items),
            [(collected.ids[i], error.code, str(error)) for i, error in collected.errors.items()],
        )
    return None if stop.is_set() else watched.hopeless(least=len(rows))


def _spread_rows(manifest: Manifest, storage: Storage, most: int) -> Iterator[Row]:
    shards = [manifest.shards[place] for place in spread(len(manifest.shards), min(_SHARDS, most))]
    for n, shard in enumerate(shards):
        rows = read_rows(storage, shard)
        # What does not divide goes to the first ones.
        wanted = most // len(shards) + (n < most % len(shards))
        yield from (rows[place] for place in spread(len(rows), wanted))
