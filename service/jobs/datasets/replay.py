"""Labels made again from the bytes at the source, by the same code and with the same models as the job made them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from manyeyes.fitting import Collected
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.manifests.fetch import Fetcher
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row, Shard
from manyeyes.service.jobs.work.fitting import label_model_files
from manyeyes.service.jobs.work.job import Job, load_files
from manyeyes.service.jobs.work.label_table import label_table
from manyeyes.service.jobs.work.seeing import Seeing, error_of_row
from manyeyes.service.jobs.work.voting import collect

_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class Replayed:
    """Rows made again. labels: their table, as a job writes it. unread: row → code and message, of those whose bytes
    could not be had."""

    labels: Any
    unread: dict[int, tuple[str, str]]


class Replay:
    """Labels rows as a job does, without a cache, without stored features, and without writing anything of it.

    A context manager. Raises ModelNotFound, WeightsMismatch or MissingDependency if what the job used is not here.
    """

    def __init__(
        self, job: Job, storage: Storage, generation: int, *, buckets: Buckets | None = None
    ) -> None:
        self.job = job
        self.labeler = Labeler(job.recipe, extractor=extractor_for(job.recipe, cache=None))
        load_files(self.labeler, label_model_files(job, storage, generation))
        self._scratch = tempfile.TemporaryDirectory(prefix="manyeyes-replay-")
        self._fetcher = Fetcher(buckets=buckets)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fetcher.close()
        self._scratch.cleanup()

    def differing(self) -> dict[str, tuple[str, str]]:
        """Return what is another version here than it was: its name → its version then, and now.

        Primitives go by the name of their feature, Python functions by that of their labeling function.
        """
        now = self.labeler.extractor.versions(self.labeler.needs)
        then = dict(self.job.versions)
        for lf in self.labeler.lfs:
            if lf.operator_only:
                lf.prepare(self.labeler.extractor)
                now[lf.name], then[lf.name] = lf.version, self.job.lf_versions.get(lf.name, "")
        return {
            name: (then.get(name, ""), version) for name, version in now.items() if then.get(name) != version
        }

    def label(self, rows: Sequence[Row]) -> Replayed:
        """Label rows from their bytes."""
        fetched = _Noting(self._fetcher)
        seeing = Seeing(
            self.labeler.extractor,
            Storage.open(self._scratch.name),
            fetched,
            needs=self.labeler.needs,
            versions=self.job.versions,
            attempts=_ATTEMPTS,
        )
        # The name of a shard that nobody stored features of.
        digest = hashlib.sha256("\n".join(row.id for row in rows).encode()).hexdigest()
        shard = Shard(0, "", digest, len(rows))
        wrong = {i: error for i, row in enumerate(rows) if (error := error_of_row(row)) is not None}
        seen = seeing.see(
            shard, rows, wrong=wrong, stored=False, stop=lambda: False, on_chunk=lambda *_: None
        )
        part = collect(self.labeler, seen, attempts={})
        labels = self.labeler.fuse(Collected(part.votes, part.errors, part.ids, part.embeddings))
        unread = {i: fetched.failed[row.id] for i, row in enumerate(rows) if row.id in fetched.failed}
        return Replayed(label_table(labels), unread)


class _Noting:
    """A fetcher that notes what could not be fetched. failed: id → code and message."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self.failed: dict[str, tuple[str, str]] = {}

    def fetch(self, rows: Sequence[Row], *, attempts: int, stop: Any = None) -> Any:
        for place, data, made in self._fetcher.fetch(rows, attempts=attempts, stop=stop):
            if isinstance(data, Exception):
                self.failed[rows[place].id] = (data.code, str(data))
            yield place, data, made
