"""Batch jobs that came over HTTP: what was asked for, who runs each, and all that was told of them.

A replica claims a job by a conditional update and says with a growing number that it is still at it. Whoever sees that
number stand still for long enough, on its own clock, may claim the job in turn: what was written below ``out`` is safe
whoever writes it, so that a claim saves work and decides nothing.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from manyeyes.errors import NotFound, Overloaded, WrongState
from manyeyes.service.store import tables
from manyeyes.service.store.database import SWEPT_AT_ONCE, Database
from manyeyes.service.store.job_records import (
    FINAL,
    OPEN,
    JobEvent,
    JobRecord,
    Kind,
    News,
    OpenJob,
    Status,
    Wish,
)
from manyeyes.service.store.records import Page
from manyeyes.service.store.rows import audited, page, storable

_T = tables.jobs
_E = tables.job_events
_ID: Final = re.compile(r"[0-9a-f]{32}")
MAX_EVENTS: Final = 1000
"""Of one page."""


class Jobs:
    """The batch jobs of a store. keep_days: those that ended before are removed, a few at a time, as others come."""

    def __init__(self, database: Database, *, keep_days: float | None = None) -> None:
        self._database = database
        self._keep = None if keep_days is None else timedelta(days=keep_days)

    def create(
        self,
        *,
        id: str,
        author: str,
        recipe_name: str,
        recipe_version: str,
        request: Mapping[str, Any],
        metadata: Mapping[str, str],
        max_open: int,
        request_id: str | None = None,
    ) -> JobRecord:
        """Keep a job that is to be run; return once it is durable.

        max_open: how many of this author may be under way. Raises Overloaded if there are as many.
        """
        now = self._database.now()
        row = {
            "id": id,
            "created_at": now,
            "key_id": storable("the id of a key", author),
            "request_id": None if request_id is None else storable("the request id", request_id),
            "recipe_name": storable("the name of a recipe", recipe_name),
            "recipe_version": recipe_version,
            "request": dict(request),
            "metadata": dict(metadata),
            "status": "validating",
            "wish": "run",
            "beat": 0,
            "crashes": 0,
            "n_events": 0,
            "errors": [],
        }

        def work(connection: Connection) -> JobRecord:
            mine = select(func.count()).select_from(_T).where(_T.c.key_id == author, _T.c.status.in_(OPEN))
            n_open = connection.execute(mine).scalar_one()
            if n_open >= max_open:
                raise Overloaded(
                    f"{n_open} jobs of this key are under way or wait, and {max_open} may be; wait for some, or cancel"
                    " them"
                )
            connection.execute(insert(_T).values(row))
            _add_events(connection, id, 0, [("status", {"status": "validating"})], now)
            audited(
                connection,
                now,
                actor=author,
                action="job.create",
                subject=f"job:{id}",
                request_id=request_id,
                details={"recipe": recipe_name, "out": request.get("request", {}).get("out")},
            )
            return _get(connection, id)

        made = self._database.write(work)
        if self._keep is not None:
            older_than = now - self._keep
            self._database.sweep(lambda connection: _remove_some(connection, older_than, SWEPT_AT_ONCE))
        return made

    def get(self, id: str, *, key_id: str | None = None) -> JobRecord:
        """Return a job; key_id: only if it is this key's. Raises NotFound."""
        return self._database.read(lambda connection: _get(connection, id, key_id))

    def list(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        key_id: str | None = None,
        status: str | None = None,
    ) -> Page[JobRecord]:
        """Return jobs, the newest first. Raises InvalidRequest for a wrong cursor."""
        query = select(_T)
        if key_id is not None:
            query = query.where(_T.c.key_id == key_id)
        if status is not None:
            query = query.where(_T.c.status == storable("status", status))
        return self._database.read(
            lambda connection: page(connection, query, _T.c.id, limit, cursor, _record)
        )

    def events(
        self, id: str, *, after: int = 0, limit: int = 100, kinds: Sequence[Kind] | None = None
    ) -> builtins.list[JobEvent]:
        """Return what was told of a job after an event, in order; kinds: of these alone."""
        query = select(_E).where(_E.c.job_id == _checked(id), _E.c.number > after)
        if kinds is not None:
            query = query.where(_E.c.kind.in_(kinds))
        query = query.order_by(_E.c.number).limit(min(limit, MAX_EVENTS))
        return self._database.read(
            lambda connection: [
                JobEvent(row.number, row.created_at, row.kind, row.data) for row in connection.execute(query)
            ]
        )

    def cancel(
        self, id: str, *, author: str, key_id: str | None = None, request_id: str | None = None
    ) -> JobRecord:
        """Let a job end early; one that nobody runs ends at once, and one that is over stays as it is.

        Raises NotFound.
        """
        now = self._database.now()

        def work(connection: Connection) -> JobRecord:
            job = _get(connection, id, key_id, lock=True)
            if job.is_final or job.status == "cancelling":
                return job
            status: Status = "cancelled" if job.claim is None else "cancelling"
            _change(connection, job, now, News(status=status, wish="cancel"))
            _audit(connection, now, author, "job.cancel", id, request_id)
            return _get(connection, id)

        return self._database.write(work)

    def retry(
        self, id: str, *, author: str, key_id: str | None = None, request_id: str | None = None
    ) -> JobRecord:
        """Let a job that is over go on: rows that failed are tried again, and one that was not done is done.

        Raises NotFound, WrongState if it is not over, or there is nothing to do again.
        """
        now = self._database.now()

        def work(connection: Connection) -> JobRecord:
            job = _get(connection, id, key_id, lock=True)
            if not job.is_final:
                raise WrongState(
                    f"job {id} is {job.status.replace('_', ' ')}: wait until it is over, or cancel it, and retry then"
                )
            if job.status == "completed" and not (job.progress or {}).get("counts", {}).get("failed"):
                raise WrongState(
                    f"job {id} is completed and has no rows that failed: there is nothing to retry"
                )
            wish: Wish = "retry" if job.status == "completed" else "resume"
            times = dict.fromkeys(
                ("finalizing_at", "completed_at", "failed_at", "cancelling_at", "cancelled_at")
            )
            connection.execute(update(_T).where(_T.c.id == id).values(**times, claim=None, errors=[]))
            job = _get(connection, id)
            _change(connection, job, now, News(status="validating", wish=wish, crashes=0))
            _audit(connection, now, author, "job.retry", id, request_id)
            return _get(connection, id)

        return self._database.write(work)

    # --- for those who run jobs

    def open(self) -> builtins.list[OpenJob]:
        """Return all jobs that are not over, the oldest first."""
        names = ("id", "status", "wish", "claim", "beat", "n_events")
        query = select(*(_T.c[name] for name in names)).where(_T.c.status.in_(OPEN)).order_by(_T.c.id)
        return self._database.read(
            lambda connection: [OpenJob(**row._mapping) for row in connection.execute(query)]
        )

    def claim(self, seen: OpenJob, claim: str) -> JobRecord | None:
        """Take a job as it was seen: nobody's, or of somebody who gives no sign of life. None if it changed since.

        claim: names who takes it, and is never used again. One that was somebody's has crashed once more.
        """
        this = update(_T).where(
            _T.c.id == seen.id,
            _T.c.beat == seen.beat,
            _T.c.claim.is_(None) if seen.claim is None else _T.c.claim == seen.claim,
            _T.c.status.in_(OPEN),
        )
        values: dict[str, Any] = {"claim": claim, "beat": seen.beat + 1}
        if seen.claim is not None:
            values["crashes"] = _T.c.crashes + 1

        def work(connection: Connection) -> JobRecord | None:
            taken = connection.execute(this.values(values)).rowcount
            return _get(connection, seen.id) if taken else None

        return self._database.write(work)

    def beat(self, claims: Sequence[str]) -> set[str]:
        """Say that whoever holds these claims still does; return those that are still theirs."""
        if not claims:
            return set()
        this = update(_T).where(_T.c.claim.in_(claims)).values(beat=_T.c.beat + 1)
        query = select(_T.c.claim).where(_T.c.claim.in_(claims))

        def work(connection: Connection) -> set[str]:
            connection.execute(this)
            return {row.claim for row in connection.execute(query)}

        return self._database.write(work)

    def tell(self, id: str, claim: str, news: News, *, release: bool = False) -> JobRecord | None:
        """Keep what the holder of a claim has to say; None, and nothing is kept, if it is no longer the holder.

        A job whose end is told is nobody's, nor is one that is released: others may claim it at once.
        """
        now = self._database.now()

        def work(connection: Connection) -> JobRecord | None:
            job = _get(connection, id, lock=True)
            if job.claim != claim:
                return None
            if job.status == "cancelling" and news.status not in FINAL:
                # What it still says on its way down changes neither where it goes nor why.
                _change(connection, job, now, News(events=news.events, progress=news.progress))
            else:
                _change(connection, job, now, news)
            if release or news.status in FINAL:
                connection.execute(update(_T).where(_T.c.id == id).values(claim=None))
            return _get(connection, id)

        return self._database.write(work)


