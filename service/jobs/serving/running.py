"""A job in a process of its own, as seen by the service that started it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

log: Final = logging.getLogger("manyeyes.service.jobs")

COMMAND: Final = (sys.executable, "-m", "manyeyes.service.jobs.serving.child")
_WITHHELD: Final = ("API_KEYS", "STORE_URL", "LABEL_STUDIO_KEY")
"""Secrets of the service that no job needs; those of buckets and endpoints it does, and gets them in no other way."""


class Running:
    """One process. task: what it is told first; see ``child``. on_news: called from a thread when it said something."""

    def __init__(
        self,
        task: Mapping[str, Any],
        *,
        on_news: Callable[[], object],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.started = time.monotonic()
        self.said: deque[dict[str, Any]] = deque()
        self._on_news = on_news
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment_of_a_job(os.environ),
            # Not ended by Ctrl+C in the operator's terminal, but by the service; and ended with all that it started.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="manyeyes-job", daemon=True)
        self._reader.start()
        self.send(json.dumps(dict(task)))

    @property
    def pid(self) -> int:
        """Of its process, which leads a group with the same number."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, once it has ended and all that it said was read."""
        return None if self._reader.is_alive() else self._process.poll()

    def send(self, line: str) -> None:
        """Tell it ``cancel`` or ``stop``."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended meanwhile
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it came."""
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(5)
        return True

    def clear(self) -> None:
        """End what it leaves behind: workers of a process that was killed, or the process itself."""
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self.said.append(json.loads(line))
            except ValueError:
                log.warning("a job said something that is no message: %r", line[:200])
            self._on_news()
        self._process.wait()
        self._on_news()


def environment_of_a_job(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a job's process: the service's, without what opens the service itself.

    >>> environment_of_a_job({"PATH": "/bin", "MANYEYES_API_KEYS": "x", "MANYEYES_STORE_URL_FILE": "y"})
    {'PATH': '/bin'}
    """
    withheld = {f"MANYEYES_{name}{ending}" for name in _WITHHELD for ending in ("", "_FILE")}
    return {name: value for name, value in environ.items() if name not in withheld}
