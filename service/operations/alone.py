"""Work on threads that may hang: one at a time, and never one more while the last is stuck."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


class Hangs(Exception):
    """What was begun earlier has not come back yet."""


class Alone:
    """Does one thing at a time on a thread that is none of the shared ones.

    Whoever waits may give up; the thread cannot, so that until it comes back nothing else is begun: what hangs for ever
    costs one thread, and not one for each time that somebody asks.
    """

    def __init__(self) -> None:
        self._busy = threading.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """Return what the work returns. Raises Hangs at once where the last one is not done."""
        if not self._busy.acquire(blocking=False):
            raise Hangs

        def do() -> T:
            try:
                return work()
            finally:
                self._busy.release()

        limiter = anyio.CapacityLimiter(1)  # the shared one may be used up by what waits for the same thing
        return await anyio.to_thread.run_sync(do, limiter=limiter, abandon_on_cancel=True)
