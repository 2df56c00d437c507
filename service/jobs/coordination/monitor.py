"""What happens beside the work: somebody watches for a wish to stop, tells how far it is, and suspects the worst."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from manyeyes.errors import ManyeyesError

log: Final = logging.getLogger("manyeyes.service.jobs")

_TICK_S: Final = 0.1


@dataclass
class Duty:
    """Something that is done every so often. work: may raise; what was raised on purpose is logged and done again."""

    every_s: float
    work: Callable[[], object]
    due: float = 0.0


class Monitor:
    """A thread that does its duties while the block runs. An error that nobody meant ends the block's work.

    stop: set when the work shall end, by whoever asked for it outside or by a duty.
    """

    def __init__(self, duties: list[Duty], *, stop: threading.Event, asked: threading.Event | None) -> None:
        self._duties = duties
        self._stop = stop
        self._asked = asked
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="manyeyes-job-monitor", daemon=True)
        self.error: BaseException | None = None

    def _watch(self) -> None:
        now = time.monotonic()
        for duty in self._duties:
            duty.due = now + duty.every_s
        while not self._over.wait(_TICK_S):
            if self._asked is not None and self._asked.is_set():
                self._stop.set()
            for duty in self._duties:
                if time.monotonic() >= duty.due:
                    self._do(duty)
                    duty.due = time.monotonic() + duty.every_s

    def _do(self, duty: Duty) -> None:
        try:
            duty.work()
        except ManyeyesError as error:
            log.warning("%s", error)
        except BaseException as error:  # of the caller's own function: it is raised where the caller waits
            self.error = error
            self._stop.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        with suppress(RuntimeError):
            self._thread.join(timeout=5)
        if self.error is not None and kind is None:
            raise self.error
