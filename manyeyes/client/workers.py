"""Threads that the end of the program does not wait for, as it does for those of ``ThreadPoolExecutor``.

Whoever interrupts a long stream wants to be back at once, and not when a service has answered what is under way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
_Queue: TypeAlias = "SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None]"


class Workers:
    """At most so many threads, begun when they are needed."""

    def __init__(self, most: int, *, name: str) -> None:
        self._most = most
        self._name = name
        self._threads: list[threading.Thread] = []
        self._queue: _Queue = SimpleQueue()

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:
        """Have work done when a thread is free."""
        future: Future[T] = Future()
        self._queue.put((future, work, args))
        if len(self._threads) < self._most:
            thread = threading.Thread(
                target=_serve, args=(self._queue,), name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Let the threads end after what they do now; what waits is not done any more."""
        while not self._queue.empty():
            waiting = self._queue.get()
            if waiting is not None:
                waiting[0].cancel()
        for _ in self._threads:
            self._queue.put(None)

    def join(self) -> None:
        """Wait until all threads have ended; for tests."""
        for thread in self._threads:
            thread.join()


def _serve(queue: _Queue) -> None:
    while (task := queue.get()) is not None:
        future, work, args = task
        if future.set_running_or_notify_cancel():
            try:
                result = work(*args)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
        # Or the last work, and all that it holds, would live until there is more.
        del task, future, work, args
