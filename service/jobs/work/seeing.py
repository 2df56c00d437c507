"""What is in the rows of a shard: taken from stored features where they are known, and fetched and computed where not.

Bytes are fetched, and decoded, and models run, all at once: while one chunk is computed the next is on its way.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from manyeyes.errors import ItemError
from manyeyes.primitives.base import FeatureSet, Primitive
from manyeyes.primitives.computing import Pending, run_here
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.features import Layout
from manyeyes.service.jobs.manifests.rows import item_of
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row, Shard
from manyeyes.service.jobs.work.features import (
    BROKEN,
    UNKNOWN,
    FeatureRows,
    Positions,
    Seen,
    error_of,
    feature_key,
    layout_of,
    readable_in,
    reads_images,
)
from manyeyes.service.jobs.work.stored import read_features, write_features
from manyeyes.types import Item

CHUNK_ROWS: Final = 256
CHUNK_BYTES: Final = 64 * 2**20
_LOOK_S: Final = 0.2

T = TypeVar("T")
OnChunk = Callable[[Sequence[int], Mapping[int, ItemError]], None]
"""Called with rows that are known now, and what is wrong with which of them."""

_computed: ContextVar[Counter[str] | None] = ContextVar("computed", default=None)


class Fetches(Protocol):
    """What fetches the bytes of rows; ``manyeyes.service.jobs.manifests.fetch.Fetcher`` is one."""

    def fetch(
        self, rows: Sequence[Row], *, attempts: int, stop: threading.Event | None = None
    ) -> Iterator[tuple[int, bytes | ItemError | None, int]]:
        """Yield of each row, in order: its place, its bytes or what is wrong, and how often it was tried."""


class Stopped(Exception):
    """Whoever asked wants no more of it."""


def run_counted(
    feature: str, primitive: Primitive, layout: Layout, batch: Sequence[Any], count: Callable[[int], None]
) -> Pending:
    """Compute a batch at once, as an extractor does by itself, and count its inputs for the shard of this thread."""
    counter = _computed.get()
    if counter is not None:
        counter[feature] += len(batch)
    return run_here(feature, primitive, layout, batch, count)


@dataclass
class SeenShard:
    """The features of a shard. positions: where each row stands in the manifest's part. items: as LFs see them.

    errors: row → what is wrong with it. attempts: row → how often it was fetched, of those that could not be.
    parts: feature → the part that holds it now, path and sha256. computed: feature → inputs that its model was given.
    """

    positions: Positions
    items: list[Item]
    errors: dict[int, ItemError]
    attempts: dict[int, int] = field(default_factory=dict)
    features: dict[str, FeatureRows] = field(default_factory=dict)
    parts: dict[str, tuple[str, str]] = field(default_factory=dict)
    computed: Counter[str] = field(default_factory=Counter)

    def blocks(self, size: int) -> Iterator[FeatureSet]:
        """Yield the features of some rows after the other, as an extractor gives them; one empty set of no rows."""
        broken = np.zeros(len(self.items), dtype=np.bool_)
        broken[sorted(self.errors)] = True
        for start in range(0, max(len(self.items), 1), size):
            rows = slice(start, start + size)
            yield FeatureSet(
                items=self.items[rows],
                blocks={
                    feature: held.features(self.positions[rows], broken[rows])
                    for feature, held in self.features.items()
                },
                errors={
                    row - start: error
                    for row, error in sorted(self.errors.items())
                    if start <= row < start + size
                },
            )


class Seeing:
    """Sees shards with one extractor, on any number of threads.

    needs: the features that are wanted. versions: of each. attempts: how often a row is fetched.
    """

    def __init__(
        self,
        extractor: Extractor,
        storage: Storage,
        fetcher: Fetches,
        *,
        needs: Sequence[str],
        versions: Mapping[str, str],
        attempts: int,
    ) -> None:
        self._extractor = extractor
        self._storage = storage
        self._fetcher = fetcher
        self._needs = tuple(needs)
        self._keys = {feature: feature_key(feature, versions) for feature in needs}
        self._of_images = {feature: reads_images(feature, extractor) for feature in needs}
        self._attempts = attempts

    def see(
        self,
        shard: Shard,
        rows: Sequence[Row],
        *,
        wrong: Mapping[int, ItemError],
        stored: bool,
        stop: Callable[[], bool],
        on_chunk: OnChunk,
    ) -> SeenShard:
        """Return the features of a shard's rows, and store what is new of them.

        wrong: row → what is wrong with it, of those that are not to be looked at. stored: whether to take what is
        stored. stop: asked between chunks. Raises Stopped, StorageFailed, and what an extractor raises.
        """
        skipped = set(shard.skip)
        positions = np.array([p for p in range(shard.n_rows) if p not in skipped], dtype=np.int64)
        seen = SeenShard(positions, [item_of(row) for row in rows], dict(wrong))
        held: dict[str, FeatureRows | None] = {
            feature: read_features(self._storage, shard, key) if stored else None
            for feature, key in self._keys.items()
        }
        lacking = self._lacking(seen, held)
        done = sorted(set(range(len(rows))) - {row for group in lacking.values() for row in group})
        on_chunk(done, {row: seen.errors[row] for row in done if row in seen.errors})
        new: dict[str, list[Seen]] = {feature: [] for feature in self._needs}
        token = _computed.set(seen.computed)
        try:
            for features, group in lacking.items():
                for chunk, items in self._chunks(rows, group, features, seen, stop):
                    self._extract(chunk, items, features, seen, new)
                    on_chunk(chunk, {row: seen.errors[row] for row in chunk if row in seen.errors})
            self._keep(shard, held, new, seen)
        finally:
            _computed.reset(token)
        return seen

    def _lacking(
        self, seen: SeenShard, held: Mapping[str, FeatureRows | None]
    ) -> dict[tuple[str, ...], list[int]]:
        """Return the rows that have to be looked at, by what is not known of them; note what is known to be wrong."""
        n, unknown = len(seen.items), np.ones((len(self._needs), len(seen.items)), dtype=np.bool_)
        for j, feature in enumerate(self._needs):
            rows = held[feature]
            if rows is None:
                continue
            state = rows.state[seen.positions]
            unknown[j] = state == UNKNOWN
            for row in np.flatnonzero(state == BROKEN).tolist():
                seen.errors.setdefault(row, rows.errors[int(seen.positions[row])])
        groups: dict[tuple[str, ...], list[int]] = {}
        # Without features there is nothing to store, and whether a row is an item at all is looked at each time.
        asked = unknown.any(axis=0) if self._needs else np.ones(n, dtype=np.bool_)
        for row in np.flatnonzero(asked).tolist():
            if row not in seen.errors:
                features = tuple(f for f, lacks in zip(self._needs, unknown[:, row], strict=True) if lacks)
                groups.setdefault(features, []).append(row)
        return groups

    def _chunks(
        self,
        rows: Sequence[Row],
        group: Sequence[int],
        features: Sequence[str],
        seen: SeenShard,
        stop: Callable[[], bool],
    ) -> Iterator[tuple[list[int], list[Item]]]:
        """Yield rows with their items, some at a time; those that cannot be fetched are noted, and have none."""
        if not any(self._of_images[feature] for feature in features):
            for start in range(0, len(group), CHUNK_ROWS):
                if stop():
                    raise Stopped
                some = list(group[start : start + CHUNK_ROWS])
                yield some, [seen.items[row] for row in some]
            return
        halt = threading.Event()
        fetched = self._fetcher.fetch([rows[row] for row in group], attempts=self._attempts, stop=halt)

        def gather() -> tuple[list[int], list[Item]]:
            chunk: list[int] = []
            items: list[Item] = []
            n_bytes = 0
            for place, data, attempts in fetched:
                row = group[place]
                chunk.append(row)
                if isinstance(data, ItemError):
                    seen.errors[row], seen.attempts[row] = data, attempts
                else:
                    items.append(seen.items[row] if data is None else item_of(rows[row], data))
                    n_bytes += 0 if data is None else len(data)
                if len(chunk) >= CHUNK_ROWS or n_bytes >= CHUNK_BYTES:
                    break
            return chunk, items

        n_rows = 0
        with ThreadPoolExecutor(1, thread_name_prefix="manyeyes-ahead") as ahead:
            try:
                coming = ahead.submit(gather)
                while (gathered := _awaited(coming, stop))[0]:
                    coming = ahead.submit(gather)
                    n_rows += len(gathered[0])
                    yield gathered
            finally:
                halt.set()
        if n_rows != len(group):
            if stop():
                raise Stopped
            raise RuntimeError(f"{len(group)} rows were to be fetched, and {n_rows} were")

    def _extract(
        self,
        chunk: Sequence[int],
        items: Sequence[Item],
        features: Sequence[str],
        seen: SeenShard,
        new: Mapping[str, list[Seen]],
    ) -> None:
        rows = [row for row in chunk if row not in seen.errors]
        if not rows:
            return
        found = self._extractor.extract(items, features)
        if len(found) != len(rows):
            raise RuntimeError(f"{len(rows)} rows went into an extractor, and {len(found)} came out")
        positions = seen.positions[np.array(rows, dtype=np.int64)]
        for feature in features:
            readable = readable_in(feature, found, self._extractor)
            new[feature].append(
                Seen(positions, found[feature], found.errors, readable, self._of_images[feature])
            )
        for i, error in found.errors.items():
            seen.errors[rows[i]] = error

    def _keep(
        self,
        shard: Shard,
        held: Mapping[str, FeatureRows | None],
        new: Mapping[str, Sequence[Seen]],
        seen: SeenShard,
    ) -> None:
        for feature in self._needs:
            known = held[feature]
            if known is None:
                block = (
                    new[feature][0].block if new[feature] else self._extractor.extract([], [feature])[feature]
                )
                known = FeatureRows.empty(layout_of(block), shard.n_rows)
            seen.features[feature] = known.with_seen(new[feature])
            if new[feature]:
                seen.parts[feature] = write_features(
                    self._storage, shard, self._keys[feature], seen.features[feature]
                )


def _awaited(coming: Future[T], stop: Callable[[], bool]) -> T:
    """Return what is coming. Raises Stopped as soon as that is wanted: a bucket that is down may take minutes."""
    while True:
        if stop():
            raise Stopped
        if wait([coming], timeout=_LOOK_S).done:
            return coming.result()


def error_of_row(row: Row) -> ItemError | None:
    """Return what is wrong with a row by its manifest, or None."""
    return None if row.error is None else error_of(*row.error)
