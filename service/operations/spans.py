"""Where the time of a request goes: spans, told from wherever the work is done, and dropped unless somebody traces.

The code that works calls ``span`` or ``record``; whether anything listens is decided by the request's middleware, which
puts a Trace into the context. Without one both cost a look into a context variable.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

Attribute: TypeAlias = str | int | float | bool


class Trace(Protocol):
    """Takes the spans of one service."""

    def span(self, name: str, attributes: dict[str, Attribute]) -> AbstractContextManager[Any]:
        """Return a context whose time is a span, below the one that is open where it is entered."""

    def place(self) -> Any:
        """Return the span that is open here, for ``record`` on another thread."""

    def record(
        self, place: Any, name: str, started_ns: int, ended_ns: int, attributes: dict[str, Attribute]
    ) -> None:
        """Keep a span that is over. started_ns, ended_ns: since the epoch."""


TRACE: Final[ContextVar[Trace | None]] = ContextVar("manyeyes_trace", default=None)
_NOTHING: Final = nullcontext()


@dataclass(frozen=True, slots=True)
class Place:
    """A span that is open somewhere, to which other threads add."""

    trace: Trace
    inner: Any


def span(name: str, **attributes: Attribute) -> AbstractContextManager[Any]:
    """Return a context whose time is a span of the request in hand; nothing where none is traced.

    >>> with span("fuse", n_items=3):
    ...     pass
    """
    trace = TRACE.get()
    return _NOTHING if trace is None else trace.span(name, attributes)


def here() -> Place | None:
    """Return where ``record`` puts what other threads do for the request in hand; None where none is traced."""
    trace = TRACE.get()
    return None if trace is None else Place(trace, trace.place())


def record(place: Place | None, name: str, started: float, ended: float, **attributes: Attribute) -> None:
    """Keep a span that is over, for a stage whose threads work for several requests at once.

    started, ended: by ``time.perf_counter()``.
    """
    if place is None:
        return
    epoch = time.time() - time.perf_counter()
    place.trace.record(
        place.inner, name, int((started + epoch) * 1e9), int((ended + epoch) * 1e9), attributes
    )
