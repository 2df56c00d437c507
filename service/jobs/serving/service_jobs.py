"""The jobs of a service: each in a process of its own, claimed by one replica at a time, taken up again by any.

One thread looks at the store every second or so: it says that this replica is still at its jobs, passes on what their
processes said, and claims what nobody runs. Nothing here decides what is labeled: the processes run the same job as the
command line does, below its ``out``, so that killing any of them, or this one, costs time alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from manyeyes.errors import ManyeyesError
from manyeyes.service.jobs.serving.claimed import Claimed
from manyeyes.service.jobs.serving.running import COMMAND
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.settings import ServiceSettings
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.job_records import OPEN, JobRecord, News, OpenJob
from manyeyes.service.store.store import Store

log: Final = logging.getLogger("manyeyes.service.jobs")

_TICK_S: Final = 0.1
_LOOK_S: Final = 1.0
_IDLE_S: Final = 3.0
_STOP_S: Final = 30.0


class ServiceJobs:
    """Runs the jobs of a store. Its thread starts with the first call of ``start``.

    command: what runs a job's process. clock: seconds that never go back.
    """

    def __init__(
        self,
        store: Store,
        settings: ServiceSettings,
        metrics: Metrics,
        *,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._command = tuple(command)
        self._clock = clock
        self._mine: dict[str, Claimed] = {}
        self._seen: dict[str, tuple[tuple[str | None, int], float]] = {}
        self._events: dict[str, int] = {}
        self._looked = self._beaten = float("-inf")
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._stopped = threading.Event()

    @property
    def draining(self) -> bool:
        """Whether this replica is on its way down."""
        return self._stopping

    def start(self) -> None:
        """Begin to look for jobs; again is fine."""
        with self._lock:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="manyeyes-jobs", daemon=True)
                self._thread.start()

    def nudge(self) -> None:
        """Look at the store now: something has changed."""
        self.start()
        self._looked = float("-inf")
        self._wake.set()

    def n_events(self, id: str) -> int | None:
        """Return the number of the last event of a job that is under way, as it was seen a moment ago."""
        return self._events.get(id)

    def drain(self, timeout_s: float = _STOP_S) -> bool:
        """Stop all processes of jobs, and leave their jobs to other replicas, or to a later start. Blocks.

        Returns whether all stopped by themselves; those that did not are killed, which loses nothing either.
        """
        self._stopping = True
        self._wake.set()
        if self._thread is None:
            return True
        done = self._stopped.wait(timeout_s)
        for mine in list(self._mine.values()):
            if mine.running is not None:
                mine.running.clear()
        self._stopped.wait(5)
        return done

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._stopping or self._mine:
                self._wake.wait(_TICK_S if self._mine else _IDLE_S / 3)
                self._wake.clear()
                try:
                    self._step()
                except ManyeyesError as error:  # the database is away; what was said is kept until it is back
                    log.warning("the jobs of this service cannot be looked at: %s", error)
                    time.sleep(1)
                except Exception:
                    log.exception("the jobs of this service could not be looked at")
                    time.sleep(1)
                if self._stopping:
                    self._stop_mine()
        finally:
            self._stopped.set()

    def _step(self) -> None:
        now = self._clock()
        for mine in list(self._mine.values()):
            self._listen(mine)
        if self._mine and now - self._beaten >= self._settings.jobs_lease_s / 6:
            self._beaten = now
            held = self._store.jobs.beat([mine.claim for mine in self._mine.values()])
            for mine in [mine for mine in self._mine.values() if mine.claim not in held]:
                self._lost(mine)
        if now - self._looked >= (_LOOK_S if self._events else _IDLE_S) and not self._stopping:
            self._looked = now
            self._look()

    def _look(self) -> None:
        """See which jobs there are, do what is wished of ours, and claim what nobody runs."""
        found = self._store.jobs.open()
        self._events = {job.id: job.n_events for job in found}
        self._seen = {job.id: self._seen[job.id] for job in found if job.id in self._seen}
        self._metrics.jobs_seen({status: sum(job.status == status for job in found) for status in OPEN})
        for job in found:
            mine = self._mine.get(job.id)
            if mine is not None and job.wish == "cancel" and not mine.is_cancelled:
                mine.cancel()
        for job in [job for job in found if self._is_free(job)]:
            if len(self._mine) >= self._settings.jobs_at_once and job.wish != "cancel":
                continue
            claim = new_id()
            record = self._store.jobs.claim(job, claim)
            if record is not None:
                self._begin(record, claim)

    def _is_free(self, job: OpenJob) -> bool:
        """Whether nobody runs a job, or whoever does has given no sign of life for long enough."""
        if job.id in self._mine:
            return False
        now, mark = self._clock(), (job.claim, job.beat)
        seen, since = self._seen.get(job.id, (None, now))
        if seen != mark:
            self._seen[job.id] = (mark, now)
            since = now
        if job.claim is None:
            return True
        return now - since >= self._settings.jobs_lease_s

    def _begin(self, record: JobRecord, claim: str) -> None:
        mine = Claimed(record, claim, metrics=self._metrics, clock=self._clock)
        self._mine[record.id] = mine
        self._seen.pop(record.id, None)
        if mine.begin():
            mine.start(self._settings, self._command, self._wake.set)
        else:
            self._tell(mine)

    def _listen(self, mine: Claimed) -> None:
        """Keep what the process of a job said; start it again if it died."""
        mine.listen(stopping=self._stopping)
        self._tell(mine)
        if mine.may_start() and mine.record.id in self._mine and not self._stopping:
            mine.start(self._settings, self._command, self._wake.set)

    def _tell(self, mine: Claimed) -> None:
        """Keep what is to be kept of a job; what cannot be kept now is kept later."""
        while mine.untold:
            news = mine.untold[0]
            record = self._store.jobs.tell(mine.record.id, mine.claim, news)
            if record is None:
                self._lost(mine)
                return
            mine.untold.pop(0)
            mine.record = record
            self._events[record.id] = record.n_events
            if record.is_final:
                log.info("job %s is %s", record.id, record.status)
                self._metrics.job_ended(record.status)
                self._forget(mine)
                self._looked = float("-inf")  # there is room for another
                return

    def _lost(self, mine: Claimed) -> None:
        """Leave a job to whoever has claimed it since."""
        log.warning("job %s was taken over; its process here is stopped", mine.record.id)
        if mine.running is not None:
            mine.running.clear()
        self._forget(mine)

    def _forget(self, mine: Claimed) -> None:
        self._mine.pop(mine.record.id, None)

    def _stop_mine(self) -> None:
        """Stop what runs, and give back what has stopped."""
        for mine in list(self._mine.values()):
            if mine.running is not None:
                mine.stop()
                continue
            with suppress(ManyeyesError):  # else it is free once its lease is over
                self._store.jobs.tell(mine.record.id, mine.claim, News(), release=True)
            self._forget(mine)
