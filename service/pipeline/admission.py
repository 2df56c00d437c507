"""Who is let in: as much as can be worked on soon, and nobody once the service is told to stop.

Saying no costs nearly nothing and is said before the body is read where that can be, so that what is let in goes on at
full speed however many ask.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from manyeyes.errors import Overloaded, ServiceUnavailable
from manyeyes.service.errors import Refusal
from manyeyes.service.operations.observer import NOBODY, Observer
from manyeyes.service.pipeline.settings import PipelineSettings
from manyeyes.service.pipeline.tickets import Ticket

_MAX_RETRY_AFTER_S: Final = 60
_LARGE: Final = 32
"""Items above which a call is a large one: it counts as so many, since it never holds more of them decoded."""


class Admission:
    """What has been let in and is not done yet.

    predict: items that wait → the seconds until they are done. max_held_bytes: of all calls together.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        predict: Callable[[int], float],
        *,
        max_held_bytes: int,
        observer: Observer = NOBODY,
    ) -> None:
        self.settings = settings
        self.observer = observer
        self.n_calls = 0
        self.n_items = 0
        self.n_bytes = 0
        self.draining = False
        self.max_held_bytes = max_held_bytes
        self._predict = predict
        self._weight = 0
        self._call_s = 1.0
        self._changed = threading.Condition()

    def check(self, n_items: int = 0, n_bytes: int = 0) -> None:
        """Raise Overloaded or ServiceUnavailable, with the time to come back, if a call cannot be let in now."""
        told = self._reason(n_items, n_bytes)
        if told is not None:
            self.observer.lost(max(1, n_items), "refused")
            error, seconds = told
            raise Refusal(error, retry_after_s=min(_MAX_RETRY_AFTER_S, max(1, math.ceil(seconds))))

    def enter(self, n_items: int, n_bytes: int) -> Ticket:
        """Let a call in. Raises as ``check`` does."""
        with self._changed:
            self.check(n_items, n_bytes)
            weight = max(1, min(n_items, _LARGE, self.settings.max_active_items))
            ticket = Ticket(
                time.monotonic() + self.settings.deadline_s, n_items=n_items, weight=weight, n_bytes=n_bytes
            )
            self.n_calls += 1
            self.n_items += n_items
            self.n_bytes += n_bytes
            self._weight += weight
            return ticket

    def leave(self, ticket: Ticket) -> None:
        """A call is done."""
        with self._changed:
            self.n_calls -= 1
            self.n_items -= ticket.n_items
            self.n_bytes -= ticket.n_bytes
            self._weight -= ticket.weight
            self._call_s += 0.1 * (time.monotonic() - ticket.started - self._call_s)
            self._changed.notify_all()

    def wait_s(self) -> float:
        """Return how long a call that comes now would wait for its turn, as far as is known."""
        return self._predict(self._weight)

    def drain(self, timeout_s: float) -> bool:
        """Let nobody in any more and wait for those who are; return whether all of them are done."""
        self.draining = True
        with self._changed:
            return self._changed.wait_for(lambda: self.n_calls == 0, timeout_s)

    def _reason(self, n_items: int, n_bytes: int) -> tuple[Overloaded | ServiceUnavailable, float] | None:
        settings = self.settings
        if self.draining:
            return (
                ServiceUnavailable(
                    "the service is about to stop and takes nothing new; send this again in a moment"
                ),
                settings.drain_timeout_s,
            )
        if self.n_calls == 0:  # whatever fits in a call is taken by a service that does nothing
            return None
        again = "send this again in a moment"
        if self.n_calls >= settings.max_waiting:
            return Overloaded(
                f"{self.n_calls} calls are being worked on or wait already; {again}"
            ), self._call_s
        wait_s = self.wait_s()
        if wait_s > settings.max_wait_s:
            return (
                Overloaded(f"a call would have to wait about {wait_s:.0f} s before its turn; {again}"),
                wait_s - settings.max_wait_s / 2,
            )
        if self.n_items + n_items > settings.max_queued_items:
            return Overloaded(f"{self.n_items} items are being worked on or wait already; {again}"), wait_s
        if self.n_bytes + n_bytes > self.max_held_bytes:
            return (
                Overloaded(
                    f"the service holds {self.n_bytes:,} bytes of items, and may hold {self.max_held_bytes:,};"
                    f" {again}"
                ),
                wait_s,
            )
        return None
