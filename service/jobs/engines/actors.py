"""What runs on the nodes of a cluster: a worker, which does shards, and a decoder, which fetches and decodes for it.

Nothing heavy is imported before a worker has said which cores it takes: thread pools count the cores that they may use
when they are made.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from manyeyes.errors import ItemError
    from manyeyes.primitives.base import DecodedImage
    from manyeyes.service.fetching.buckets import Buckets
    from manyeyes.service.jobs.shapes import Row, Shard
    from manyeyes.service.jobs.work.worker import Outcome, WorkSpec
    from manyeyes.settings import Limits
    from manyeyes.types import ImageSource

FETCH_ROWS: Final = 16
"""Rows that a decoder is given at once."""
_MOST_KEPT: Final = 1024
"""Images that are decoded and wait; a worker has two chunks of 256 rows in hand."""

Decoded: TypeAlias = "tuple[bytes | ItemError | None, int, DecodedImage | ItemError | None]"
"""The bytes of a row or what is wrong with it, attempts made, and the pixels, or what is wrong with these."""


@dataclass
class Ask:
    """What a decoder is asked for. side: the shorter side to which it may reduce; see ``decode_image``.

    decode: False while it is not known which side the models want.
    """

    rows: Sequence[Row]
    attempts: int
    side: int | None = None
    decode: bool = False
    buckets: Buckets | None = None


class DecoderActor:
    """Fetches rows and decodes them, on one core, for workers whose core or GPU has better to do."""

    def __init__(self) -> None:
        self._core = take_core()
        self._fetcher: Any = None

    def get(self, ask: Ask) -> list[Decoded]:
        """Return what was asked for, in the order of the rows; whatever is wrong with one is in its place."""
        from manyeyes.errors import ItemError
        from manyeyes.primitives.images import decode_image
        from manyeyes.service.jobs.manifests.fetch import Fetcher

        if self._fetcher is None:
            self._fetcher = Fetcher(buckets=ask.buckets)
        found: list[Decoded] = []
        for _, data, attempts in self._fetcher.fetch(ask.rows, attempts=ask.attempts):
            pixels: DecodedImage | ItemError | None = None
            if ask.decode and isinstance(data, bytes):
                try:
                    pixels = decode_image(data, least_side=ask.side)
                except ItemError as error:
                    pixels = error
            found.append((data, attempts, pixels))
        return found


class Fed:
    """Fetches and decodes by asking decoders: what a worker's ``fetcher`` and ``decode`` are where there are some.

    Pixels are used where they are what would be decoded here: the same bytes, to the same side. The first images are
    decoded here, which shows the side that the models want. A decoder that is lost is replaced by this process.

    ahead: how often decoders are asked before the first answer is used.
    """

    def __init__(self, decoders: Sequence[Any], ray: Any, buckets: Buckets | None, *, ahead: int = 2) -> None:
        self._decoders = list(decoders)
        self._ahead = ahead
        self._ray = ray
        self._buckets = buckets
        self._lock = threading.Lock()
        self._turn = os.getpid()  # where workers begin, so that they do not all ask the same one
        self._side: tuple[int | None] | None = None
        self._kept: dict[tuple[bytes, int | None], DecodedImage | ItemError] = {}
        self._own: Any = None
        self.n_used = 0

    def fetch(
        self, rows: Sequence[Row], *, attempts: int, stop: threading.Event | None = None
    ) -> Iterator[tuple[int, bytes | ItemError | None, int]]:
        """Yield of each row, in order: its place, its bytes or what is wrong, and how often it was tried."""
        waiting: deque[tuple[int, Sequence[Row], tuple[int | None] | None, Any]] = deque()
        start = 0
        while True:
            while start < len(rows) and len(waiting) < self._ahead:
                some = rows[start : start + FETCH_ROWS]
                waiting.append((start, some, self._side, self._ask(some, attempts)))
                start += len(some)
            if not waiting or (stop is not None and stop.is_set()):
                return
            place, some, side, coming = waiting.popleft()
            for i, (data, made, pixels) in enumerate(self._take(coming, some, attempts, stop)):
                if pixels is not None and side is not None and isinstance(data, bytes):
                    with self._lock:
                        while len(self._kept) >= _MOST_KEPT:  # of rows that nobody decoded
                            self._kept.pop(next(iter(self._kept)))
                        self._kept[digest_of(data), side[0]] = pixels
                yield place + i, data, made

    def decode(
        self, source: ImageSource, limits: Limits | None = None, *, least_side: int | None = None
    ) -> DecodedImage:
        """Return an image decoded, by a decoder if one has done it. Raises an ItemError, as ``decode_image`` does."""
        from manyeyes.primitives.images import decode_image

        self._side = (least_side,)
        if isinstance(source, bytes):
            with self._lock:
                pixels = self._kept.pop((digest_of(source), least_side), None)
            if isinstance(pixels, Exception):
                raise pixels
            if pixels is not None:
                self.n_used += 1
                return pixels
        return decode_image(source, limits, least_side=least_side)

    def close(self) -> None:
        """End the threads that fetched in place of decoders."""
        if self._own is not None:
            self._own.close()

    def _ask(self, rows: Sequence[Row], attempts: int) -> Any:
        side = self._side
        ask = Ask(rows, attempts, None if side is None else side[0], side is not None, self._buckets)
        with self._lock:
            self._turn += 1
            decoder = self._decoders[self._turn % len(self._decoders)]
        return decoder.get.remote(ask)

    def _take(
        self, coming: Any, rows: Sequence[Row], attempts: int, stop: threading.Event | None
    ) -> Iterator[Decoded]:
        from manyeyes.service.jobs.manifests.fetch import Fetcher

        try:
            yield from self._ray.get(coming)
        except self._ray.exceptions.RayError:
            with self._lock:
                self._own = self._own or Fetcher(buckets=self._buckets)
            for _, data, made in self._own.fetch(rows, attempts=attempts, stop=stop):
                yield data, made, None


def digest_of(data: bytes) -> bytes:
    """Return what tells one image from another."""
    from manyeyes.primitives.cache import content_digest

    return content_digest(data)


class WorkerActor:
    """Holds one worker a pass, and does the shards that it is sent, as any other process would.

    Its methods are called by several threads: ``do`` by one, beside the others.
    """

    def __init__(self, decoders: Sequence[Any], ahead: int, one_core: bool) -> None:
        self._core = take_core() if one_core else None
        self._decoders = decoders
        self._ahead = ahead
        self._worker: Any = None
        self._stop = threading.Event()
        self._told = _Told()
        self.fed: Fed | None = None

    def ready(self) -> str:
        """Return the node and the process that it runs in."""
        return f"{os.uname().nodename}:{os.getpid()}"

    def do(self, spec: WorkSpec, shard: Shard) -> Outcome:
        """Do a shard and say what came of it; raises nothing that was meant."""
        from manyeyes.service.jobs.engines.base import failed

        try:
            if self._worker is None or self._worker.spec != spec:
                self._worker = self._open(spec)
            outcome: Outcome = self._worker.do(shard, stop=self._stop, on_rows=self._told.add)
            return outcome
        except Exception as error:
            return failed(shard, error)

    def rows(self) -> tuple[int, list[tuple[str, str, str]]]:
        """Return how many more rows are known since the last time, and what failed of them."""
        return self._told.take()

    def halt(self) -> None:
        """Have the shard that is under way given back."""
        self._stop.set()

    def _open(self, spec: WorkSpec) -> Any:
        from manyeyes.service.jobs.work.worker import ShardWorker
        from manyeyes.service.operations.allocator import keep_freed_memory

        keep_freed_memory()  # an actor's process does nothing else
        if not self._decoders or spec.pass_ != "votes":
            return ShardWorker(spec)
        import ray

        self.fed = Fed(self._decoders, ray, spec.buckets, ahead=self._ahead)
        return ShardWorker(spec, fetcher=self.fed, decode=self.fed.decode)


@dataclass
class _Told:
    """Rows that became known since somebody asked."""

    _lock: Any = field(default_factory=threading.Lock)
    _rows: int = 0
    _errors: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, n_rows: int, errors: Sequence[tuple[str, str, str]]) -> None:
        with self._lock:
            self._rows += n_rows
            self._errors.extend(errors)

    def take(self) -> tuple[int, list[tuple[str, str, str]]]:
        with self._lock:
            told = self._rows, self._errors
            self._rows, self._errors = 0, []
            return told


def take_core() -> int | None:
    """Keep this process on a core that no other actor of this node has taken; on none where all are taken.

    Else each of sixteen actors would start threads for sixteen cores. The core is free again when the process ends,
    however it does.
    """
    folder = Path(tempfile.gettempdir()) / f"manyeyes-cores-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for core in sorted(os.sched_getaffinity(0)):
            file = os.open(folder / str(core), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                continue
            # Of each thread there is, since others than this one will do the work. The file stays open, and locked.
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread), {core})
            return core
    except OSError:
        return None  # a node that does not allow it
    return None
