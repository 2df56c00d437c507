"""A look at rows from all over a source: is it a few that fail, or is it everything?"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from manyeyes.errors import ItemError
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.coordination.breaker import Hopeless, Watched, spread
from manyeyes.service.jobs.engines.base import Engine
from manyeyes.service.jobs.manifests.fetch import Fetcher
from manyeyes.service.jobs.manifests.manifest import read_rows
from manyeyes.service.jobs.manifests.rows import item_of
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Breaker, Manifest, Row
from manyeyes.service.jobs.work.job import Job
from manyeyes.service.jobs.work.worker import RowError
from manyeyes.types import Item

log: Final = logging.getLogger("manyeyes.service.jobs")

FIRST_ROWS: Final = 8
"""Rows that are looked at before anything is known of any. If all of them fail, more are."""
_SHARDS: Final = 20
_TRIES: Final = 2


class Probe:
    """Looks at rows of a job as its workers do, where they work, and writes nothing."""

    def __init__(
        self, job: Job, manifest: Manifest, storage: Storage, engine: Engine, buckets: Buckets | None
    ) -> None:
        self._job = job
        self._manifest = manifest
        self._storage = storage
        self._engine = engine
        self._buckets = buckets

    def hopeless(self, breaker: Breaker, stop: threading.Event) -> Hopeless | None:
        """Return why a job is hopeless if, of as many rows as the breaker wants to know, more fail than may."""
        return self._look(breaker, breaker.min_rows, stop)

    def begins_badly(self, stop: threading.Event) -> bool:
        """Return whether the first few rows, from all over, fail without exception.

        No endpoint is asked, and maybe paid, to find that out.
        """
        if any(lf.kind == "chat" for lf in self._job.recipe.lfs):
            return False
        return self._look(Breaker(max_error_rate=0.999), FIRST_ROWS, stop) is not None

    def _look(self, breaker: Breaker, n_rows: int, stop: threading.Event) -> Hopeless | None:
        rows = list(spread_rows(self._manifest, self._storage, n_rows))
        watched = Watched(breaker)
        try:
            n_seen, errors = self._engine.call(look_at, self._job, rows, self._buckets, stop=stop)
        except Exception as error:  # the workers themselves will say it better, if it concerns them, too
            log.info("rows could not be tried: %s", error)
            return None
        watched.saw(n_seen, errors)
        return None if stop.is_set() else watched.hopeless(least=len(rows))


def look_at(job: Job, rows: Sequence[Row], buckets: Buckets | None) -> tuple[int, list[RowError]]:
    """Return how many rows were looked at, and what failed of them."""
    errors: list[RowError] = []
    items: list[Item] = []
    with Fetcher(buckets=buckets) as fetcher:
        for place, data, _ in fetcher.fetch(rows, attempts=_TRIES):
            if isinstance(data, ItemError):
                errors.append((rows[place].id, data.code, str(data)))
            else:
                items.append(item_of(rows[place], data))
    if items:
        labeler = Labeler(job.recipe, extractor=extractor_for(job.recipe, cache=None))
        collected = labeler.collect(items)
        errors += [(collected.ids[i], error.code, str(error)) for i, error in collected.errors.items()]
    return len(rows), errors


def spread_rows(manifest: Manifest, storage: Storage, most: int) -> Iterator[Row]:
    """Yield up to ``most`` rows from all over a manifest; of few shards, for each has to be read."""
    shards = [manifest.shards[place] for place in spread(len(manifest.shards), min(_SHARDS, most))]
    for n, shard in enumerate(shards):
        rows = read_rows(storage, shard)
        wanted = most // len(shards) + (n < most % len(shards))
        yield from (rows[place] for place in spread(len(rows), wanted))
