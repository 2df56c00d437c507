"""Whether the service can do its work now: what /readyz asks, and how often it really looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

import anyio

from manyeyes.service.operations.alone import Alone, Hangs
from manyeyes.service.operations.metrics import Metrics

Check: TypeAlias = Callable[[], str | None]
"""Looks at one thing that must work; returns what is wrong with it, or None. Runs on a worker thread."""

KEEP_S: Final = 1.0
TIMEOUT_S: Final = 3.0


class Readiness:
    """Asks every check, at most once in ``keep_s`` seconds however many probes come, and keeps what it was told.

    checks: name → check. timeout_s: a check that takes longer counts as failed; a check that raises does, too.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        metrics: Metrics | None = None,
        keep_s: float = KEEP_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.checks = dict(checks)
        self.metrics = metrics
        self.keep_s = keep_s
        self.timeout_s = timeout_s
        self._told: dict[str, str | None] = {}
        self._looked = -float("inf")
        self._lock = anyio.Lock()
        self._threads: dict[str, Alone] = {}

    async def look(self) -> dict[str, str | None]:
        """Return what is wrong with each thing that must work, None where nothing is."""
        async with self._lock:
            if time.monotonic() - self._looked >= self.keep_s:
                told: dict[str, str | None] = {}
                async with anyio.create_task_group() as group:
                    for name in self.checks:
                        group.start_soon(self._ask, name, told)
                self._told = {name: told[name] for name in self.checks}
                self._looked = time.monotonic()
                if self.metrics is not None:
                    self.metrics.checked({name: wrong is None for name, wrong in self._told.items()})
            return dict(self._told)

    async def _ask(self, name: str, told: dict[str, str | None]) -> None:
        told[name] = f"no answer within {self.timeout_s:g} s"
        alone = self._threads.setdefault(name, Alone())
        with anyio.move_on_after(self.timeout_s), suppress(Hangs):
            told[name] = await alone.run(partial(_safely, self.checks[name]))


def _safely(check: Check) -> str | None:
    try:
        return check()
    except Exception as error:
        # Probes need no key, and the message could hold anything.
        return f"failed with {type(error).__name__}"
