"""What a coordinator says of its job: to the caller, several times a second, and to everybody, in the job's folder."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from manyeyes.errors import StorageFailed
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.events import ENDED, first_event, last_status, tell, tell_status
from manyeyes.service.jobs.progress.progress import Book, OnProgress, Watch
from manyeyes.service.jobs.progress.tally import replaced_by, write_tally
from manyeyes.service.jobs.shapes import Commit, JobStatus, Manifest, PassName, Progress
from manyeyes.service.jobs.work.worker import Outcome

log: Final = logging.getLogger("manyeyes.service.jobs")

MOST_PROBLEMS: Final = 50
"""Problems that one coordinator tells of a job; its log has the rest."""
_MILESTONES: Final = 10


class Reporter:
    """Counts commits and says how far the job is. Used by several threads.

    on_progress: called by whoever calls ``show``.
    """

    def __init__(
        self, storage: Storage, job: str, manifest: Manifest, *, on_progress: OnProgress | None
    ) -> None:
        self.book = Book(storage, job, manifest)
        self.book.read()
        self._storage = storage
        self._job = job
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._pass: tuple[PassName, int] = ("votes", 0)
        self._status: JobStatus = "in_progress"
        self._message: str | None = None
        self._began = time.monotonic()
        self._pass_began: float | None = None
        self._rows_before = 0
        self._shards = 0
        self._milestone = 0
        self._n_problems = 0
        self._spoke = False
        self._others: Watch | None = None
        first = first_event(storage, job)
        before = (
            0.0 if first is None else (datetime.now(UTC) - datetime.fromisoformat(first.at)).total_seconds()
        )
        self._seconds_before = max(0.0, before)

    def begin(self, pass_: PassName, generation: int, shards: int) -> None:
        """Note that a pass begins. shards: of the pass, also those that are committed already."""
        with self._lock:
            tally = self.book.tally(pass_, generation)
            self._pass = (pass_, generation)
            self._pass_began, self._rows_before = time.monotonic(), tally.counts.rows
            self._shards = shards
            self._milestone = _MILESTONES * len(tally.done) // max(1, shards)

    def count(self, commit: Commit) -> None:
        """Count a commit of the pass that is under way."""
        earlier = replaced_by(commit, self._storage, self._job, *self._pass)
        with self._lock:
            self.book.tally(*self._pass).add(commit, instead_of=earlier)

    def there_are_others(self) -> None:
        """Note that other coordinators work on the job: what they do is to be seen, too."""
        if self._others is None:
            self._others = Watch(self._storage, self._job)

    def say(self, status: JobStatus, message: str) -> None:
        """Change the job's status, for everybody to see; one that others completed meanwhile stays so."""
        self.say_here(status, message)
        last = last_status(self._storage, self._job) if self._spoke else None
        self._spoke = True
        if status in ENDED or last is None or last.status != "completed":
            tell_status(self._storage, self._job, status, message)

    def say_here(self, status: JobStatus, message: str) -> None:
        """Change the job's status for the caller alone."""
        self._status, self._message = status, message

    def problem(self, outcome: Outcome, again: bool) -> None:
        """Tell of a shard that failed as a whole, and whether it is tried again."""
        told = f"shard {outcome.shard}: {outcome.message}" + ("; it is tried again" if again else "")
        log.warning("job %s, %s", self._job, told)
        self._n_problems += 1
        if self._n_problems <= MOST_PROBLEMS:
            with suppress(StorageFailed):  # which is what the problem may be
                tell(self._storage, self._job, "problem", told, shard=outcome.shard, code=outcome.code)

    def note(self, message: str) -> None:
        """Tell how far the job is, in words of one's own."""
        progress = self.progress()
        with suppress(StorageFailed):
            tell(
                self._storage,
                self._job,
                "progress",
                message,
                shards_done=progress.shards_done,
                shards=progress.shards,
            )

    def progress(self) -> Progress:
        """Return how far the job is, as far as this coordinator knows."""
        with self._lock:
            return self.book.progress(
                self._status,
                message=self._message,
                seconds=self._seconds_before + time.monotonic() - self._began,
                rows_per_s=self._rate(),
            )

    def show(self) -> Progress:
        """Tell the caller how far the job is, and now and then everybody."""
        others = self._others if self._status not in ENDED else None
        progress = self.progress() if others is None else others.progress()
        if self._on_progress is not None:
            self._on_progress(progress)
        reached = _MILESTONES * progress.shards_done // max(1, self._shards)
        if others is None and progress.pass_ == self._pass[0] and self._milestone < reached < _MILESTONES:
            self._milestone = reached
            self.note(f"{progress.pass_}: {progress.shards_done:,} of {progress.shards:,} shards")
        return progress

    def keep(self) -> None:
        """Write down what was counted, so that others who ask need not read every commit."""
        with self._lock:
            tally = self.book.tally(*self._pass)
            tally.rows_per_s = self._rate()
            data = tally.to_bytes()
        write_tally(self._storage, self._job, *self._pass, data)

    def _rate(self) -> float | None:
        if self._pass_began is None:
            return None
        seconds = time.monotonic() - self._pass_began
        rows = self.book.tally(*self._pass).counts.rows - self._rows_before
        return rows / seconds if rows > 0 and seconds > 0 else None
