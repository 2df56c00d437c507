"""How many items are decoded or wait in front of models at once, so that memory stays flat however much is queued.

A call waits here with the bytes that it came with; past the gate it has a thread and may hold decoded images. A large
call counts as a part of the whole, so that small ones pass beside it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from manyeyes.service.pipeline.tickets import CallOver, Ticket


class Gate:
    """Threads for calls whose weights fit together; first come, first served."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.active = 0
        self._waiting: deque[tuple[Ticket, Callable[[], Any], Future[Any]]] = deque()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(capacity, thread_name_prefix="manyeyes-call")

    def submit(self, ticket: Ticket, work: Callable[[], Any]) -> Future[Any]:
        """Have a call worked on when its turn comes; CallOver if nobody waits for it then."""
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.append((ticket, work, future))
        self._let_in()
        return future

    def close(self) -> None:
        """Take nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _let_in(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                ticket, work, future = self._waiting[0]
                over = ticket.over
                if over is None and self.active and self.active + ticket.weight > self.capacity:
                    return
                self._waiting.popleft()
                if not future.set_running_or_notify_cancel():  # its caller waits no more
                    continue
                if over is None:
                    self.active += ticket.weight
            if over is not None:
                future.set_exception(CallOver(over))
            else:
                self._threads.submit(self._work, ticket, work, future)

    def _work(self, ticket: Ticket, work: Callable[[], Any], future: Future[Any]) -> None:
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            with self._lock:
                self.active -= ticket.weight
            self._let_in()
