"""A job that this replica has claimed: its process, what that said, and what of it is still to be kept."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from manyeyes.errors import ServiceFailed
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.serving.running import Running
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.settings import ServiceSettings
from manyeyes.service.store.job_records import JobRecord, Kind, News

log: Final = logging.getLogger("manyeyes.service.jobs")

MAX_CRASHES: Final = 5
"""How often a job's process may die without having got any further; then the job is what is wrong."""
MAX_LINES: Final = 500
"""Of a job's log that are kept each time that it is run; what is wrong with rows stands in their labels."""
_EVENT_S: Final = 1.0
_ORDER: Final = ("validating", "in_progress", "finalizing")


class Claimed:
    """One job. record: as it was last kept. claim: by which it is held. untold: what is to be kept, in order.

    running: its process; None before it is started, and once it has ended. clock: seconds that never go back.
    """

    def __init__(
        self, record: JobRecord, claim: str, *, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self.record = record
        self.claim = claim
        self.running: Running | None = None
        self.untold: list[News] = []
        self.is_cancelled = False
        self._metrics = metrics
        self._clock = clock
        self._is_stopped = False
        self._not_before = 0.0
        self._ended: Mapping[str, Any] | None = None
        self._last_event = 0.0
        self._n_lines = 0
        self._counted = rows_of(record.progress) if record.progress else Counter[tuple[str, str]]()
        self._best = _place(record.progress)

    def begin(self) -> bool:
        """Return whether its process is to be started; otherwise its end is in ``untold``."""
        if self.record.wish == "cancel":
            self.untold.append(News(status="cancelled"))
        elif self.record.crashes > MAX_CRASHES:
            self._fail(self.record.crashes)
        return not self.untold

    def may_start(self) -> bool:
        """Return whether a process may be started again, now."""
        return self.running is None and not self.untold and self._clock() >= self._not_before

    def start(self, settings: ServiceSettings, command: Sequence[str], on_news: Callable[[], object]) -> None:
        """Start its process."""
        self._ended, self._n_lines = None, 0
        # Where no process can be started, another try waits for others to end.
        self._not_before = self._clock() + 5
        self.running = Running(
            {
                **self.record.request,
                "wish": self.record.wish,
                "job": (self.record.progress or {}).get("job") or None,
                "buckets_file": str(settings.buckets_file) if settings.buckets_file else None,
                "allowed_models": list(settings.allowed_models),
                "web": settings.model_dump(mode="json", include=set(FetchSettings.model_fields)),
                "niceness": settings.jobs_niceness,
                "logs": {"log_format": settings.log_format, "log_level": settings.log_level},
            },
            on_news=on_news,
            command=command,
        )
        log.info("job %s runs in process %d", self.record.id, self.running.pid)

    def listen(self, *, stopping: bool) -> None:
        """Hear what its process said, and see whether it has ended. stopping: whether it was told to."""
        running = self.running
        if running is None:
            return
        code = running.code  # before what was said is read: nothing comes after the end
        while running.said:
            self._hear(running.said.popleft())
        if code is None:
            return
        running.clear()
        self.running = None
        if self._ended is not None:
            errors = tuple(self._ended["errors"])
            self.untold.append(News(status=self._ended["status"], errors=errors, wish="run"))
        elif not stopping:
            self._crashed(code)

    def cancel(self) -> None:
        """Have it end early."""
        self.is_cancelled = True
        if self.running is not None:
            self.running.send("cancel")
        else:
            self.untold.append(News(status="cancelled"))

    def stop(self) -> None:
        """Have its process end, and leave the job as it is."""
        if self.running is not None and not self._is_stopped:
            self._is_stopped = True
            self.running.send("stop")

    def _hear(self, said: Mapping[str, Any]) -> None:
        kind = said.get("kind")
        if kind == "progress":
            self._progress(said["progress"])
        elif kind == "status":
            self.untold.append(News(status=self._forward(said["status"])))
        elif kind == "log" and self._n_lines < MAX_LINES:
            self._n_lines += 1
            line = {"level": said["level"], "message": said["message"]}
            self.untold.append(News(events=(("log", line),)))
        elif kind == "retried":
            self.untold.append(News(wish="run"))
        elif kind == "ended":
            self._ended = said
        elif kind == "stopped":
            log.info("job %s stopped, and goes on later", self.record.id)

    def _progress(self, progress: Mapping[str, Any]) -> None:
        before = self.record.progress or {}
        if not progress["job"] and before.get("job"):
            return  # a process that was started again looks at the recipe and the source once more
        self._count(progress)
        place = _place(progress)
        got_on, self._best = place > self._best, max(place, self._best)
        changed = progress["status"] != before.get("status")
        now = self._clock()
        # Ever rarer, so that a job of a week leaves some thousands of events, and none that was told is ever dropped.
        due = now - self._last_event >= max(_EVENT_S, float(progress.get("seconds") or 0) / 300)
        events: tuple[tuple[Kind, Mapping[str, Any]], ...] = ()
        if changed or due:
            self._last_event = now
            events = (("progress", progress),)
        elif self.untold:
            return
        self.untold.append(
            News(
                status=self._forward(progress["status"]),
                progress=progress,
                crashes=0 if got_on and self.record.crashes else None,
                events=events,
            )
        )

    def _forward(self, status: Any) -> Any:
        """Return a status that is further on than that of the job; a process that was started again begins anew."""
        before = self.record.status
        is_on = status in _ORDER and before in _ORDER and _ORDER.index(status) > _ORDER.index(before)
        return status if is_on else None

    def _count(self, progress: Mapping[str, Any]) -> None:
        """Tell the metrics which rows are done since; what an earlier process did was counted there."""
        done = rows_of(progress)
        for (of_pass, outcome), n in (done - self._counted).items():
            self._metrics.job_rows(of_pass, outcome, n)
        self._counted |= done

    def _crashed(self, code: int) -> None:
        crashes = self.record.crashes + 1
        how = f"signal {-code}" if code < 0 else f"code {code}"
        log.warning("the process of job %s died with %s; time %d", self.record.id, how, crashes)
        line = {"level": "warning", "message": f"the job's process died ({how}); it goes on where it was"}
        self.untold.append(News(crashes=crashes, events=(("log", line),)))
        if crashes > MAX_CRASHES:
            self._fail(crashes)
        else:
            self._not_before = self._clock() + min(30.0, 0.5 * 2 ** (crashes - 1))

    def _fail(self, crashes: int) -> None:
        told = (
            f"the job's process died {crashes} times without getting any further; the service's log says how. Ask its"
            " operator about memory, or retry with smaller shards"
        )
        self.untold.append(News(status="failed", errors=({"code": ServiceFailed.code, "message": told},)))


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


def _place(progress: Mapping[str, Any] | None) -> tuple[bool, bool, int]:
    """Return how far a job is, as something that grows: begun, in its second pass, shards."""
    if not progress:
        return False, False, 0
    return bool(progress["job"]), progress["pass_"] == "labels", int(progress["shards_done"])
