"""A connection to PostgreSQL that waits for no answer longer than it may.

The server's own time-outs end what takes long there; they end nothing where the server itself has stopped, or whatever
lies in between holds the connection open.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, ClassVar, TypeVar

import psycopg
from psycopg.rows import TupleRow

R = TypeVar("R")


class BoundedConnection(psycopg.Connection[TupleRow]):
    """Ends itself, with OperationalError, where an answer takes too long. patience_s: how long that is."""

    patience_s: ClassVar[float] = 10.0

    def wait(self, gen: Generator[Any, Any, R], interval: float = 0.1, timeout: float | None = None) -> R:
        if timeout is None:  # Not every psycopg 3 knows it.
            return super().wait(self._bounded(gen), interval)
        return super().wait(self._bounded(gen), interval, timeout)

    def _bounded(self, gen: Generator[Any, Any, R]) -> Generator[Any, Any, R]:
        deadline = time.monotonic() + self.patience_s
        try:
            state = next(gen)
            while True:
                ready = yield state
                # Nothing is ready where the interval passed in vain.
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()  # Its answer may still come, and would be taken for the next one's.
                    raise psycopg.OperationalError(f"no answer within {self.patience_s:g} s")
                state = gen.send(ready)
        except StopIteration as done:
            value: R = done.value
            return value


def bounded(patience_s: float) -> type[BoundedConnection]:
    """Return the class of connections with so much patience."""
    return type("BoundedConnection", (BoundedConnection,), {"patience_s": patience_s})