def _change(connection: Connection, job: JobRecord, now: datetime, news: News) -> None:
    values: dict[str, Any] = {
        name: value
        for name in ("wish", "progress", "errors", "crashes")
        if (value := getattr(news, name)) is not None
    }
    events = list(news.events)
    if news.status is not None and news.status != job.status:
        values["status"] = news.status
        if news.status != "validating" and getattr(job, f"{news.status}_at") is None:
            values[f"{news.status}_at"] = now
        told: dict[str, Any] = {"status": news.status}
        if news.errors:
            told["errors"] = list(news.errors)
        events.append(("status", told))
    if "errors" in values:
        values["errors"] = list(values["errors"])
    if values:
        connection.execute(update(_T).where(_T.c.id == job.id).values(values))
    _add_events(connection, job.id, job.n_events, events, now)


def _add_events(
    connection: Connection,
    id: str,
    last: int,
    events: Sequence[tuple[Kind, Mapping[str, Any]]],
    now: datetime,
) -> None:
    if not events:
        return
    rows = [
        {"job_id": id, "number": last + n, "created_at": now, "kind": kind, "data": dict(data)}
        for n, (kind, data) in enumerate(events, 1)
    ]
    connection.execute(insert(_E), rows)
    connection.execute(update(_T).where(_T.c.id == id).values(n_events=last + len(rows)))


def _audit(
    connection: Connection, now: datetime, author: str, action: str, id: str, request_id: str | None
) -> None:
    audited(connection, now, actor=author, action=action, subject=f"job:{id}", request_id=request_id)


def _remove_some(connection: Connection, older_than: datetime, limit: int) -> int:
    old = select(_T.c.id).where(_T.c.created_at < older_than, _T.c.status.in_(FINAL)).limit(limit)
    return connection.execute(delete(_T).where(_T.c.id.in_(old))).rowcount


def _get(connection: Connection, id: str, key_id: str | None = None, *, lock: bool = False) -> JobRecord:
    query = select(_T).where(_T.c.id == _checked(id))
    if key_id is not None:
        query = query.where(_T.c.key_id == key_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise _absent(id)
    return _record(row)


def _checked(id: str) -> str:
    if not _ID.fullmatch(id):
        raise _absent(id)
    return id


def _absent(id: str) -> NotFound:
    return NotFound(f"there is no job {id!r:.80} of this key; GET /v1/jobs lists all")


def _record(row: Row[Any]) -> JobRecord:
    told = dict(row._mapping)
    told["errors"] = tuple(told["errors"])
    return JobRecord(**told)
