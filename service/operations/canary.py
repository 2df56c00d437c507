"""Canaries: made items that go through every loaded model from time to time, so that one that hangs is noticed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import anyio

from manyeyes.service.operations.alone import Alone, Hangs
from manyeyes.service.operations.metrics import Metrics

log: Final = logging.getLogger("manyeyes.service.canary")


class Line(Protocol):
    """How a line is. name: of it. done: how many inputs it has done so far."""

    @property
    def name(self) -> str: ...

    @property
    def done(self) -> int: ...


@dataclass(slots=True)
class _Last:
    """What came of the last canary of a line. succeeded: by ``time.monotonic()``, when the last one came through."""

    succeeded: float
    failed: str | None = None


class Canaries:
    """Sends a canary through each loaded line, every so often, with a deadline of its own.

    lines: the loaded lines now. sing: sends one through a line, blocking, and raises what the model raises, or whatever
    it likes once the seconds that it is given are over. every_s: between two rounds. timeout_s: how long one may take.

    A line with much before the canary is no broken line, and one that has done nothing yet may be loading its model:
    where a canary comes too late, the line has failed only if it did something before, and nothing meanwhile.
    """

    def __init__(
        self,
        lines: Callable[[], Sequence[Line]],
        sing: Callable[[str, float], None],
        *,
        every_s: float,
        timeout_s: float,
        metrics: Metrics | None = None,
    ) -> None:
        self._lines = lines
        self._sing = sing
        self.every_s = every_s
        self.timeout_s = timeout_s
        self.metrics = metrics
        self._last: dict[str, _Last] = {}
        self._threads: dict[str, Alone] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await anyio.sleep(self.every_s)
            await self.round()

    async def round(self) -> None:
        """Send one canary through each line, side by side: one that hangs delays none of the others."""
        names = [line.name for line in self._lines()]
        self._last = {name: last for name, last in self._last.items() if name in names}
        self._threads = {name: threads for name, threads in self._threads.items() if name in names}
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(self._one, name)

    async def _one(self, name: str) -> None:
        started, done = time.monotonic(), self._done(name)
        last = self._last.setdefault(name, _Last(succeeded=started))
        alone = self._threads.setdefault(name, Alone())
        late = f"no canary was through after {self.timeout_s:g} s"
        failed: str | None = late
        with anyio.move_on_after(self.timeout_s):
            try:
                await alone.run(partial(self._sing, name, self.timeout_s))
                failed = None
            except Hangs:
                pass
            except Exception as error:
                if time.monotonic() - started < self.timeout_s:
                    failed = f"a canary failed with {type(error).__name__}"
                    log.warning("the canary of %s failed", name, exc_info=error)
        took = time.monotonic() - started
        if failed == late and (done == 0 or self._done(name) > done):
            failed = None
        if failed is None:
            last.succeeded = time.monotonic()
        elif last.failed is None:
            log.warning("%s: %s", name, failed)
        last.failed = failed
        if self.metrics is not None:
            self.metrics.sang(name, took, failed=failed is not None)

    def _done(self, name: str) -> int:
        return next((line.done for line in self._lines() if line.name == name), 0)

    def check(self) -> str | None:
        """Return which lines let no canary through, or None; a line that none has gone through yet is believed."""
        late = time.monotonic() - 3 * self.every_s - self.timeout_s
        wrong = [
            f"{line}: {last.failed or 'no canary has come through lately'}"
            for line, last in sorted(self._last.items())
            if last.failed is not None or last.succeeded < late
        ]
        return "; ".join(wrong) or None
