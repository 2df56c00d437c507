"""Leases: who works on a shard, so that no two do the same; what counts is decided by the commit alone.

A lease is an object ``<shard>.<epoch>.json`` that one contender alone can create. Its owner writes it again with a
growing beat. Whoever sees a beat unchanged for ``lease_s``, by its own monotonic clock, may create the next epoch: no
time is ever compared between machines, and setting a clock changes nothing. An owner that was paused finds the next
epoch there when it comes back, and stops; should it not, its commit comes too late.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from manyeyes.errors import NotFound, StorageFailed
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import PassName

log: Final = logging.getLogger("manyeyes.service.jobs")

LEASE_S: Final = 60.0
_BEATS: Final = 4
"""Beats within ``lease_s``: some may be late, or their answers lost."""


class LeaseLost(Exception):
    """Another took the shard over: whatever is done now would be done twice."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a contender saw of a lease. since: by its own clock, when it saw this for the first time."""

    epoch: int
    data: bytes
    since: float


_memory: Final[dict[tuple[str, str, str, int], dict[int, _Seen]]] = {}
_memory_lock: Final = threading.Lock()


class Leases:
    """The leases of one pass of a generation, as one contender sees them. Threads may share it.

    lease_s: how long a beat stays the same before its owner is taken for dead. clock: seconds that never jump.
    """

    def __init__(
        self,
        storage: Storage,
        job: str,
        pass_: PassName,
        generation: int,
        lease_s: float = LEASE_S,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.storage = storage
        self.lease_s = lease_s
        self._names = (job, pass_, generation)
        self._clock = clock
        # What was seen is kept for the process: whoever makes another of these for each round goes on looking.
        with _memory_lock:
            known = _memory.setdefault((storage.uri, *self._names), {})
        self._seen = known if clock is time.monotonic else {}
        self._lock = _memory_lock

    def acquire(self, shard: int) -> Lease | None:
        """Return the lease of a shard, or None while somebody else works on it: ask again later.

        The owner has to be seen twice, ``lease_s`` apart, unless it released the shard or was a process of this machine
        that has ended.
        """
        with self._lock:
            seen = self._seen.get(shard)
        if seen is None and (lease := self._create(shard, 1)) is not None:
            return lease
        asked = self._clock()
        found = self._latest(shard, seen.epoch if seen else 1)
        if found is None:  # Swept away, with the whole pass or by hand.
            with self._lock:
                self._seen.pop(shard, None)
            return self._create(shard, 1)
        epoch, data = found
        unchanged = seen is not None and seen.data == data and asked - seen.since >= self.lease_s
        if unchanged or _is_over(data):
            return self._create(shard, epoch + 1)
        if seen is None or seen.data != data:
            with self._lock:
                self._seen[shard] = _Seen(epoch, data, self._clock())
        return None

    def _create(self, shard: int, epoch: int) -> Lease | None:
        path, next_ = (layout.lease_file(*self._names, shard, one) for one in (epoch, epoch + 1))
        lease = Lease(self.storage, path, next_, self.lease_s)
        if not self.storage.create(lease.path, lease.data(), durable=False):
            return None
        with self._lock:
            self._seen.pop(shard, None)
        return lease

    def _latest(self, shard: int, epoch: int) -> tuple[int, bytes] | None:
        data = self._get(shard, epoch)
        while data is not None and (later := self._get(shard, epoch + 1)) is not None:
            epoch, data = epoch + 1, later
        return None if data is None else (epoch, data)

    def _get(self, shard: int, epoch: int) -> bytes | None:
        try:
            return self.storage.get(layout.lease_file(*self._names, shard, epoch))
        except NotFound:
            return None


@dataclass(slots=True)
class Lease:
    """The right to work on a shard. As a context manager it beats by itself, and gives the shard back at the end.

    next: the lease that another takes over with. attempt: unique; may name what is written under it. lost: set once
    another has taken the shard over.
    """

    storage: Storage
    path: str
    next: str
    lease_s: float
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)
    lost: threading.Event = field(default_factory=threading.Event)
    _beat: int = 0
    _over: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def beat(self) -> None:
        """Say that this owner lives. Raises LeaseLost if another has taken over, StorageFailed if it cannot be said."""
        if self.lost.is_set() or self.storage.exists(self.next):
            self.lost.set()
            raise LeaseLost(
                f"{self.path!r} was taken over: this process was paused, or cut off, for too long"
            )
        self._beat += 1
        self.storage.put(self.path, self.data(), durable=False)

    def done(self) -> None:
        """Say that the shard is committed: there is nothing to give back."""
        self._over = True

    def release(self) -> None:
        """Give the shard back, so that others need not wait."""
        self._halt()
        if self._over or self.lost.is_set():
            return
        self._over = True
        self.storage.put(self.path, self.data(), durable=False)

    def data(self) -> bytes:
        """Return what stands in the object."""
        told = {
            "attempt": self.attempt,
            "beat": self._beat,
            "over": self._over,
            "process": _process(os.getpid()),
        }
        return json.dumps(told, sort_keys=True).encode()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A lease that cannot be given back ends by itself.
        with suppress(StorageFailed):
            self.release()

    def _keep(self) -> None:
        while not self._stop.wait(self.lease_s / _BEATS):
            try:
                self.beat()
            except LeaseLost:
                return
            except StorageFailed as error:
                log.warning("cannot keep the lease %s: %s", self.path, error)

    def _halt(self) -> None:
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            # A beat that hangs in a bucket's outage is left behind: it overwrites at most that the shard is free.
            self._thread.join(timeout=self.lease_s / _BEATS)


def _is_over(data: bytes) -> bool:
    """Whether a lease was given back, or its owner, a process of this machine, is no more."""
    try:
        told = json.loads(data)
        if told["over"]:
            return True
        process = told["process"]
    except (ValueError, KeyError, TypeError):
        return False  # Of another version: it ends when its beat does.
    if not process or process["machine"] != _machine():
        return False
    return not _lives(process)


def _lives(process: Mapping[str, Any]) -> bool:
    found = _process(process["pid"])
    if found is not None:
        return found == process
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user, and hidden from this one
        return True
    return False  # a zombie: it has ended, and nobody has asked yet how


def _process(pid: int) -> dict[str, Any] | None:
    """Return what tells a process of this machine from each other that was or will be; None where there is none."""
    machine = _machine()
    if machine is None:
        return None
    try:
        # After the name, which may hold anything: the state, and as the 20th its start, in ticks since the machine's.
        state, *told = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else {"machine": machine, "pid": pid, "started": int(told[18])}


@cache
def _machine() -> str | None:
    """Return what names this machine since it was started, and this container on it; None where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        told = f"{boot} {os.readlink('/proc/self/ns/pid')} {socket.gethostname()}"
    except OSError:
        return None
    return hashlib.sha256(told.encode()).hexdigest()[:16]
