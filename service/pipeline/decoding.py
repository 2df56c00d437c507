"""The threads that read and decode images, for all calls together."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from manyeyes.primitives.cores import CORES
from manyeyes.service.operations.observer import NOBODY, Observer
from manyeyes.service.operations.spans import here, record
from manyeyes.service.pipeline.estimate import Fit
from manyeyes.service.pipeline.stage import Stage
from manyeyes.service.pipeline.tickets import Ticket, ticket_here

_LIVES: Final = 2
MOST_THREADS: Final = 8


class Task:
    """Something to do on a thread, for a call."""

    __slots__ = ("future", "lives", "place", "ticket", "work")

    def __init__(self, work: Callable[[], Any], ticket: Ticket) -> None:
        self.work = work
        self.ticket = ticket
        self.lives = _LIVES
        self.place = here()
        self.future: Future[Any] = Future()

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits for the result."""
        if not self.future.done():
            self.future.set_exception(error)


class Decoding(Stage[Task]):
    """Reads and decodes; to an Extractor it is an executor. fit: how long an image takes, all threads together."""

    def __init__(self, n_threads: int = 0, *, limit: int = 4096, observer: Observer = NOBODY) -> None:
        self.n_threads = n_threads or min(MOST_THREADS, CORES.n_cores)
        self.fit = Fit()
        super().__init__("decode", n_threads=self.n_threads, limit=limit, observer=observer)

    def has_work(self) -> bool:
        """Whether something is read or decoded now, or waits for it."""
        return bool(self._queue) or any(self._hands)

    def submit(self, work: Callable[[], Any], /) -> Future[Any]:
        """Have something done for the call in hand. Raises CallOver, Uncached."""
        ticket = ticket_here()
        ticket.check()
        task = Task(work, ticket)
        self.bring([task])
        return task.future

    def do(self, entries: list[Task]) -> None:
        """Do what was submitted."""
        for task in entries:
            # One that took a thread with it runs already.
            if not task.future.running() and not task.future.set_running_or_notify_cancel():
                continue
            started = time.perf_counter()
            try:
                result = task.work()
            except Exception as error:
                task.future.set_exception(error)
            else:
                task.future.set_result(result)
            ended = time.perf_counter()
            record(task.place, "decode", started, ended)
            seconds = ended - started
            self.fit.add(1, seconds / self.n_threads)
            self.observer.decoded(seconds)
