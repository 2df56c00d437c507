"""Canaries: made items that go through every loaded model from time to time, so that one that hangs is noticed."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

import anyio

from manyeyes.service.operations.metrics import Metrics

log: Final = logging.getLogger("manyeyes.service.canary")


@dataclass(slots=True)
class _Last:
    """What came of the last canary of a line. succeeded: by ``time.monotonic()``, when the last one came through."""

    succeeded: float
    failed: str | None = None


class Canaries:
    """Sends a canary through each loaded line, every so often, with a deadline of its own.

    lines: the loaded lines now. sing: sends one through a line, and returns when it is through.
    every_s: between two rounds. timeout_s: how long one may take.
    """

    def __init__(
        self,
        lines: Callable[[], Collection[str]],
        sing: Callable[[str], Awaitable[object]],
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

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await anyio.sleep(self.every_s)
            await self.round()

    async def round(self) -> None:
        """Send one canary through each line, side by side: one that hangs delays none of the others."""
        lines = list(self._lines())
        self._last = {line: last for line, last in self._last.items() if line in lines}
        async with anyio.create_task_group() as group:
            for line in lines:
                group.start_soon(self._one, line)

    async def _one(self, line: str) -> None:
        started = time.monotonic()
        last = self._last.setdefault(line, _Last(succeeded=started))
        failed: str | None = f"a canary was not through after {self.timeout_s:g} s"
        with anyio.move_on_after(self.timeout_s):
            try:
                await self._sing(line)
                failed = None
            except Exception as error:
                failed = f"a canary failed with {type(error).__name__}"
                log.warning("the canary of %s failed", line, exc_info=error)
        if failed is None:
            last.succeeded = time.monotonic()
        elif last.failed is None:
            log.warning("%s: %s", line, failed)
        last.failed = failed
        if self.metrics is not None:
            self.metrics.sang(line, time.monotonic() - started, failed=failed is not None)

    def check(self) -> str | None:
        """Return which lines let no canary through, or None; a line that none has gone through yet is believed."""
        late = time.monotonic() - 3 * self.every_s - self.timeout_s
        wrong = [
            f"{line}: {last.failed or 'no canary has come through lately'}"
            for line, last in sorted(self._last.items())
            if last.failed is not None or last.succeeded < late
        ]
        return "; ".join(wrong) or None
