"""The Ray engine: actors of a cluster, each of which does shards as any local thread does, and commits them itself.

What travels are descriptions of shards and what came of them. An actor or a node that is lost is replaced, and its
shard done again by another; whether the lost one had committed it already, the commits say.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from manyeyes.errors import InvalidRequest, MissingDependency, ServiceUnavailable
from manyeyes.service.jobs.engines.actors import DecoderActor, WorkerActor
from manyeyes.service.jobs.engines.base import CRASHED, OnOutcome, failed
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import EngineSpec, Shard
from manyeyes.service.jobs.work.worker import OnRows, Outcome, WorkSpec

log: Final = logging.getLogger("manyeyes.service.jobs")

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""How long actors that were told to stop may take to give their shards back."""
DEATHS: Final = 3
"""After so many actors have died over a shard, the shard is what is wrong; of actors that never began, the cluster."""
_LOOK_S: Final = 0.2
_ROWS_S: Final = 1.0
_KNOCK_S: Final = 5.0
_STORE_BYTES: Final = 256 * 2**20


@dataclass
class _Actor:
    """An actor. shard, result: what it is doing; none while it idles. began: whether it has ever answered."""

    handle: Any
    ready: Any
    began: bool = False
    shard: Shard | None = None
    result: Any = None
    rows: Any = None


