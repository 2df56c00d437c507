"""One budget of cores for everything in a process that computes: models, and the threads that decode for them.

Each of them alone knows how many cores there are, and together they would run twice as many threads as that. Whoever
is about to keep a core busy for some milliseconds takes a permit first; a permit that nobody else wants is there at
once, so no core is idle while there is work.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Final


class Cores:
    """Permits, as many as cores; ``with`` takes one and gives it back. Who holds one may enter again.

    >>> cores = Cores(1)
    >>> with cores, cores:
    ...     cores.busy
    1
    """

    def __init__(self, n_cores: int) -> None:
        self.n_cores = n_cores
        self.renew()

    def renew(self) -> None:
        """Forget who holds a permit; for a process that was forked."""
        self._free = threading.Semaphore(self.n_cores)
        self._held = threading.local()
        self._count = threading.Lock()
        self.busy = 0
        self.most_busy = 0

    def __enter__(self) -> None:
        depth = getattr(self._held, "depth", 0)
        if depth == 0:
            self._free.acquire()
            with self._count:
                self.busy += 1
                self.most_busy = max(self.most_busy, self.busy)
        self._held.depth = depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.depth -= 1
        if self._held.depth == 0:
            with self._count:
                self.busy -= 1
            self._free.release()


CORES: Final = Cores(len(os.sched_getaffinity(0)))
"""The budget of this process."""

os.register_at_fork(after_in_child=CORES.renew)
