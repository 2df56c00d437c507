"""The coordinator: takes a job from its manifest to published labels, and says how far it is.

Any number of coordinators may work on one job, on as many machines: shards are shared through leases, one of them fits
the label model and publishes, and the others find it done. None of them knows anything that the job's folder does not
say, so each may be killed at any time, and the next goes on from what is committed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from manyeyes.errors import InvalidRequest, ManyeyesError, StorageFailed
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.coordination.breaker import Hopeless, Watched, too_many
from manyeyes.service.jobs.coordination.control import cancel, is_cancelled, is_published, retry_failed
from manyeyes.service.jobs.coordination.monitor import Duty, Monitor
from manyeyes.service.jobs.coordination.passes import Pass, ShardFailed
from manyeyes.service.jobs.coordination.probe import Probe
from manyeyes.service.jobs.coordination.reporting import Reporter
from manyeyes.service.jobs.coordination.sweeping import sweep_parts
from manyeyes.service.jobs.datasets.provenance import publish
from manyeyes.service.jobs.engines.base import Engine
from manyeyes.service.jobs.places.leases import Leases
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.latest import find_job
from manyeyes.service.jobs.progress.progress import OnProgress, progress_of
from manyeyes.service.jobs.progress.tally import errors_told
from manyeyes.service.jobs.shapes import JobRequest, Manifest, PassName, Progress
from manyeyes.service.jobs.work.fitting import fit_on_votes
from manyeyes.service.jobs.work.generations import read_generation
from manyeyes.service.jobs.work.job import Job
from manyeyes.service.jobs.work.worker import WorkSpec

__all__ = ["Coordinator", "cancel", "find_job", "progress_of", "retry_failed"]

log: Final = logging.getLogger("manyeyes.service.jobs")

LEASE_S: Final = 60.0
_SHOW_S: Final = 0.5
_LOOK_S: Final = 1.0
_SUSPECT_S: Final = 0.2
_KEEP_S: Final = 5.0


class _Stopped(Exception):
    """The work was left as it is, by request."""


class Coordinator:
    """Takes one job as far as it can, once.

    request: how it is to be run now, which may differ from how it was begun: its engine, attempts and breaker. stop:
    set by who wants it to end; what was done stays. on_progress: called about twice a second, by a thread of its own.
    is_first: whether nothing was computed in this place before; then a few rows are tried first of all.
    """

    def __init__(
        self,
        job: Job,
        request: JobRequest,
        manifest: Manifest,
        storage: Storage,
        engine: Engine,
        *,
        on_progress: OnProgress | None = None,
        stop: threading.Event | None = None,
        buckets: Buckets | None = None,
        lease_s: float = LEASE_S,
        is_first: bool = False,
    ) -> None:
        self.job = job
        self.request = request
        self.manifest = manifest
        self.storage = storage
        self._engine = engine
        self._asked = stop
        self._buckets = buckets
        self._lease_s = lease_s
        self._stop = threading.Event()
        self._watched = Watched(request.breaker)
        self._hopeless: Hopeless | None = None
        self._cancelled = False
        self._probe = Probe(job, manifest, storage, engine, buckets)
        self._untried = is_first
        self._tell = Reporter(storage, job.id, manifest, on_progress=on_progress)

    def run(self) -> Progress:
        """Return how far the job is when it is over, or when it was told to stop.

        A job that cannot be finished ends as ``failed``, with the reason in ``message``; what was done stays, and
        another run goes on from there. Raises what ``on_progress`` raises.
        """
        duties = [
            Duty(_SHOW_S, self._tell.show),
            Duty(_LOOK_S, self._look),
            Duty(_KEEP_S, self._tell.keep),
        ]
        # Beside the others, for it takes a while, and somebody may ask for an end meanwhile.
        suspicions = [Duty(0, self._try_some), Duty(_SUSPECT_S, self._suspect)]
        try:
            with (
                Monitor(duties, stop=self._stop, asked=self._asked),
                Monitor(suspicions, stop=self._stop, asked=None),
            ):
                self._work()
            counts = self._tell.progress().counts
            failed = f", {counts.failed:,} failed ({errors_told(counts)})" if counts.failed else ""
            self._tell.say(
                "completed",
                f"{counts.rows:,} rows: {counts.labeled:,} labeled, {counts.abstained:,} abstained{failed}",
            )
        except _Stopped:
            self._end_early()
        except ShardFailed as error:
            self._fail(f"{error}. What was done stays: mend it, and run the job again")
        except ManyeyesError as error:
            self._fail(str(error))
        return self._tell.show()

    def _work(self) -> None:
        book = self._tell.book
        newest, shards = book.generation.index, self.manifest.shards
        if book.pass_ == "votes":
            self._tell.say("in_progress", "votes are gathered")
            for index in range(newest + 1):
                planned = read_generation(self.storage, self.job.id, index).shards
                self._pass("votes", index, range(len(shards)) if planned is None else planned)
        self._refuse_rubbish()
        if not book.is_labeled:
            self._tell.say("finalizing", "the label model is fitted")
            # Places after the last shard's: leases are for what only one needs to do, too.
            self._alone(len(shards), lambda: fit_on_votes(self.job, self.storage, newest))
            self._tell.say("finalizing", "labels are written")
            self._pass("labels", newest, range(len(shards)))
        self._tell.say("finalizing", "labels are published")
        self._alone(len(shards) + 1, lambda: self._publish(newest))

    def _pass(self, pass_: PassName, generation: int, places: Sequence[int]) -> None:
        done = self._tell.book.tally(pass_, generation).done
        left = [self.manifest.shards[place] for place in places if place not in done]
        self._tell.begin(pass_, generation, len(places))
        work = Pass(
            self.storage,
            self._engine,
            self._spec(pass_, generation),
            on_commit=self._tell.count,
            on_problem=self._tell.problem,
            on_others=self._tell.there_are_others,
            stop=self._stop,
        )
        try:
            work.run(left, on_rows=self._watched.saw if pass_ == "votes" else None)
        finally:
            with suppress(StorageFailed):
                self._tell.keep()
        self._go_on()

    def _alone(self, place: int, work: Callable[[], object]) -> None:
        """Do what one of several coordinators does for all; those who come later find it done."""
        leases = Leases(self.storage, self.job.id, "labels", self._tell.book.generation.index, self._lease_s)
        while (lease := leases.acquire(place)) is None:
            self._stop.wait(_LOOK_S)
            self._go_on()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with lease:
                    work()
            except BaseException as error:
                failed.append(error)

        # A thread of its own, left behind when the job is told to stop: whoever writes this, writes the same.
        thread = threading.Thread(target=run, name="manyeyes-job-alone", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
            self._go_on()
        if failed:
            raise failed[0]

    def _publish(self, generation: int) -> None:
        if not is_published(self.storage, self.job.id):
            publish(self.storage, self.job.id, generation)
        try:
            sweep_parts(self.storage, self.job.id, generation)
        except StorageFailed as error:  # the labels are there, which is what was asked for
            log.warning("parts of attempts that were lost stay where they are: %s", error)

    def _spec(self, pass_: PassName, generation: int) -> WorkSpec:
        return WorkSpec(
            out=self.storage.uri,
            job=self.job.id,
            pass_=pass_,
            generation=generation,
            attempts=self.request.attempts,
            lease_s=self._lease_s,
            update=self.request.update,
            buckets=self._buckets,
        )

    def _go_on(self) -> None:
        """Raise _Stopped if the job is to stop."""
        if self._stop.is_set():
            raise _Stopped

    def _refuse_rubbish(self) -> None:
        """Raise InvalidRequest if so many rows failed that no label model should be fitted on the rest."""
        counts = self._tell.book.seen
        if too_many(self.request.breaker, counts):
            found = self._watched.hopeless()
            such = "" if found is None else f" (such as {found.row!r}: {found.message})"
            raise InvalidRequest(
                f"{counts.failed:,} of {counts.rows:,} rows failed: {errors_told(counts)}{such}. Nothing was labeled."
                " Mend what is wrong and have the failed rows tried again (manyeyes job retry), or allow more"
                " failures (--max-error-rate)"
            )

    def _suspect(self) -> None:
        """Stop a job that is hopeless."""
        if self._hopeless is not None or self._stop.is_set() or not self._watched.is_suspicious:
            return
        self._give_up(self._probe.hopeless(self.request.breaker, self._stop))

    def _try_some(self) -> None:
        """Try a few rows of a job of which nothing is known yet."""
        if self._untried:
            self._untried = False
            if self._probe.begins_badly(self._stop):
                self._give_up(self._probe.hopeless(self.request.breaker, self._stop))

    def _give_up(self, found: Hopeless | None) -> None:
        if found is None:
            self._watched.was_wrong()
        elif not self._stop.is_set():
            self._hopeless = found
            self._stop.set()

    def _look(self) -> None:
        if not self._cancelled and is_cancelled(self.storage, self.job.id):
            self._cancelled = True
            self._stop.set()

    def _end_early(self) -> None:
        if self._hopeless is not None:
            self._fail(
                f"stopped, for it is hopeless: of rows from all over the source, {self._hopeless}. What was done"
                " stays: mend it, and run the job again"
            )
        elif self._cancelled:
            self._tell.say("cancelled", "as was asked for; what was done stays, and running it again goes on")
        else:
            self._tell.note("stopped; what was done stays, and running it again goes on")

    def _fail(self, message: str) -> None:
        try:
            self._tell.say("failed", message)
        except (
            StorageFailed
        ):  # which may be why it failed: the caller hears of it, and the next run tells the rest
            self._tell.say_here("failed", message)
