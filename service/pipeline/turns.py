"""A call's turn: from when it is let in to when it is answered, whoever leaves and however late it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect

from manyeyes.errors import DeadlineExceeded
from manyeyes.service.operations.observer import NOBODY, Observer
from manyeyes.service.pipeline.admission import Admission
from manyeyes.service.pipeline.gate import Gate
from manyeyes.service.pipeline.lanes import Lane, Member
from manyeyes.service.pipeline.tickets import TICKET, CallOver, Ticket, Uncached
from manyeyes.service.settings import ServiceSettings

R = TypeVar("R")

log: Final = logging.getLogger("manyeyes.service")

_ASK_S: Final = 1.0
"""How often a call that is worked on or waits is asked whether its caller is still there."""


class Turns:
    """Lets calls in, tries each with the cache alone, and sends the others through the gate.

    predict: items that wait → the seconds until they are done.
    """

    def __init__(
        self, settings: ServiceSettings, predict: Callable[[int], float], *, observer: Observer = NOBODY
    ) -> None:
        self.settings = settings
        self.observer = observer
        self.gate = Gate(settings.max_active_items)
        self.admission = Admission(
            settings, predict, max_held_bytes=int(settings.max_held_bytes), observer=observer
        )
        self._quick = ThreadPoolExecutor(settings.workers, thread_name_prefix="manyeyes-cached")

    def close(self) -> None:
        """Take nothing more."""
        self.gate.close()
        self._quick.shutdown(wait=False, cancel_futures=True)

    async def take(
        self, n_items: int, n_bytes: int, is_gone: Callable[[], Awaitable[bool]], work: Callable[[], R]
    ) -> R:
        """Return what came of a call. Raises as ``Engine.label`` does.

        work: is done with the call's ticket at hand, once or twice: the first time it may raise Uncached.
        """
        ticket = self.admission.enter(n_items, n_bytes)
        try:
            ticket.cached_only = True
            try:
                future = self._quick.submit(_for(ticket, work))
                return await self._wait(asyncio.wrap_future(future), ticket, is_gone)
            except Uncached:
                ticket.cached_only = False
            future = self.gate.submit(ticket, _for(ticket, work))
            return await self._wait(asyncio.wrap_future(future), ticket, is_gone)
        finally:
            self._leave(ticket)

    async def share(
        self, n_items: int, n_bytes: int, is_gone: Callable[[], Awaitable[bool]], lane: Lane, part: Any
    ) -> Any:
        """Return what came of a call that may be worked on together with others of its lane; raises as ``take`` does.

        part: what the lane's work is given of it.
        """
        ticket = self.admission.enter(n_items, n_bytes)
        try:
            member = Member(ticket, part)
            lane.new.append(member)
            # Whoever looks takes all that is new, so that there need be one at a time.
            if lane.begin_to_look():
                self._quick.submit(self._look, lane)
            return await self._wait(member.future, ticket, is_gone)
        finally:
            self._leave(ticket)

    def _look(self, lane: Lane) -> None:
        """Serve the new calls of a lane that the cache can serve, and send the others through the gate."""
        while members := lane.take_new():
            try:
                known = lane.known([member.part for member in members])
            except Exception as error:  # which of them it is shows when each is worked on
                log.debug("what is cached cannot be told: %s", error)
                known = [False] * len(members)
            served = [member for member, is_known in zip(members, known, strict=True) if is_known]
            others = [member for member, is_known in zip(members, known, strict=True) if not is_known]
            if others:
                self.gate.join(lane, others)
            if served and (left := lane.do(served, cached_only=True)):
                self.gate.join(lane, left)

    def _leave(self, ticket: Ticket) -> None:
        if ticket.why is not None:
            self.observer.lost(ticket.n_items, ticket.why)
        ticket.cancel()
        self.admission.leave(ticket)

    async def _wait(
        self, result: asyncio.Future[R], ticket: Ticket, is_gone: Callable[[], Awaitable[bool]]
    ) -> R:
        """Wait for a thread, as long as the caller does and the deadline allows."""
        try:
            while True:
                left = ticket.deadline - time.monotonic()
                done, _ = await asyncio.wait({result}, timeout=max(0.0, min(_ASK_S, left)))
                if done:
                    return result.result()
                if ticket.over == "expired":
                    raise CallOver("expired")
                if await is_gone():
                    ticket.cancel("gone")
                    raise ClientDisconnect
        except CallOver as over:
            if over.why != "expired":
                raise ClientDisconnect from over
            raise DeadlineExceeded(
                f"the call was not done within {self.settings.deadline_s:g} s; send fewer items at once"
            ) from over
        finally:
            result.cancel()


def _for(ticket: Ticket, work: Callable[[], R]) -> Callable[[], R]:
    """Return work to do for a call on another thread, in this context."""
    context = copy_context()

    def run() -> R:
        TICKET.set(ticket)
        if (why := ticket.over) is not None:
            raise CallOver(why)
        return work()

    return partial(context.run, run)
