"""A server that, told to stop, first finishes what it has taken."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn

log: Final = logging.getLogger("manyeyes.service")


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGINT new calls are refused, those that were taken are finished, and only then does it stop.

    drain: refuses and waits; returns whether everything is done. While it waits, the server goes on answering: probes
    say that it drains, and callers are told to come back. A second signal stops at once.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], bool]) -> None:
        super().__init__(config)
        self._drain = drain
        self._draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or stop at once if it drains already."""
        if self._draining:
            super().handle_exit(sig, frame)
            return
        self._draining = True
        log.info("%s: finishing what was taken, taking nothing new", signal.Signals(sig).name)
        threading.Thread(target=self._stop, name="manyeyes-drain", daemon=True).start()

    def _stop(self) -> None:
        try:
            if not self._drain():
                log.warning("stopping with calls that are not done")
        finally:
            # Not uvicorn's handle_exit, which raises the signal again at the end: the exit code would tell of a death,
            # and this was a stop in good order.
            self.should_exit = True
