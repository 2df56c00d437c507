"""How many items are decoded or wait in front of models at once, so that memory stays flat however much is queued.

A call waits here with the bytes that it came with; past the gate it has a thread and may hold decoded images. A large
call counts as a part of the whole, so that small ones pass beside it. Calls that share their work come in as groups.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from manyeyes.service.pipeline.lanes import Lane, Member, Told, tell
from manyeyes.service.pipeline.tickets import CallOver, Ticket

_Call = tuple[Ticket, Callable[[], Any], "Future[Any]"]


class Gate:
    """Threads for calls whose weights fit together; first come, first served."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.active = 0
        # Of a lane, its place in the row: who is in the group is decided when its turn comes.
        self._waiting: deque[_Call | Lane] = deque()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(capacity, thread_name_prefix="manyeyes-call")

    def submit(self, ticket: Ticket, work: Callable[[], Any]) -> Future[Any]:
        """Have a call worked on when its turn comes; CallOver if nobody waits for it then."""
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.append((ticket, work, future))
        self._let_in()
        return future

    def join(self, lane: Lane, members: Sequence[Member]) -> None:
        """Have calls worked on with others of their lane when its turn comes; CallOver if nobody waits for one then."""
        with self._lock:
            lane.waiting.extend(members)
            self._line_up(lane)
        self._let_in()

    def close(self) -> None:
        """Take nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _line_up(self, lane: Lane) -> None:
        """Give a lane a place in the row, where it has something to do and may have another group."""
        if lane.busy < lane.n_lanes and len(lane.waiting) > lane.lined_up:
            lane.busy += 1
            lane.lined_up += 1
            self._waiting.append(lane)

    def _let_in(self) -> None:
        while (step := self._next()) is not None:
            step()

    def _next(self) -> Callable[[], Any] | None:
        """Take the first in the row, if there is room; return what is left to do, which must not be done locked."""
        with self._lock:
            if not self._waiting:
                return None
            first = self._waiting[0]
            return self._next_group(first) if isinstance(first, Lane) else self._next_call(*first)

    def _next_group(self, lane: Lane) -> Callable[[], Any] | None:
        group, gone = lane.gather(self.capacity - self.active, alone=not self.active)
        told: Told = [(member, None, CallOver(member.ticket.over or "gone")) for member in gone]
        if not group and lane.waiting:
            return partial(tell, told) if told else None
        self._waiting.popleft()
        lane.lined_up -= 1
        if not group:
            lane.busy -= 1
            return partial(tell, told)
        weight = sum(member.ticket.weight for member in group)
        self.active += weight

        def begin() -> None:
            tell(told)
            self._threads.submit(self._work_together, lane, group, weight)

        return begin

    def _next_call(
        self, ticket: Ticket, work: Callable[[], Any], future: Future[Any]
    ) -> Callable[[], Any] | None:
        over = ticket.over
        if over is None and self.active and self.active + ticket.weight > self.capacity:
            return None
        self._waiting.popleft()
        if not future.set_running_or_notify_cancel():  # its caller waits no more
            return _nothing
        if over is not None:
            return partial(future.set_exception, CallOver(over))
        self.active += ticket.weight
        return partial(self._threads.submit, self._work, ticket, work, future)

    def _work_together(self, lane: Lane, group: list[Member], weight: int) -> None:
        try:
            lane.do(group)
        finally:
            with self._lock:
                self.active -= weight
                lane.busy -= 1
                self._line_up(lane)
            self._let_in()

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


def _nothing() -> None:
    pass
