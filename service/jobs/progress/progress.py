"""How far a job is: what its commits add up to, with the status that was told last.

Nothing is kept that could disagree with the commits. Whoever asks, in whichever process, gets the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from manyeyes.service.jobs.layout import cancel_file
from manyeyes.service.jobs.manifests.manifest import read_manifest
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.events import ENDED, first_event, last_status
from manyeyes.service.jobs.progress.tally import Tally, read_tally
from manyeyes.service.jobs.shapes import Counts, JobStatus, Manifest, PassName, Progress
from manyeyes.service.jobs.work.generations import Generation, latest_generation, read_generation
from manyeyes.service.jobs.work.job import read_job

OnProgress: TypeAlias = Callable[[Progress], None]


def progress_of(storage: Storage, job_id: str) -> Progress:
    """Return how far a job is. Raises NotFound if there is no such job.

    Whoever asks again and again keeps a ``Watch``, which reads only what is new.
    """
    return Watch(storage, job_id).progress()


class Book:
    """The sums of a job's passes in all its generations. Used by one thread at a time."""

    def __init__(self, storage: Storage, job: str, manifest: Manifest) -> None:
        self._storage = storage
        self._job = job
        self._n_shards = len(manifest.shards)
        self._n_rows = manifest.n_rows
        self._generations = [Generation(0)]
        self._votes: list[Tally] = []
        self._labels: dict[int, Tally] = {}

    def read(self) -> None:
        """Read what is new: of each pass, one listing, and the commits that are not counted yet."""
        newest = latest_generation(self._storage, self._job)
        for index in range(len(self._generations), newest + 1):
            self._generations.append(read_generation(self._storage, self._job, index))
        for index in range(newest + 1):
            known = self._votes[index] if index < len(self._votes) else None
            tally = read_tally(self._storage, self._job, "votes", index, known=known)
            if known is None:
                self._votes.append(tally)
        self._labels[newest] = read_tally(
            self._storage, self._job, "labels", newest, known=self._labels.get(newest)
        )

    def tally(self, pass_: PassName, generation: int) -> Tally:
        """Return the sums of a pass; whoever adds a commit to them has it counted."""
        return self._votes[generation] if pass_ == "votes" else self._labels[generation]

    @property
    def generation(self) -> Generation:
        """The newest."""
        return self._generations[-1]

    @property
    def seen(self) -> Counts:
        """Rows whose votes are there, each counted in its newest generation."""
        return sum((tally.counts for tally in self._votes), Counts())

    @property
    def pass_(self) -> PassName:
        """The pass that is under way, or was last."""
        done, shards = self._of_votes()
        return "votes" if done < shards else "labels"

    @property
    def is_labeled(self) -> bool:
        """Whether every row has its label in the newest generation."""
        return self.pass_ == "labels" and len(self._labels[self.generation.index].done) == self._n_shards

    def progress(
        self,
        status: JobStatus,
        *,
        message: str | None = None,
        seconds: float = 0.0,
        rows_per_s: float | None = None,
    ) -> Progress:
        """Return how far the job is, by these sums."""
        pass_, counts, labels = self.pass_, self.seen, self._labels[self.generation.index]
        done, shards = self._of_votes() if pass_ == "votes" else (len(labels.done), self._n_shards)
        if self.is_labeled:
            counts = labels.counts
        elif pass_ == "labels":
            counts = Counts(
                counts.rows, labels.counts.labeled, labels.counts.abstained, counts.failed, counts.errors
            )
        rate = rows_per_s if rows_per_s is not None else self.tally(pass_, self.generation.index).rows_per_s
        left = (shards - done) * self._n_rows / max(1, self._n_shards)
        return Progress(
            job=self._job,
            status=status,
            pass_=pass_,
            shards_done=done,
            shards=shards,
            counts=counts,
            computed=dict(sum((tally.computed for tally in self._votes), Counter())),
            message=message,
            seconds=seconds,
            rows_per_s=None if status in ENDED else rate,
            eta_s=left / rate if rate and status not in ENDED else None,
            n_rows=self._n_rows,
        )

    def _of_votes(self) -> tuple[int, int]:
        """Return how many shards of the oldest generation that lacks votes have them, and how many it has."""
        for generation, tally in zip(self._generations, self._votes, strict=True):
            shards = self._n_shards if generation.shards is None else len(generation.shards)
            if len(tally.done) < shards:
                break
        return len(tally.done), shards


class Watch:
    """Says how far a job is, as often as it is asked, and reads only what is new. Used by one thread at a time.

    Raises NotFound if there is no such job.
    """

    def __init__(self, storage: Storage, job_id: str) -> None:
        job = read_job(storage, job_id)
        self._storage = storage
        self._job = job.id
        self._book = Book(storage, job.id, read_manifest(storage, job.manifest))
        self._begun: datetime | None = None

    def progress(self) -> Progress:
        """Return how far the job is now."""
        last = last_status(self._storage, self._job)
        status: JobStatus = "validating" if last is None or last.status is None else last.status
        if status not in ENDED and self._storage.exists(cancel_file(self._job)):
            status = "cancelling"
        if self._begun is None and (first := first_event(self._storage, self._job)) is not None:
            self._begun = datetime.fromisoformat(first.at)
        ended = datetime.now(UTC) if last is None or status not in ENDED else datetime.fromisoformat(last.at)
        seconds = 0.0 if self._begun is None else max(0.0, (ended - self._begun).total_seconds())
        self._book.read()
        message = None if last is None else last.message or None
        return self._book.progress(status, message=message, seconds=seconds)
