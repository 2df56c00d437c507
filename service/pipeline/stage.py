"""A queue and the threads that serve it. A thread that dies is replaced, and what it had in hand is not lost."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from manyeyes.service.operations.observer import NOBODY, Observer
from manyeyes.service.pipeline.tickets import CallOver, Ticket

log: Final = logging.getLogger("manyeyes.service")

BEAT_S: Final = 1.0
"""How long a thread that has nothing to do sleeps between two signs of life."""
_SOON_S: Final = 0.005
_LIVES: Final = 2
"""Threads that an entry may take with it before it is its own fault."""


@dataclass(frozen=True, slots=True)
class StageState:
    """How a stage is. alive: whether all its threads run. beat_s: seconds since the last sign of life of the stillest.

    queued: what waits. busy: what is worked on. done: what is done. restarts: threads that died and were replaced.
    """

    name: str
    alive: bool
    beat_s: float
    queued: int
    busy: int
    done: int
    restarts: int


class Entry(Protocol):
    """One thing to do. ticket: for whom. lives: threads that it may still take with it."""

    ticket: Ticket
    lives: int

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits that it cannot be done."""


E = TypeVar("E", bound=Entry)


class Stage(Generic[E]):
    """n threads that serve one queue.

    A kind of stage says what a thread does with what it takes: ``do``. most: how many entries a thread takes at once.
    limit: how many may wait; who brings more waits, too.
    """

    def __init__(
        self, name: str, *, n_threads: int = 1, most: int = 1, limit: int = 1024, observer: Observer = NOBODY
    ) -> None:
        self.name = name
        self.most = most
        self.limit = limit
        self.observer = observer
        self.done = 0
        self.restarts = 0
        self._queue: deque[E] = deque()
        self._turn = threading.Condition()
        self._closed = False
        self._beats = [time.monotonic()] * n_threads
        self._hands: list[list[E]] = [[] for _ in range(n_threads)]
        self._threads = [self._start(slot) for slot in range(n_threads)]

    def ready(self) -> bool:
        """Return whether a thread should take what waits, of which there is some; asked again soon where not."""
        return True

    def do(self, entries: list[E]) -> None:
        """Do what was taken, and tell whoever waits for it."""
        raise NotImplementedError

    def bring(self, entries: Sequence[E]) -> None:
        """Queue some entries of one call, one after the other as there is room. Raises CallOver."""
        for start in range(0, len(entries), self.limit):
            part = entries[start : start + self.limit]
            with self._turn:
                while self._queue and len(self._queue) + len(part) > self.limit and not self._closed:
                    part[0].ticket.check()
                    self._turn.wait(BEAT_S / 2)
                if self._closed:
                    raise RuntimeError(f"the stage {self.name} is closed")
                self._queue.extend(part)
                self._turn.notify_all()

    def state(self) -> StageState:
        """Return how the stage is."""
        return StageState(
            name=self.name,
            alive=all(thread.is_alive() for thread in self._threads),
            beat_s=time.monotonic() - min(self._beats),
            queued=len(self._queue),
            busy=sum(len(hand) for hand in self._hands),
            done=self.done,
            restarts=self.restarts,
        )

    def mend(self) -> None:
        """Replace threads that died. What they had in hand comes first, one by one, and must not do it again."""
        for slot, thread in enumerate(self._threads):
            if thread.is_alive() or self._closed:
                continue
            log.error("stage %s lost a thread; another takes its place", self.name)
            with self._turn:
                lost, self._hands[slot] = self._hands[slot], []
                for entry in lost:
                    entry.lives -= 1
                for entry in reversed([entry for entry in lost if entry.lives > 0]):
                    self._queue.appendleft(entry)
            for entry in lost:
                if entry.lives <= 0:
                    entry.fail(SystemError(f"the thread of {self.name} died of it"))
            self.restarts += 1
            self.observer.restarted(self.name)
            self._threads[slot] = self._start(slot)

    def close(self) -> None:
        """Let the threads end once they have done what they have in hand; what still waits fails."""
        with self._turn:
            self._closed = True
            left, self._queue = list(self._queue), deque()
            self._turn.notify_all()
        for entry in left:
            entry.fail(CallOver("gone"))

    def _start(self, slot: int) -> threading.Thread:
        self._beats[slot] = time.monotonic()
        thread = threading.Thread(target=self._serve, args=(slot,), name=f"manyeyes-{self.name}", daemon=True)
        thread.start()
        return thread

    def _serve(self, slot: int) -> None:
        try:
            self._go_on(slot)
        except BaseException:  # this thread is lost, and whoever looks after the stage sees that
            log.exception("a thread of stage %s died", self.name)

    def _go_on(self, slot: int) -> None:
        hand = self._hands[slot]
        while True:
            self._beats[slot] = time.monotonic()
            if not self._take(hand):
                if self._closed:
                    return
                continue
            self.do(hand)
            self.done += len(hand)
            hand.clear()

    def _take(self, hand: list[E]) -> bool:
        """Take what is ready, without those for whom nobody waits; False where there was nothing."""
        dropped: list[E] = []
        with self._turn:
            if not self._queue:
                self._turn.wait(BEAT_S)
            elif not self.ready():
                self._turn.wait(_SOON_S)
                if self._queue and not self.ready():
                    return False
            while self._queue and len(hand) < self.most:
                entry = self._queue[0]
                careful = entry.lives < _LIVES
                if careful and hand:
                    break
                self._queue.popleft()
                if entry.ticket.over is None:
                    hand.append(entry)
                    if careful:
                        break
                else:
                    dropped.append(entry)
            if hand or dropped:
                self._turn.notify_all()
        for entry in dropped:
            entry.fail(CallOver(entry.ticket.over or "gone"))
        return bool(hand)


class Watch:
    """A thread that looks after stages: it replaces what died, about once a second. stages: those there are now."""

    def __init__(self, every_s: float = BEAT_S) -> None:
        self.every_s = every_s
        self.stages: list[Stage[Entry]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="manyeyes-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            for stage in list(self.stages):
                stage.mend()
