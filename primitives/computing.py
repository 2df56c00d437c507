"""Running primitives over what the cache lacks: in batches, one forward pass each, with the poison item found."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from manyeyes.errors import CacheUnusable, ItemError, ManyeyesError, PrimitiveFailed
from manyeyes.primitives.base import DependentPrimitive, Outcome, Primitive
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.counter import PassCounter
from manyeyes.primitives.features import Layout

logger = logging.getLogger(__name__)

_SAVE_EVERY_S = 1.0


class Computing:
    """The work of one call: rows that are known, inputs that wait for a batch, contents that failed.

    layout: feature → its layout, loading the model only if the cache does not know. ready: loads the model.
    rows: feature → digest → bytes. failed: digest → why a primitive could not compute it.
    """

    def __init__(
        self,
        *,
        cache: Cache | None,
        counter: PassCounter,
        batch_size: int,
        layout: Callable[[str], Layout],
        ready: Callable[[str], None],
        prompts: bool = False,
    ) -> None:
        self.rows: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        self.failed: dict[bytes, ItemError] = {}
        self._cache = cache
        self._counter = counter
        self._batch_size = batch_size
        self._layout = layout
        self._ready = ready
        self._prompts = prompts
        self._waiting: dict[str, dict[bytes, Any]] = defaultdict(dict)
        self._primitives: dict[str, Primitive] = {}
        self._unsaved: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        self._seen: list[tuple[str, Any, bytes]] = []
        self._saved_at = time.monotonic()

    def look_up(self, feature: str, primitive: Primitive, digests: Iterable[bytes]) -> None:
        """Take what the cache knows of some contents."""
        if self._cache is None:
            return
        found = self._cache.get(primitive.version, digests)
        if found:
            layout = self._layout(feature)
            self.rows[feature] |= {digest: row for digest, row in found.items() if layout.fits(row)}

    def saw(self, path: str, stat: Any, digest: bytes) -> None:
        """Note that a file was read, so that it need not be read next time."""
        self._seen.append((path, stat, digest))

    def add(self, feature: str, primitive: Primitive, digest: bytes, value: Any) -> None:
        """Queue an input; a full batch is computed at once. A primitive may say its own ``batch_size``."""
        self._primitives[feature] = primitive
        self._waiting[feature][digest] = value
        if len(self._waiting[feature]) >= getattr(primitive, "batch_size", self._batch_size):
            self._compute(feature)

    def finish(self) -> None:
        """Compute what still waits, and keep everything in the cache."""
        for feature in list(self._waiting):
            if self._waiting[feature]:
                self._compute(feature)
        self._save()

    def _compute(self, feature: str) -> None:
        batch = self._waiting[feature]
        self._waiting[feature] = {}
        batch = self._with_needs(self._primitives[feature], batch)
        if not batch:
            return
        self._ready(feature)
        layout = self._layout(feature)
        results = self._rows_of(feature, layout, list(batch.values()))
        for digest, result in zip(batch, results, strict=True):
            if isinstance(result, ItemError):
                self.failed[digest] = result
            elif result is not None:
                self._unsaved[feature][digest] = self.rows[feature][digest] = result.tobytes()
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self._save()

    def _with_needs(self, primitive: Primitive, batch: dict[bytes, Any]) -> dict[bytes, Any]:
        """Return inputs with the rows of others that a primitive reads; those that failed there are left out."""
        if not isinstance(primitive, DependentPrimitive):
            return batch
        for need in primitive.needs:
            if self._waiting.get(need):
                self._compute(need)
        dtypes = {need: self._layout(need).dtype for need in primitive.needs}
        return {
            digest: primitive.given(
                value, {need: np.frombuffer(self.rows[need][digest], dtype) for need, dtype in dtypes.items()}
            )
            for digest, value in batch.items()
            if all(digest in self.rows[need] for need in primitive.needs)
        }

    def _rows_of(self, feature: str, layout: Layout, batch: Sequence[Any]) -> list[Outcome]:
        """Return rows for each input; where a batch fails, halve it until the inputs that fail alone are found."""
        self._counter.add(feature, len(batch), prompts=self._prompts)
        try:
            rows = list(self._primitives[feature].compute(batch))
            layout.check(rows, len(batch))
            return list(rows)
        except ManyeyesError as error:
            # Missing weights or packages are not one item's fault.
            if not isinstance(error, ItemError):
                raise
            problem: Exception = error
        except Exception as error:  # whatever a model raises on a batch, the other items must be labeled
            problem = error
        if len(batch) > 1:
            middle = len(batch) // 2
            return self._rows_of(feature, layout, batch[:middle]) + self._rows_of(
                feature, layout, batch[middle:]
            )
        logger.info("primitive %s failed on one item", feature, exc_info=problem)
        return [PrimitiveFailed(f"{feature} failed on this item alone: {type(problem).__name__}: {problem}")]

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        unsaved, seen = self._unsaved, self._seen
        self._unsaved, self._seen = defaultdict(dict), []
        if self._cache is None:
            return
        try:
            self._cache.put_many({self._primitives[name].version: rows for name, rows in unsaved.items()})
            self._cache.remember(seen)
        except CacheUnusable as error:
            # The features are right all the same; they will have to be computed again.
            logger.warning("features are not kept: %s", error)
