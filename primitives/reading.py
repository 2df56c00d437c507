"""Reading images ahead of the models: threads that read, look up and decode, a bounded number of images at a time."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeGuard, runtime_checkable

from manyeyes.errors import ItemError, ManyeyesError, PrimitiveFailed
from manyeyes.primitives.base import DecodedImage, Primitive, is_preparing
from manyeyes.primitives.cache import Cache, content_digest
from manyeyes.primitives.cores import CORES
from manyeyes.primitives.images import (
    check_pil,
    decode_image,
    digest_pil,
    full_path,
    read_file,
    reduction_of,
)
from manyeyes.settings import Limits
from manyeyes.types import ImageSource


@runtime_checkable
class ReducedInput(Protocol):
    """A primitive that can do without some of an image's pixels, which are then not even decoded."""

    def least_side(self) -> int | None:
        """Return the shorter side, in pixels, to which an image may be reduced; None for not at all."""


class Decode(Protocol):
    """How an image becomes pixels: :func:`manyeyes.primitives.images.decode_image`, or the same done elsewhere."""

    def __call__(
        self, source: ImageSource, limits: Limits | None = None, *, least_side: int | None = None
    ) -> DecodedImage:
        """Return an image decoded, the same as ``decode_image`` does. Raises an ItemError."""


def reduces(primitive: object) -> TypeGuard[ReducedInput]:
    """Return whether a primitive can do without some pixels; `isinstance` is too slow for each image of a call."""
    return hasattr(primitive, "least_side")


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

    primitives: feature → primitive. ready: called before a primitive's first use; may load its model. decode: how an
    image becomes pixels; by default ``decode_image``.
    """

    def __init__(
        self,
        primitives: Mapping[str, Primitive],
        *,
        cache: Cache | None,
        limits: Limits,
        ready: Callable[[str], None],
        decode: Decode | None = None,
    ) -> None:
        self._primitives = primitives
        self._cache = cache
        self._limits = limits
        self._ready = ready
        self._decode_image = decode or decode_image
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
            inputs = self._inputs(known, lacking) if lacking else {}
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

    def _inputs(self, source: ImageSource, features: Sequence[str]) -> dict[str, Any]:
        """Return what each primitive computes from: it depends on its own need alone, not on what others lack, too."""
        decoded: dict[int, DecodedImage] = {}
        inputs: dict[str, Any] = {}
        sides: dict[str, int | None] = {}
        for feature in features:
            primitive = self._primitives[feature]
            if reduces(primitive):
                self._ready(feature)
                sides[feature] = primitive.least_side()
        # The largest first: it says how much the others would be reduced, and most share it.
        order = sorted(features, key=lambda feature: -(sides.get(feature) or sys.maxsize))
        for feature in order:
            self._ready(feature)  # may load a model, which takes seconds
        with CORES:
            for feature in order:
                image = self._decode(source, sides.get(feature), decoded)
                inputs[feature] = _prepared(feature, self._primitives[feature], image)
        return {feature: inputs[feature] for feature in features}

    def _decode(
        self, source: ImageSource, least_side: int | None, decoded: dict[int, DecodedImage]
    ) -> DecodedImage:
        """Return an image decoded for a need; decoded: by how much it was reduced → what has been decoded already."""
        for image in decoded.values():
            factor = reduction_of(image, least_side)
            if factor in decoded:
                return decoded[factor]
        image = self._decode_image(source, self._limits, least_side=least_side)
        decoded[reduction_of(image, least_side)] = image
        return image


def _prepared(feature: str, primitive: Primitive, decoded: DecodedImage) -> Any:
    if not is_preparing(primitive):
        return decoded
    try:
        return primitive.prepare(decoded)
    except ManyeyesError:
        raise
    except Exception as error:  # a model's own code, on one item: that item's error and nobody else's
        raise PrimitiveFailed(f"{feature} cannot use this image: {type(error).__name__}: {error}") from error


class Threads(Protocol):
    """Threads that do what they are given; an executor of ``concurrent.futures`` is one."""

    def submit(self, work: Callable[[], Read], /) -> Future[Read]:
        """Have something done."""


def ahead(pool: Threads, tasks: Iterable[Callable[[], Read]], *, n_ahead: int) -> Iterator[Read]:
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
