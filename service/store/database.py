"""The database behind the store: connections, transactions, and errors that say what is wrong with it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Table, insert, text
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    PendingRollbackError,
    ResourceClosedError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from manyeyes.errors import InvalidRequest, ManyeyesError, StoreUnavailable
from manyeyes.service.store.engines import make_engine
from manyeyes.service.store.group_commit import GroupCommit, Job

log: Final = logging.getLogger("manyeyes.service.store")

T = TypeVar("T")

SWEEP_EVERY: Final = 50
SWEPT_AT_ONCE: Final = 200
_RETRIES: Final = 5
_PAGES_A_TIME: Final = 2000
# The last two: of what is done in a transaction after its connection broke.
_GONE: Final = (DBAPIError, PoolTimeout, PendingRollbackError, ResourceClosedError)
_AGAIN: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock


class Database:
    """One database. Safe to use from any thread of the process that made it.

    timeout_s: how long anything may take before it is StoreUnavailable. connections: at most, beside the writer's.
    foreign_keys: whether SQLite heeds them. clock: the time now; tests move it.
    """

    def __init__(
        self, url: URL, *, timeout_s: float = 5.0, connections: int = 8, foreign_keys: bool = True
    ) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.engine = make_engine(
            url, timeout_s=timeout_s, connections=connections, foreign_keys=foreign_keys
        )
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._group = GroupCommit(self._commit_group, timeout_s=2 * timeout_s)
        self._down = threading.Event()
        self._probing = threading.Lock()
        self._n_added = itertools.count(1)

    def now(self) -> datetime:
        """Return the time in UTC."""
        return self.clock()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return what a function reads, in one transaction."""
        with self.transaction() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Do a function in one transaction; return its result once that is durable.

        The function may be called again where the database asks for that, and raises to change nothing.
        """
        if self.is_sqlite:
            # SQLite has one writer at a time: in its line, each waits for the disk with the others.
            done: T = self._group.wait(Job(work=work))
            return done
        for left in reversed(range(_RETRIES)):
            try:
                with self.transaction(writes=True) as connection:
                    return work(connection)
            except StoreUnavailable as error:
                if not left or getattr(_cause(error), "sqlstate", None) not in _AGAIN:
                    raise
        raise AssertionError("unreachable")

    def insert(self, table: Table, row: dict[str, Any]) -> None:
        """Add a row; return once it is durable. Rows that wait at the same time share a transaction."""
        self._group.wait(Job(table=table, row=row))

    async def insert_soon(self, table: Table, row: dict[str, Any]) -> None:
        """Do the same as ``insert`` for whoever waits on an event loop."""
        await self._group.wait_soon(Job(table=table, row=row))

    def write_later(self, work: Callable[[Connection], Any]) -> None:
        """Do a function with the next group, and wait for nothing. Raises StoreUnavailable once closed."""
        self._group.put(Job(work=work))

    def sweep(self, work: Callable[[Connection], int]) -> None:
        """Remove some old rows with the next group, if it is this call's turn; never raises.

        Those who add rows remove others, so that there need be nobody who does it for all. Each time more may go
        than have come since, so that nothing piles up.
        """
        if next(self._n_added) % SWEEP_EVERY == 0:
            try:
                self.write_later(work)
            except StoreUnavailable as error:
                log.debug("nothing is swept: %s", error)

    def close(self) -> None:
        """Commit what waits, and let go of all connections."""
        self._group.close()
        self.engine.dispose()

    def ping(self) -> None:
        """Ask for a sign of life. Raises StoreUnavailable."""
        self.read(lambda connection: connection.execute(text("SELECT 1")))

    def give_back_space(self) -> None:
        """Make the file of SQLite smaller where rows were removed; PostgreSQL uses such space again by itself."""
        while self.is_sqlite and self.write(_vacuum_some):
            pass

    @contextmanager
    def transaction(self, *, writes: bool = False) -> Iterator[Connection]:
        """Give a connection inside a transaction, which is committed at the end. Raises StoreUnavailable."""
        try:
            with self._connection() as connection:
                if writes:
                    connection = connection.execution_options(manyeyes_writes=True)
                with connection.begin():
                    yield connection
        except SQLAlchemyError as error:
            raise self._told(error) from error

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        # While the database is away, one thread at a time finds out whether it is back; the others need not wait.
        probes = self._down.is_set()
        if probes and not self._probing.acquire(blocking=False):
            raise _unavailable()
        try:
            connection = self.engine.connect()
        except DBAPIError:
            self._down.set()
            raise
        finally:
            if probes:
                self._probing.release()
        self._down.clear()
        with connection:
            yield connection

    def _commit_group(self, jobs: Sequence[Job]) -> None:
        try:
            results, errors = self._do(jobs)
        except (IntegrityError, ManyeyesError) as error:
            if len(jobs) == 1 or isinstance(error, StoreUnavailable):
                raise
            # One row cannot be kept, and nothing says which: the others are not to fail with it.
            for job in jobs:
                try:
                    self._commit_group([job])
                except Exception as own:
                    job.done.set_exception(own)
            return
        for n, job in enumerate(jobs):
            if n in errors:
                job.done.set_exception(errors[n])
            else:
                job.done.set_result(results.get(n))

    def _do(self, jobs: Sequence[Job]) -> tuple[dict[int, Any], dict[int, Exception]]:
        """Do all jobs in one transaction; return results and errors by position."""
        results: dict[int, Any] = {}
        errors: dict[int, Exception] = {}
        rows: dict[Table, list[dict[str, Any]]] = {}
        with self.transaction(writes=True) as connection:
            for n, job in enumerate(jobs):
                if job.table is not None:
                    rows.setdefault(job.table, []).append(job.row)
                elif job.work is not None:
                    try:
                        with connection.begin_nested():
                            results[n] = job.work(connection)
                    except SQLAlchemyError as error:
                        told = self._told(error)
                        # What is wrong with the database is wrong for the whole group.
                        if isinstance(told, StoreUnavailable):
                            raise
                        errors[n] = told
                    except Exception as error:
                        errors[n] = error
            for table, some in rows.items():
                connection.execute(insert(table), some)
        return results, errors

    def _told(self, error: SQLAlchemyError) -> Exception:
        """Return an error of the database as one of ours, without what it says of hosts and users."""
        if isinstance(error, DataError):
            return InvalidRequest(
                "the store cannot keep a value of this call; it holds what no text may hold"
            )
        if isinstance(error, IntegrityError) or not isinstance(error, _GONE):
            return error  # A bug of ours: what callers can cause is looked up before.
        # Where a transaction broke, leaving it fails, too: what came first is what the operator wants to know.
        first: BaseException = error
        before: BaseException | None = error
        while before is not None:
            first = before if isinstance(before, SQLAlchemyError) else first
            before = before.__context__
        log.warning("the database does not answer: %s", _cause(first) or first)
        return _unavailable()


def _vacuum_some(connection: Connection) -> bool:
    """Cut some free pages off the file; return whether there are more. A few at a time, since others wait to write."""
    driver: Any = connection.connection.driver_connection
    (before,) = driver.execute("PRAGMA freelist_count").fetchone()
    # One page a step: the driver takes only the first step by itself.
    driver.execute(f"PRAGMA incremental_vacuum({_PAGES_A_TIME})").fetchall()
    (after,) = driver.execute("PRAGMA freelist_count").fetchone()
    return bool(0 < after < before)


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable(
        "the database of this service does not answer; what this call wanted to keep may not be kept. Send it again in"
        " a moment"
    )


def _cause(error: BaseException) -> BaseException | None:
    """Return what the driver raised, below our error or SQLAlchemy's."""
    found = error if isinstance(error, DBAPIError) else error.__cause__
    return found.orig if isinstance(found, DBAPIError) else found
