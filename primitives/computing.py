"""Running primitives over what the cache lacks: in batches, one forward pass each, with the poison item found."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from manyeyes.errors import CacheUnusable, ItemError, ManyeyesError, PrimitiveFailed
from manyeyes.primitives.base import Outcome, Primitive, is_dependent
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.counter import PassCounter
from manyeyes.primitives.features import Layout

logger = logging.getLogger(__name__)

_SAVE_EVERY_S = 1.0


Pending: TypeAlias = Callable[[], list[Outcome]]
"""Waits for a batch and returns its rows, input by input; raises what concerns more than one input."""


class Run(Protocol):
    """Who computes a batch: the thread that asks, or a queue that many share."""

    def __call__(
        self,
        feature: str,
        primitive: Primitive,
        layout: Layout,
        batch: Sequence[Any],
        count: Callable[[int], None],
    ) -> Pending:
        """Begin to compute a batch. count: told the size of each forward pass."""


def run_here(
    feature: str, primitive: Primitive, layout: Layout, batch: Sequence[Any], count: Callable[[int], None]
) -> Pending:
    """Compute a batch at once."""
    found = outcomes_of(primitive, layout, batch, count)
    return lambda: [failed_alone(feature, one) if isinstance(one, Poison) else one for one in found]


@dataclass(frozen=True, slots=True)
class Poison:
    """What a primitive raised on one input alone."""

    error: Exception


def outcomes_of(
    primitive: Primitive, layout: Layout, batch: Sequence[Any], count: Callable[[int], None]
) -> list[Outcome | Poison]:
    """Return rows for each input; where a batch fails, halve it until the inputs that fail alone are found.

    Raises a ManyeyesError that concerns no single input.
    """
    count(len(batch))
    try:
        rows = list(primitive.compute(batch))
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
        return outcomes_of(primitive, layout, batch[:middle], count) + outcomes_of(
            primitive, layout, batch[middle:], count
        )
    return [Poison(problem)]


def failed_alone(feature: str, poison: Poison) -> PrimitiveFailed:
    """Return the error of an input on which a primitive failed alone."""
    problem = poison.error
    logger.info("primitive %s failed on one item", feature, exc_info=problem)
    return PrimitiveFailed(f"{feature} failed on this item alone: {type(problem).__name__}: {problem}")


class Computing:
    """The work of one call: rows that are known, inputs that wait for a batch, contents that failed.

    layout: feature → its layout, loading the model only if the cache does not know. ready: loads the model. run: who
    computes a batch; by default the thread that asks.
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
        run: Run | None = None,
    ) -> None:
        self.rows: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        self.failed: dict[bytes, ItemError] = {}
        self._cache = cache
        self._counter = counter
        self._batch_size = batch_size
        self._layout = layout
        self._ready = ready
        self._prompts = prompts
        self._run = run or run_here
        self._under_way: dict[str, tuple[list[bytes], Pending]] = {}
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
        for feature in list(self._under_way):
            self._settle(feature)
        self._save()

    def _compute(self, feature: str) -> None:
        primitive = self._primitives[feature]
        batch = self._waiting[feature]
        self._waiting[feature] = {}
        batch = self._with_needs(primitive, batch)
        if not batch:
            return
        self._ready(feature)
        layout = self._layout(feature)
        count = partial(self._counter.add, feature, prompts=self._prompts)
        outcomes = self._run(feature, primitive, layout, list(batch.values()), count)
        # While somebody else computes these, the next batch is read; more than two would take too much memory.
        self._settle(feature)
        self._under_way[feature] = (list(batch), outcomes)
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self._save()

    def _settle(self, feature: str) -> None:
        """Take what came of the batch that is under way."""
        if feature not in self._under_way:
            return
        digests, outcomes = self._under_way.pop(feature)
        for digest, result in zip(digests, outcomes(), strict=True):
            if isinstance(result, ItemError):
                self.failed[digest] = result
            elif result is not None:
                self._unsaved[feature][digest] = self.rows[feature][digest] = result.tobytes()

    def _with_needs(self, primitive: Primitive, batch: dict[bytes, Any]) -> dict[bytes, Any]:
        """Return inputs with the rows of others that a primitive reads; those that failed there are left out."""
        if not is_dependent(primitive):
            return batch
        for need in primitive.needs:
            if self._waiting.get(need):
                self._compute(need)
            self._settle(need)
        dtypes = {need: self._layout(need).dtype for need in primitive.needs}
        return {
            digest: primitive.given(
                value, {need: np.frombuffer(self.rows[need][digest], dtype) for need, dtype in dtypes.items()}
            )
            for digest, value in batch.items()
            if all(digest in self.rows[need] for need in primitive.needs)
        }

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
