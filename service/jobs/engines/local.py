"""The local engine: threads of this process.

Models, threads that decode and threads that fetch are shared by all of a process, and a model keeps one core busy with
each of its passes. So what is left to do here is to have more than one shard under way: while one waits for a bucket or
writes, another computes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from manyeyes.errors import InvalidRequest
from manyeyes.service.jobs.engines.base import OnOutcome, failed
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import EngineSpec, Shard
from manyeyes.service.jobs.work.worker import OnRows, ShardWorker, WorkSpec

log: Final = logging.getLogger("manyeyes.service.jobs")

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""How long threads that were told to stop may take; one that computes cannot be interrupted before its pass ends."""
_LOOK_S: Final = 0.2


def default_workers() -> int:
    """Return how many shards are under way at once: one more than there are cores, but at most 16."""
    return min(16, len(os.sched_getaffinity(0)) + 1)


class LocalEngine:
    """Works on threads of this process. Raises InvalidRequest if it is asked for what only a cluster has."""

    def __init__(self, spec: EngineSpec, storage: Storage) -> None:
        if spec.address is not None or spec.decoders or spec.gpus:
            raise InvalidRequest(
                "address, decoders and gpus are of the engine ray; the local one has no use for them"
            )
        self._workers = spec.workers or default_workers()
        self._storage = storage
        self._worker: ShardWorker | None = None

    def run(
        self,
        shards: Iterable[Shard],
        spec: WorkSpec,
        on_outcome: OnOutcome,
        stop: threading.Event,
        *,
        on_rows: OnRows | None = None,
    ) -> None:
        """Work on shards on threads that share one worker; see ``Engine``."""
        if self._worker is None or self._worker.spec != spec:
            self._worker = ShardWorker(spec, storage=self._storage)
        crew = _Crew(self._worker, iter(shards), on_outcome, stop, on_rows)
        crew.work(self._workers)

    def call(self, function: Callable[..., T], *args: Any, stop: threading.Event) -> T:
        """Call a function here; see ``Engine``."""
        del stop
        return function(*args)

    def close(self) -> None:
        """There is nothing to free: models stay for the next pass."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Crew:
    """Threads that take one shard after the other."""

    def __init__(
        self,
        worker: ShardWorker,
        shards: Iterator[Shard],
        on_outcome: OnOutcome,
        stop: threading.Event,
        on_rows: OnRows | None,
    ) -> None:
        self._worker = worker
        self._shards = shards
        self._on_outcome = on_outcome
        self._stop = stop
        self._on_rows = on_rows
        self._taking = threading.Lock()
        self._telling = threading.Lock()
        self._broken: BaseException | None = None
        self._over = False

    def work(self, n_threads: int) -> None:
        """Return when there is no more to do."""
        # Daemons: a process that is told to stop does not wait for a pass of a model that nobody wants any more.
        threads = [
            threading.Thread(target=self._one, name=f"manyeyes-shards-{i}", daemon=True)
            for i in range(n_threads)
        ]
        for thread in threads:
            thread.start()
        patience = PATIENCE_S
        while any(thread.is_alive() for thread in threads) and patience > 0:
            began = time.monotonic()
            next(thread for thread in threads if thread.is_alive()).join(_LOOK_S)
            if self._stop.is_set():
                patience -= time.monotonic() - began
        with self._telling:
            self._over = True
        if self._broken is not None:
            raise self._broken

    def _one(self) -> None:
        try:
            while not self._stop.is_set() and self._broken is None:
                with self._taking:
                    shard = next(self._shards, None)
                if shard is None:
                    return
                try:
                    outcome = self._worker.do(shard, stop=self._stop, on_rows=self._on_rows)
                except Exception as error:
                    log.warning("shard %d failed", shard.index, exc_info=True)
                    outcome = failed(shard, error)
                with self._telling:
                    if self._over or (self._stop.is_set() and outcome.state in ("stopped", "error")):
                        return
                    self._on_outcome(shard, outcome)
        except (
            BaseException
        ) as error:  # of the shards' iterator or of whoever is told: theirs is the last word
            self._broken = error
