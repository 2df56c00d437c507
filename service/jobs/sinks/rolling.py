"""Files of bounded size, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Generic, Protocol, TypeVar

from manyeyes.service.jobs.sinks.target import Target, Writer


class Part(Protocol):
    """What writes into one file, and ends it."""

    def close(self) -> None:
        """Write what is written last."""


P = TypeVar("P", bound=Part)


class Rolling(Generic[P]):
    """Gives the part to write to next: a new one whenever the one before is full.

    name: number → path. start: makes a part out of a writer. shard_bytes, shard_rows: what a file holds at most; a row
    that is larger by itself has a file of its own.
    """

    def __init__(
        self,
        target: Target,
        name: Callable[[int], str],
        start: Callable[[Writer], P],
        *,
        shard_bytes: int | None = None,
        shard_rows: int | None = None,
    ) -> None:
        self.n_parts = 0
        self.n_bytes = 0
        self._target = target
        self._name = name
        self._start = start
        self._shard_bytes = shard_bytes
        self._shard_rows = shard_rows
        self._open: tuple[P, Writer, ExitStack] | None = None
        self._rows = 0
        self._bytes = 0

    def next(self, size: int = 0) -> P:
        """Return the part for a row of so many bytes."""
        full = self._rows and (
            (self._shard_rows is not None and self._rows >= self._shard_rows)
            or (self._shard_bytes is not None and self._bytes + size > self._shard_bytes)
        )
        if full:
            self.close()
        if self._open is None:
            stack = ExitStack()
            writer = stack.enter_context(self._target.stream(self._name(self.n_parts)))
            self._open = self._start(writer), writer, stack
            self.n_parts += 1
        self._rows += 1
        self._bytes += size
        return self._open[0]

    def close(self) -> None:
        """End the last part."""
        if self._open is None:
            return
        (part, writer, stack), self._open = self._open, None
        self._rows = self._bytes = 0
        with stack:
            part.close()
            self.n_bytes += writer.tell()
