"""A call on its way through the stages, and whether anybody still waits for it."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Final

from manyeyes.service.operations.observer import Loss


class CallOver(Exception):
    """Nobody waits for this call any more. why: its caller left, or its time is over."""

    def __init__(self, why: Loss) -> None:
        super().__init__(why)
        self.why: Loss = why


class Uncached(Exception):
    """The cache does not hold all that a call needs."""


class Ticket:
    """A call.

    deadline: by ``time.monotonic()``. n_items, n_bytes: what it holds. weight: as how many items it counts.
    cached_only: whether it is to be served from the cache alone. why: it is over, if it is.
    """

    __slots__ = ("cached_only", "deadline", "n_bytes", "n_items", "started", "weight", "why")

    def __init__(
        self, deadline: float = float("inf"), *, n_items: int = 0, weight: int = 0, n_bytes: int = 0
    ) -> None:
        self.deadline = deadline
        self.n_items = n_items
        self.weight = weight
        self.n_bytes = n_bytes
        self.cached_only = False
        self.started = time.monotonic()
        self.why: Loss | None = None

    def cancel(self, why: Loss = "gone") -> None:
        """Let nobody work on this call any more."""
        self.why = self.why or why

    @property
    def over(self) -> Loss | None:
        """Why nobody waits for the call any more; None where somebody does."""
        if self.why is None and time.monotonic() > self.deadline:
            self.why = "expired"
        return self.why

    def check(self) -> None:
        """Raise CallOver if nobody waits, Uncached if the call is to be served from the cache alone."""
        if (why := self.over) is not None:
            raise CallOver(why)
        if self.cached_only:
            raise Uncached


TICKET: Final[ContextVar[Ticket | None]] = ContextVar("manyeyes_ticket", default=None)
"""The call that a thread works for; None where it is for the service itself, such as loading models beforehand."""
_FOREVER: Final = Ticket()


def ticket_here() -> Ticket:
    """Return the call that this thread works for."""
    return TICKET.get() or _FOREVER
