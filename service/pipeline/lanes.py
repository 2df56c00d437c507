"""Calls that share their work: those of one kind that wait at the same time are worked on as one.

Most of what a small call costs is Python that is no dearer for ten items than for one, so calls that find all lanes of
their kind taken gather, and the next free lane takes them together. A call that finds one free starts at once, alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import Any, Final, TypeAlias

from manyeyes.service.operations.observer import Loss
from manyeyes.service.operations.spans import Place, here
from manyeyes.service.pipeline.tickets import TICKET, CallOver, Ticket, Uncached

log: Final = logging.getLogger("manyeyes.service")

N_LANES: Final = 3
MOST_ITEMS: Final = 16
"""Items that are worked on as one: enough that what is left of the cost of a call is small."""


class Member:
    """A call that may share its work; made on the loop that waits for it. part: what it asks for.

    future: of that loop; it gets what came of the call.
    """

    __slots__ = ("context", "future", "loop", "part", "place", "ticket")

    def __init__(self, ticket: Ticket, part: Any) -> None:
        self.ticket = ticket
        self.part = part
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.context: Context = copy_context()
        self.place: Place | None = here()


Told: TypeAlias = "list[tuple[Member, Any, BaseException | None]]"
"""What came of some calls: its result, or what was raised."""


def tell(told: Told) -> None:
    """Tell the loops that wait what came of some calls; each loop once, however many calls it waits for."""
    for loop in {id(member.loop): member.loop for member, _, _ in told}.values():
        try:
            loop.call_soon_threadsafe(_settle, [one for one in told if one[0].loop is loop])
        except RuntimeError:  # it is closed, and with it went whoever waited
            log.debug("a loop is closed: nobody waits for %d calls", len(told))


def _settle(told: Told) -> None:
    for member, result, error in told:
        if member.future.done():  # its caller waits no more
            continue
        if error is not None:
            member.future.set_exception(error)
        else:
            member.future.set_result(result)


class TogetherTicket(Ticket):
    """The ticket of calls that are worked on as one: over only when all of them are."""

    __slots__ = ("_tickets",)

    def __init__(self, tickets: Sequence[Ticket]) -> None:
        super().__init__(
            max(ticket.deadline for ticket in tickets),
            n_items=sum(ticket.n_items for ticket in tickets),
            weight=sum(ticket.weight for ticket in tickets),
            n_bytes=sum(ticket.n_bytes for ticket in tickets),
        )
        self._tickets = list(tickets)

    @property
    def over(self) -> Loss | None:
        """Why nobody waits for any of the calls any more; None where somebody does."""
        why: Loss | None = None
        for ticket in self._tickets:
            why = ticket.over
            if why is None:
                return None
        return why


class Lane:
    """Calls of one kind, and the work that they share.

    work: does several at once, and returns what came of each, in order. known: of several calls, whether the cache
    holds all that each needs. n_lanes: groups that are worked on at once.
    waiting, busy, lined_up: calls in front of the gate, and groups that are worked on or have a place in its row, and
    the latter alone; all under the gate's lock. new, looking: calls whose features nobody has looked for yet, and
    whether somebody does.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Any]], Sequence[Any]],
        known: Callable[[Sequence[Any]], Sequence[bool]],
        *,
        n_lanes: int = N_LANES,
        most_items: int = MOST_ITEMS,
    ) -> None:
        self.known = known
        self.n_lanes = n_lanes
        self.most_items = most_items
        self.busy = 0
        self.lined_up = 0
        self.waiting: deque[Member] = deque()
        self.new: deque[Member] = deque()
        self.looking = False
        self._work = work
        self._lock = threading.Lock()

    def begin_to_look(self) -> bool:
        """Return whether whoever asks is the one to look at what is new; he must go on until ``take_new`` is empty."""
        with self._lock:
            begins = not self.looking and bool(self.new)
            self.looking = self.looking or begins
            return begins

    def take_new(self) -> list[Member]:
        """Return the calls that came since; none where whoever looks may stop."""
        with self._lock:
            members: list[Member] = []
            n_items = 0
            while self.new and (not members or n_items + self.new[0].ticket.n_items <= self.most_items):
                members.append(self.new.popleft())
                n_items += members[-1].ticket.n_items
            self.looking = bool(members)
            return members

    def gather(self, room: int, *, alone: bool) -> tuple[list[Member], list[Member]]:
        """Take the next group, and those for whom nobody waits any more; no group if there is no room for the first.

        room: what may still be let in. alone: whether nobody else is worked on, so that any one call fits.
        """
        group: list[Member] = []
        gone: list[Member] = []
        weight = n_items = 0
        while self.waiting:
            first = self.waiting[0]
            if first.future.cancelled() or first.ticket.over is not None:
                gone.append(self.waiting.popleft())
                continue
            fits = weight + first.ticket.weight <= room or (alone and not group)
            if not fits or (group and n_items + first.ticket.n_items > self.most_items):
                break
            group.append(self.waiting.popleft())
            weight += first.ticket.weight
            n_items += first.ticket.n_items
        return group, gone

    def do(self, group: Sequence[Member], *, cached_only: bool = False) -> list[Member]:
        """Work on some calls as one and tell each what came of it; return those that the cache alone cannot serve.

        What is raised would concern all of them; so each is worked on by itself then, and one caller's item never
        fails another's call.
        """
        try:
            results = self._done(group, cached_only)
        except Uncached:
            return list(group)
        except Exception as error:
            if len(group) == 1 or isinstance(error, CallOver):
                tell([(member, None, error) for member in group])
                return []
            log.info("%d calls are worked on one by one: together, %s", len(group), type(error).__name__)
            return [left for member in group for left in self.do([member], cached_only=cached_only)]
        except BaseException as error:
            tell(
                [(member, None, SystemError(f"the thread of this call died: {error!r}")) for member in group]
            )
            raise
        tell([(member, result, None) for member, result in zip(group, results, strict=True)])
        return []

    def _done(self, group: Sequence[Member], cached_only: bool) -> Sequence[Any]:
        ticket = TogetherTicket([member.ticket for member in group])
        ticket.cached_only = cached_only

        def run() -> Sequence[Any]:
            TICKET.set(ticket)
            if (why := ticket.over) is not None:
                raise CallOver(why)
            return self._work([member.part for member in group])

        return group[0].context.run(run)