class RayEngine:
    """Works in actors of a cluster that is there already, or of one on this machine that ends with the job.

    Raises MissingDependency without Ray, InvalidRequest for a place that only this process can read, and
    ServiceUnavailable if no cluster answers.
    """

    def __init__(self, spec: EngineSpec, storage: Storage) -> None:
        if storage.uri.startswith("memory://"):
            raise InvalidRequest(
                "actors cannot write into this process's memory; give `out` a folder or a bucket"
            )
        self._spec = spec
        self._ray = _import_ray()
        if spec.address is not None and not self._ray.is_initialized():
            _knock(spec.address)
        self._owned = False
        self._reached = threading.Event()
        self._decoders: list[Any] = []
        self._actors: list[_Actor] = []
        self._deaths: Counter[int] = Counter()
        self._unborn = 0

    def run(
        self,
        shards: Iterable[Shard],
        spec: WorkSpec,
        on_outcome: OnOutcome,
        stop: threading.Event,
        *,
        on_rows: OnRows | None = None,
    ) -> None:
        """Work on shards in actors, one each at a time; see ``Engine``."""
        self._start()
        self._unborn = 0
        waiting = _Waiting(iter(shards))
        looked = time.monotonic()
        try:
            while not stop.is_set():
                self._hand_out(waiting, spec)
                pending = [
                    ref for actor in self._actors for ref in (actor.result, actor.rows, actor.ready) if ref
                ]
                if not waiting and not any(actor.shard for actor in self._actors):
                    return
                done, _ = self._ray.wait(pending, num_returns=1, timeout=_LOOK_S)
                for ref in done:
                    self._take(ref, waiting, on_outcome, on_rows)
                if on_rows is not None and time.monotonic() - looked >= _ROWS_S:
                    looked = time.monotonic()
                    self._ask_for_rows()
            self._halt(on_outcome)
        except self._ray.exceptions.RayError as error:
            raise ServiceUnavailable(f"the Ray cluster does not answer any more: {_short(error)}") from error

    def call(self, function: Callable[..., T], *args: Any, stop: threading.Event) -> T:
        """Call a function on some node, beside the actors; see ``Engine``."""
        while not self._reached.wait(_LOOK_S):
            if stop.is_set():
                raise ServiceUnavailable("the cluster was not reached before the job was told to stop")
        ref = self._ray.remote(num_cpus=0, max_retries=0)(function).remote(*args)
        try:
            while not self._ray.wait([ref], timeout=_LOOK_S)[0]:
                if stop.is_set():
                    raise ServiceUnavailable("the job was told to stop")
            answer: T = self._ray.get(ref)
            return answer
        except self._ray.exceptions.RayError as error:
            raise ServiceUnavailable(f"nothing could be tried on the cluster: {_short(error)}") from error

    def close(self) -> None:
        """End the actors, and the cluster if it was begun here."""
        with_cluster, self._owned = self._owned, False
        try:
            for actor in self._actors:
                self._ray.kill(actor.handle)
            for decoder in self._decoders:
                self._ray.kill(decoder)
        except Exception:
            log.debug("actors were gone already", exc_info=True)
        self._actors, self._decoders = [], []
        if with_cluster:
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        """Reach the cluster, or begin one, and have the actors made; later passes use the same."""
        spec = self._spec
        if not self._ray.is_initialized():
            with _signals_kept():
                self._reach()
            self._owned = True
        self._reached.set()
        if spec.decoders and not self._decoders:
            decoder = self._ray.remote(num_cpus=1, max_restarts=-1)(DecoderActor)
            self._decoders = [decoder.remote() for _ in range(spec.decoders)]
        while len(self._actors) < self._n_workers():
            self._actors.append(self._new())

    def _reach(self) -> None:
        spec, quiet = self._spec, {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if spec.address is not None:
                self._ray.init(address=spec.address, namespace="manyeyes", **quiet)
                return
            workers = spec.workers or len(os.sched_getaffinity(0))
            self._ray.init(
                address="local",
                num_cpus=workers + spec.decoders,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
        except Exception as error:  # of many kinds, from many layers
            where = "on this machine" if spec.address is None else f"at {spec.address!r}"
            raise ServiceUnavailable(
                f"no Ray cluster can be used {where}: {_short(error)}. `ray status` says whether one runs; the versions"
                f" of Ray ({self._ray.__version__}) and of Python must be the same on all machines"
            ) from error

    def _n_workers(self) -> int:
        if self._spec.workers is not None:
            return self._spec.workers
        there = self._ray.cluster_resources()
        if self._spec.gpus:
            return max(1, int(there.get("GPU", 0) // self._spec.gpus))
        return max(1, int(there.get("CPU", 1)) - self._spec.decoders)

    def _new(self) -> _Actor:
        # Three threads: the shard, whoever asks for rows, and whoever says halt. Restarts are made here, so that the
        # lost actor's shard is known.
        made = self._ray.remote(
            num_cpus=1, num_gpus=self._spec.gpus, max_concurrency=3, max_restarts=0, max_task_retries=0
        )(WorkerActor)
        ahead = 2 * math.ceil(len(self._decoders) / self._n_workers())
        handle = made.remote(self._decoders, max(2, ahead), not self._spec.gpus)
        return _Actor(handle, handle.ready.remote())

    def _hand_out(self, waiting: _Waiting, spec: WorkSpec) -> None:
        for actor in self._actors:
            if actor.began and actor.shard is None:
                shard = waiting.next()
                if shard is None:
                    return
                actor.shard, actor.result = shard, actor.handle.do.remote(spec, shard)

    def _take(self, ref: Any, waiting: _Waiting, on_outcome: OnOutcome, on_rows: OnRows | None) -> None:
        """Take what an actor answered, or that it is lost."""
        actor = next((one for one in self._actors if ref in (one.result, one.rows, one.ready)), None)
        if actor is None:
            return
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if actor.shard is None:
                raise
            answer = failed(actor.shard, error.cause or error)
        except self._ray.exceptions.RayError as error:
            self._replace(actor, error, waiting, on_outcome)
            return
        if ref == actor.ready:
            actor.began, actor.ready, self._unborn = True, None, 0
        elif ref == actor.rows:
            actor.rows = None
            if on_rows is not None and answer[0]:
                on_rows(*answer)
        elif actor.shard is not None:
            shard, actor.shard, actor.result = actor.shard, None, None
            on_outcome(shard, answer)

    def _replace(self, actor: _Actor, error: Exception, waiting: _Waiting, on_outcome: OnOutcome) -> None:
        self._actors.remove(actor)
        try:
            self._ray.kill(actor.handle)  # one that is only cut off must not go on
        except Exception:
            log.debug("the actor was gone already", exc_info=True)
        log.warning("an actor is lost: %s", _short(error))
        if not actor.began:
            self._unborn += 1
            if self._unborn >= DEATHS:
                raise ServiceUnavailable(
                    f"actors cannot be begun on the cluster: {_short(error)}. Its nodes need the same Python and the"
                    " same manyeyes[serve,ray] as this machine"
                )
        if actor.shard is not None:
            self._deaths[actor.shard.index] += 1
            if self._deaths[actor.shard.index] < DEATHS:
                waiting.again(actor.shard)
            else:
                told = f"{DEATHS} actors died over it, the last because: {_short(error)}"
                on_outcome(actor.shard, Outcome(actor.shard.index, "error", code=CRASHED, message=told))
        self._actors.append(self._new())

    def _ask_for_rows(self) -> None:
        for actor in self._actors:
            if actor.shard is not None and actor.rows is None:
                actor.rows = actor.handle.rows.remote()

    def _halt(self, on_outcome: OnOutcome) -> None:
        """Have shards that are under way given back, so that nobody waits for their leases; then end the actors."""
        busy = [actor for actor in self._actors if actor.shard is not None]
        for actor in busy:
            actor.handle.halt.remote()
        done, _ = (
            self._ray.wait(
                [actor.result for actor in busy], num_returns=max(1, len(busy)), timeout=PATIENCE_S
            )
            if busy
            else ([], [])
        )
        for actor in busy:
            if actor.result in done:
                try:
                    outcome = self._ray.get(actor.result)
                except self._ray.exceptions.RayError:
                    continue
                if actor.shard is not None and outcome.state not in ("stopped", "error"):
                    on_outcome(actor.shard, outcome)
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._actors = []


class _Waiting:
    """Shards that nobody does yet; true while there may be some."""

    def __init__(self, shards: Iterator[Shard]) -> None:
        self._shards = shards
        self._ahead: deque[Shard] = deque()
        self._over = False

    def next(self) -> Shard | None:
        if self._ahead:
            return self._ahead.popleft()
        shard = None if self._over else next(self._shards, None)
        self._over = shard is None
        return shard

    def again(self, shard: Shard) -> None:
        self._ahead.append(shard)

    def __bool__(self) -> bool:
        if not self._ahead and not self._over and (shard := self.next()) is not None:
            self._ahead.append(shard)
        return bool(self._ahead)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Give back the handlers of signals that Ray takes for itself: who runs the job says what they do."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                if handler is not None:  # one that Python did not set
                    signal.signal(number, handler)


def _knock(address: str) -> None:
    """Raise ServiceUnavailable in seconds where nobody answers at an address; Ray itself would wait for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return  # "auto", or a name that Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except OSError as error:
        raise ServiceUnavailable(
            f"no Ray cluster answers at {address!r}: {error}. `ray status` on its head says whether it runs; the port"
            " is 6379 unless `ray start --head --port` said another one"
        ) from error


def _import_ray() -> Any:
    """Import Ray, which tells nobody that it is used. Raises MissingDependency."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingDependency(
            "the engine ray needs Ray, which is not installed: pip install 'manyeyes[serve,ray]'"
        ) from error


def _short(error: BaseException) -> str:
    """Return the first line of an error of Ray that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no more is known'}"
