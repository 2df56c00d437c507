"""The jobs of a service: each in a process of its own, claimed by one replica at a time, taken up again by any.

One thread looks at the store every second or so: it says that this replica is still at its jobs, passes on what their
processes said, and claims what nobody runs. Nothing here decides what is labeled: the processes run the same job as the
command line does, below its ``out``, so that killing any of them, or this one, costs time alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from manyeyes.errors import ManyeyesError, ServiceFailed
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.running import COMMAND, Running
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.settings import ServiceSettings
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.job_records import OPEN, JobRecord, Kind, News, OpenJob
from manyeyes.service.store.store import Store

log: Final = logging.getLogger("manyeyes.service.jobs")

MAX_CRASHES: Final = 5
"""How often a job's process may die without having got any further; then the job is what is wrong."""
_TICK_S: Final = 0.1
_LOOK_S: Final = 1.0
_IDLE_S: Final = 3.0
_STOP_S: Final = 30.0
_EVENT_S: Final = 1.0
_ORDER: Final = ("validating", "in_progress", "finalizing")
_MAX_LINES: Final = 500
"""Of a job's log that are kept each time that it is run; what is wrong with rows stands in their labels."""


@dataclass(slots=True)
class _Mine:
    """A job that this replica has claimed. not_before: when its process may be started, after one that died."""

    record: JobRecord
    claim: str
    running: Running | None = None
    not_before: float = 0.0
    ended: dict[str, Any] | None = None
    cancelled: bool = False
    stopped: bool = False
    last_event: float = 0.0
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    n_lines: int = 0
    untold: list[News] = field(default_factory=list)


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
        self._mine: dict[str, _Mine] = {}
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
            if mine is not None and job.wish == "cancel" and not mine.cancelled:
                mine.cancelled = True
                self._cancel(mine)
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
        mine = _Mine(record, claim)
        self._mine[record.id] = mine
        self._seen.pop(record.id, None)
        if record.wish == "cancel":
            mine.untold.append(News(status="cancelled"))
            self._tell(mine)
        elif record.crashes > MAX_CRASHES:
            self._fail(mine, record.crashes)
        else:
            self._start(mine)

    def _start(self, mine: _Mine) -> None:
        record, settings = mine.record, self._settings
        progress = record.progress or {}
        mine.ended, mine.n_lines = None, 0
        mine.not_before = self._clock() + 5  # where no process can be started, another try waits for others to end
        mine.running = Running(
            {
                **record.request,
                "wish": record.wish,
                "job": progress.get("job") or None,
                "buckets_file": str(settings.buckets_file) if settings.buckets_file else None,
                "allowed_models": list(settings.allowed_models),
                "web": settings.model_dump(mode="json", include=set(FetchSettings.model_fields)),
                "niceness": settings.jobs_niceness,
                "logs": {"log_format": settings.log_format, "log_level": settings.log_level},
            },
            on_news=self._wake.set,
            command=self._command,
        )
        log.info("job %s runs in process %d", record.id, mine.running.pid)

    def _listen(self, mine: _Mine) -> None:
        """Keep what the process of a job said, and see whether it has ended."""
        running = mine.running
        if running is None:
            if not mine.untold and self._clock() >= mine.not_before and not self._stopping:
                self._start(mine)
            self._tell(mine)
            return
        code = running.code  # before what was said is read: nothing comes after the end
        while running.said:
            self._hear(mine, running.said.popleft())
        if code is not None:
            running.clear()
            mine.running = None
            if mine.ended is not None:
                mine.untold.append(
                    News(status=mine.ended["status"], errors=tuple(mine.ended["errors"]), wish="run")
                )
            elif not self._stopping:
                self._crashed(mine, code)
        self._tell(mine)

    def _hear(self, mine: _Mine, said: Mapping[str, Any]) -> None:
        kind = said.get("kind")
        if kind == "progress":
            self._progress(mine, said)
        elif kind == "status":
            mine.untold.append(News(status=self._forward(mine, said["status"])))
        elif kind == "log" and mine.n_lines < _MAX_LINES:
            mine.n_lines += 1
            line = {"level": said["level"], "message": said["message"]}
            mine.untold.append(News(events=(("log", line),)))
        elif kind == "retried":
            mine.untold.append(News(wish="run"))
        elif kind == "ended":
            mine.ended = dict(said)
        elif kind == "stopped":
            log.info("job %s stopped, and goes on later", mine.record.id)

    def _progress(self, mine: _Mine, said: Mapping[str, Any]) -> None:
        progress = said["progress"]
        self._count(mine, progress)
        before = mine.record.progress or {}
        got_on = progress["shards_done"] != before.get("shards_done") or progress["pass_"] != before.get(
            "pass_"
        )
        changed = progress["status"] != before.get("status")
        now = self._clock()
        # Ever rarer, so that a job of a week leaves some thousands of events, and none that was told is ever dropped.
        due = now - mine.last_event >= max(_EVENT_S, float(progress.get("seconds") or 0) / 300)
        events: tuple[tuple[Kind, Mapping[str, Any]], ...] = ()
        if changed or due:
            mine.last_event = now
            events = (("progress", progress),)
        elif mine.untold:
            return
        mine.untold.append(
            News(
                status=self._forward(mine, progress["status"]),
                progress=progress,
                crashes=0 if got_on else None,
                events=events,
            )
        )

    def _forward(self, mine: _Mine, status: Any) -> Any:
        """Return a status that is further on than that of the job; a process that was started again begins anew."""
        before = mine.record.status
        is_on = status in _ORDER and before in _ORDER and _ORDER.index(status) > _ORDER.index(before)
        return status if is_on else None

    def _count(self, mine: _Mine, progress: Mapping[str, Any]) -> None:
        """Tell the metrics which rows are done since; what an earlier process did was counted there."""
        if not mine.counted and mine.record.progress:
            mine.counted |= rows_of(mine.record.progress)
        done = rows_of(progress)
        for (of_pass, outcome), n in (done - mine.counted).items():
            self._metrics.job_rows(of_pass, outcome, n)
        mine.counted |= done

    def _tell(self, mine: _Mine) -> None:
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

    def _crashed(self, mine: _Mine, code: int) -> None:
        crashes = mine.record.crashes + 1
        how = f"signal {-code}" if code < 0 else f"code {code}"
        log.warning("the process of job %s died with %s; time %d", mine.record.id, how, crashes)
        line = {"level": "warning", "message": f"the job's process died ({how}); it goes on where it was"}
        mine.untold.append(News(crashes=crashes, events=(("log", line),)))
        if crashes > MAX_CRASHES:
            self._fail(mine, crashes)
        else:
            mine.not_before = self._clock() + min(30.0, 0.5 * 2 ** (crashes - 1))

    def _fail(self, mine: _Mine, crashes: int) -> None:
        told = (
            f"the job's process died {crashes} times without getting any further; the service's log says how. Ask its"
            " operator about memory, or retry with smaller shards"
        )
        mine.untold.append(News(status="failed", errors=({"code": ServiceFailed.code, "message": told},)))
        self._tell(mine)

    def _cancel(self, mine: _Mine) -> None:
        if mine.running is not None:
            mine.running.send("cancel")
        else:
            mine.untold.append(News(status="cancelled"))

    def _lost(self, mine: _Mine) -> None:
        """Leave a job to whoever has claimed it since."""
        log.warning("job %s was taken over; its process here is stopped", mine.record.id)
        if mine.running is not None:
            mine.running.clear()
        self._forget(mine)

    def _forget(self, mine: _Mine) -> None:
        self._mine.pop(mine.record.id, None)

    def _stop_mine(self) -> None:
        """Stop what runs, and give back what has stopped."""
        for mine in list(self._mine.values()):
            if mine.running is not None:
                if not mine.stopped:
                    mine.stopped = True
                    mine.running.send("stop")
                continue
            with suppress(ManyeyesError):  # else it is free once its lease is over
                self._store.jobs.tell(mine.record.id, mine.claim, News(), release=True)
            self._forget(mine)


def rows_of(progress: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """Return the rows that a pass has done, by (pass, outcome).

    >>> rows_of({"pass_": "votes", "counts": {"rows": 5, "labeled": 0, "abstained": 0, "failed": 2}})
    Counter({('votes', 'done'): 3, ('votes', 'failed'): 2})
    """
    counts, of_pass = progress["counts"], str(progress["pass_"])
    if of_pass == "votes":
        outcomes = {"done": counts["rows"] - counts["failed"], "failed": counts["failed"]}
    else:
        outcomes = {what: counts[what] for what in ("labeled", "abstained", "failed")}
    return Counter({(of_pass, outcome): int(n) for outcome, n in outcomes.items()})
