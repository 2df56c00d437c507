"""Reading images ahead of the models: threads that read, look up and decode, a bounded number of images at a time."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from manyeyes.errors import ItemError, ManyeyesError, PrimitiveFailed
from manyeyes.primitives.base import DecodedImage, PreparingPrimitive, Primitive
from manyeyes.primitives.cache import Cache, content_digest
from manyeyes.primitives.images import check_pil, decode_image, digest_pil, full_path, read_file
from manyeyes.settings import Limits
from manyeyes.types import ImageSource


@dataclass(frozen=True, slots=True)
class Read:
    """What reading one image gave.

    item: its row. digest: of its content; None if it could not be read. rows: feature → cached bytes. inputs: feature →
    what its primitive computes from; none if another row has the same content. seen: the file's path, stat and digest.
    """

    item: int
    digest: bytes | None = None
    rows: Mapping[str, bytes] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    error: ItemError | None = None
    seen: tuple[str, os.stat_result, bytes] | None = None


class Reader:
    """Reads images for one call of an extractor; each content is decoded once, for all primitives that lack it.

    primitives: feature → primitive. ready: called before a primitive's first use; may load its model.
    """

    def __init__(
        self,
        primitives: Mapping[str, Primitive],
        *,
        cache: Cache | None,
        limits: Limits,
        ready: Callable[[str], None],
    ) -> None:
        self._primitives = primitives
        self._cache = cache
        self._limits = limits
        self._ready = ready
        self._lock = threading.Lock()
        self._taken: set[bytes] = set()

    def read(self, item: int, source: ImageSource, lacking: Sequence[str] | None) -> Read:
        """Read, look up and decode one image.

        lacking: the features to make, where the cache has been asked already; None to ask it.
        """
        digest: bytes | None = None
        seen = None
        try:
            known: ImageSource
            if isinstance(source, bytes):
                known, digest = source, content_digest(source)
            elif isinstance(source, str | os.PathLike):
                known, stat = read_file(source, self._limits)
                digest = content_digest(known)
                seen = (full_path(source), stat, digest)
            else:
                known = check_pil(source, self._limits)
                digest = digest_pil(known)
            with self._lock:
                if digest in self._taken:
                    return Read(item, digest, seen=seen)
                self._taken.add(digest)
            rows: dict[str, bytes] = {}
            if lacking is None:
                rows = self._look_up(digest)
                lacking = [feature for feature in self._primitives if feature not in rows]
            inputs = self._inputs(decode_image(known, self._limits), lacking) if lacking else {}
            return Read(item, digest, rows, inputs, seen=seen)
        except ItemError as error:
            return Read(item, digest, error=error, seen=seen)

    def _look_up(self, digest: bytes) -> dict[str, bytes]:
        if self._cache is None:
            return {}
        found = {
            feature: self._cache.get(primitive.version, [digest]).get(digest)
            for feature, primitive in self._primitives.items()
        }
        return {feature: row for feature, row in found.items() if row is not None}

    def _inputs(self, decoded: DecodedImage, features: Sequence[str]) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        for feature in features:
            primitive = self._primitives[feature]
            self._ready(feature)
            if not isinstance(primitive, PreparingPrimitive):
                inputs[feature] = decoded
                continue
            try:
                inputs[feature] = primitive.prepare(decoded)
            except ManyeyesError:
                raise
            except Exception as error:  # a model's own code, on one item: that item's error and nobody else's
                raise PrimitiveFailed(
                    f"{feature} cannot use this image: {type(error).__name__}: {error}"
                ) from error
        return inputs


def ahead(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], Read]], *, n_ahead: int) -> Iterator[Read]:
    """Yield the results of tasks in order, while at most `n_ahead` more are under way or waiting to be taken."""
    iterator = iter(tasks)
    window: deque[Future[Read]] = deque(pool.submit(task) for task in islice(iterator, n_ahead))
    try:
        while window:
            result = window.popleft().result()
            window.extend(pool.submit(task) for task in islice(iterator, 1))
            yield result
    finally:
        for future in window:
            future.cancel()
