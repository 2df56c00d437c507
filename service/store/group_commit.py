"""Many small writes in one transaction: a commit waits for the disk, and what waits at the same time waits together.

A thread takes all that is queued, does it in one transaction, and tells every caller once that is on disk. While it
waits for the disk the next group gathers, so that nobody waits for a timer. Nothing is acknowledged before.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Table

from manyeyes.errors import StoreUnavailable

log: Final = logging.getLogger("manyeyes.service.store")

_MAX_JOBS: Final = 256


@dataclass(frozen=True, slots=True)
class Job:
    """Something to write: a row of a table, or what a function does; and who waits for it."""

    work: Callable[[Connection], Any] | None = None
    table: Table | None = None
    row: dict[str, Any] = field(default_factory=dict)
    done: Future[Any] = field(default_factory=Future)


class GroupCommit:
    """The thread that writes. commit: does some jobs in one transaction, and sets their results once it is durable."""

    def __init__(self, commit: Callable[[Sequence[Job]], None], *, timeout_s: float) -> None:
        self._commit = commit
        self._timeout_s = timeout_s
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="manyeyes-store", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a job; whoever wants to know waits for ``job.done``."""
        with self._changed:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            self._waiting.append(job)
            self._changed.notify()

    def wait(self, job: Job) -> Any:
        """Queue a job, and return its result once it is durable.

        Raises what the job raised; StoreUnavailable if that takes too long, and then it may or may not be kept.
        """
        self.put(job)
        try:
            return job.done.result(self._timeout_s)
        except FutureTimeout:
            # What nobody waits for any more is dropped when its turn comes.
            job.done.cancel()
            raise self._late() from None

    async def wait_soon(self, job: Job) -> Any:
        """Do the same as ``wait`` on an event loop."""
        self.put(job)
        kept = asyncio.wrap_future(job.done)
        done, _ = await asyncio.wait({kept}, timeout=self._timeout_s)
        if not done:
            job.done.cancel()
            raise self._late()
        return kept.result()

    def _late(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store took more than {self._timeout_s:g} s to keep this; it may or may not be kept, so send it again"
        )

    def close(self) -> None:
        """Commit what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._take():
            wanted = [job for job in jobs if job.done.set_running_or_notify_cancel()]
            if not wanted:
                continue
            try:
                self._commit(wanted)
            except BaseException as error:  # the thread must outlive whatever happens in one group
                if not isinstance(error, StoreUnavailable):
                    log.exception("a group of %d writes failed", len(wanted))
                for job in wanted:
                    if not job.done.done():
                        job.done.set_exception(error)

    def _take(self) -> list[Job]:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_JOBS))]
