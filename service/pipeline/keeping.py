"""The feature cache of a service, which writes what many calls computed in one transaction."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from manyeyes.errors import CacheUnusable
from manyeyes.primitives.cache import Cache

log: Final = logging.getLogger("manyeyes.service")

_EVERY_S: Final = 0.2
_MOST_BYTES: Final = 64 * 2**20

Rows = dict[str, dict[bytes, bytes]]


class LateCache(Cache):
    """Reads at once, writes a few times a second: a commit waits for the disk, and is no dearer for a hundred rows.

    What is not written yet is found all the same. What a killed process had not written is computed again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._new: Rows = defaultdict(dict)
        self._writing: Rows = {}
        self._n_bytes = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._some = threading.Event()
        self._thread = threading.Thread(target=self._run, name="manyeyes-cache", daemon=True)
        self._thread.start()

    def get(self, version: str, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return what is known of some contents; see Cache."""
        wanted = list(digests)
        with self._lock:
            held = [rows[version] for rows in (self._new, self._writing) if rows.get(version)]
            found = {digest: rows[digest] for rows in held for digest in wanted if digest in rows}
        left = [digest for digest in wanted if digest not in found] if found else wanted
        return found | super().get(version, left) if left else found

    def put_many(self, rows: Mapping[str, Mapping[bytes, bytes]]) -> None:
        """Keep rows of several primitives; see Cache."""
        n_bytes = sum(len(row) for values in rows.values() for row in values.values())
        if not n_bytes:
            return
        if self._stop.is_set() or self._n_bytes + n_bytes > _MOST_BYTES:
            super().put_many(rows)  # whoever computes faster than the disk writes waits for it
            return
        with self._lock:
            for version, values in rows.items():
                self._new[version].update(values)
            self._n_bytes += n_bytes
        self._some.set()

    def flush(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            self._writing, self._new = self._new, defaultdict(dict)
            self._n_bytes = 0
        try:
            super().put_many(self._writing)
        except CacheUnusable as error:
            # The features are right all the same; they will have to be computed again.
            log.warning("features are not kept: %s", error)
        with self._lock:
            self._writing = {}

    def stop(self) -> None:
        """Write what is left and let the thread end; later rows are written as they come."""
        self._stop.set()
        self._some.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            stopping = self._stop.wait(_EVERY_S)
            self.flush()
            if stopping:
                return
