"""The bytes of a job's rows: fetched ahead by threads, handed out in order, tried again where that may help."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias

from manyeyes.errors import FetchFailed, InvalidItem, ItemError, by_code
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.manifests.reading import PassingFailure, Reader
from manyeyes.service.jobs.shapes import Row
from manyeyes.settings import Limits

AHEAD_ROWS: Final = 256
AHEAD_BYTES: Final = 128 * 2**20
THREADS: Final = 16
PAUSE_S: Final = 0.2
MOST_PAUSE_S: Final = 10.0
PASSING_CODES: Final = frozenset({FetchFailed.code})
"""Codes of rows that may succeed when they are tried again later."""

Fetched: TypeAlias = "tuple[int, bytes | ItemError | None, int]"
"""Position of the row, its bytes or what is wrong with it (None for a text alone), attempts made."""


@dataclass(slots=True)
class _Ahead:
    """Rows that are fetched as one: their positions, the result to come, and how many bytes that may take."""

    positions: Sequence[int]
    future: Future[list[tuple[bytes | ItemError | None, int]]]
    n_bytes: int


class Fetcher:
    """Fetches what rows name. A context manager; calls of ``fetch`` may overlap in several threads.

    buckets: those of an operator; then nothing else is read. web: which hosts may be called, where an operator says so;
    by default any public one. limits: ``max_bytes`` of one file; a larger one is not read. ahead_rows, ahead_bytes: how
    much is fetched before it is asked for. threads: how many objects are read at once. pause_s, most_pause_s: the first
    and the longest wait between tries; each is a random part of it.
    """

    def __init__(
        self,
        *,
        buckets: Buckets | None = None,
        web: FetchSettings | None = None,
        limits: Limits | None = None,
        ahead_rows: int = AHEAD_ROWS,
        ahead_bytes: int = AHEAD_BYTES,
        threads: int = THREADS,
        pause_s: float = PAUSE_S,
        most_pause_s: float = MOST_PAUSE_S,
    ) -> None:
        self._reader = Reader(buckets=buckets, web=web, limits=limits or Limits())
        self._ahead_rows = max(1, ahead_rows)
        self._ahead_bytes = ahead_bytes
        self._pause_s = pause_s
        self._most_pause_s = most_pause_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        # What can only be read from its beginning on is read in order, by one thread.
        self._in_turn = ThreadPoolExecutor(1, thread_name_prefix="fetch-in-turn")
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it at once; whoever still iterates gets no more rows. A thread that waits for a store ends with that."""
        self._closing.set()
        for pool in (self._threads, self._in_turn):
            pool.shutdown(wait=False, cancel_futures=True)
        self._reader.close()

    def fetch(
        self, rows: Sequence[Row], *, attempts: int, stop: threading.Event | None = None
    ) -> Iterator[Fetched]:
        """Yield the bytes of each row, in order, or what is wrong with it; raises nothing for a row.

        attempts: how often a row is tried whose failure may pass: 500, 503, a time-out, a broken connection, a body
        that ends too soon. stop: once it is set, no more rows come.
        """
        stop = stop or threading.Event()
        waiting: deque[_Ahead] = deque()
        units = self._reader.units(rows)
        n_rows = n_bytes = 0
        is_more = True
        try:
            while True:
                while is_more and (
                    not waiting or (n_rows < self._ahead_rows and n_bytes < self._ahead_bytes)
                ):
                    positions = next(units, None)
                    if positions is None:
                        is_more = False
                        break
                    if stop.is_set() or self._closing.is_set():
                        return
                    ahead = self._begin([rows[position] for position in positions], positions, attempts, stop)
                    waiting.append(ahead)
                    n_rows += len(positions)
                    n_bytes += ahead.n_bytes
                if not waiting or stop.is_set() or self._closing.is_set():
                    return
                first = waiting.popleft()
                results = first.future.result()
                if stop.is_set():
                    return
                n_rows -= len(first.positions)
                n_bytes -= first.n_bytes
                for position, (got, n_attempts) in zip(first.positions, results, strict=True):
                    yield position, got, n_attempts
        except (CancelledError, RuntimeError):
            if not self._closing.is_set():
                raise
        finally:
            for ahead in waiting:
                ahead.future.cancel()

    def _begin(
        self, rows: Sequence[Row], positions: Sequence[int], attempts: int, stop: threading.Event
    ) -> _Ahead:
        if len(rows) == 1 and (rows[0].error is not None or rows[0].uri is None):
            future: Future[list[tuple[bytes | ItemError | None, int]]] = Future()
            future.set_result([(_known(rows[0]), 0)])
            return _Ahead(positions, future, 0)
        pool = self._in_turn if self._reader.is_in_turn(rows[0]) else self._threads
        n_bytes = self._reader.n_bytes(rows)
        return _Ahead(positions, pool.submit(self._together, rows, attempts, stop), n_bytes)

    def _together(
        self, rows: Sequence[Row], attempts: int, stop: threading.Event
    ) -> list[tuple[bytes | ItemError | None, int]]:
        """Read rows that lie together; what fails then is tried alone."""
        made = 0
        if len(rows) > 1:
            try:
                found = self._reader.read_together(rows)
            except PassingFailure:
                found, made = None, 1
            except Exception:  # each alone says what is wrong with it
                found = None
            if found is not None:
                return [(one, 1) for one in found]
        return [self._alone(row, attempts, made, stop) for row in rows]

    def _alone(
        self, row: Row, attempts: int, made: int, stop: threading.Event
    ) -> tuple[bytes | ItemError | None, int]:
        while True:
            if made:
                self._wait(made, stop)
            made += 1
            try:
                return self._reader.read(row), made
            except PassingFailure as failure:
                if made >= attempts or stop.is_set() or self._closing.is_set():
                    return FetchFailed(f"{failure} ({made} attempts)" if made > 1 else str(failure)), made
            except ItemError as error:
                return error, made
            except Exception as error:  # one row of strange bytes must not end the others
                return FetchFailed(f"reading failed: {type(error).__name__}: {error}"), made

    def _wait(self, made: int, stop: threading.Event) -> None:
        # Full jitter: those whom one outage stopped do not all come back at once.
        until = time.monotonic() + random.uniform(0, min(self._most_pause_s, self._pause_s * 2 ** (made - 1)))
        while (left := until - time.monotonic()) > 0 and not self._closing.is_set():
            if stop.wait(min(left, 0.25)):
                return


def _known(row: Row) -> ItemError | None:
    """Return the error that a row has since it was listed; None of a text alone."""
    if row.error is None:
        return None
    code, message = row.error
    kind = by_code().get(code, InvalidItem)
    return kind(message) if issubclass(kind, ItemError) else InvalidItem(message)
