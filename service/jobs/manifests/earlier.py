"""The rows of an earlier manifest, indexed on disk: what changed since, and what is still there."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from manyeyes.service.jobs.manifests.shards import Tell, batched
from manyeyes.service.jobs.shapes import Row, Shard

_BATCH: Final = 500
_CACHE_KIB: Final = 4 * 1024


class Earlier:
    """The rows of the earlier manifest: id → digest and place, on disk; and which of them are still there."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="manyeyes-update-")
        self._database = sqlite3.connect(Path(self._folder.name) / "rows.sqlite", isolation_level=None)
        # Nobody reads it after a crash, so nothing need survive one.
        self._database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;"
            f"PRAGMA cache_size=-{_CACHE_KIB};"
            "CREATE TABLE earlier (id TEXT PRIMARY KEY, digest BLOB, place INTEGER) WITHOUT ROWID;"
        )
        self._there = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self._folder.cleanup()

    def add(self, shard: Shard, rows: list[Row]) -> None:
        """Remember a shard's rows; their place counts on from those before."""
        first = len(self._there)
        skip = frozenset(shard.skip)
        self._there.extend(bytes(len(rows)))
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR IGNORE INTO earlier VALUES (?, ?, ?)",
            (
                (row.id, digest_of(row), first + position)
                for position, row in enumerate(rows)
                if position not in skip
            ),
        )
        self._database.execute("COMMIT")

    def changed(self, rows: Iterable[Row], progress: Tell | None) -> Iterator[Row]:
        """Yield the rows that are not as they were; mark the others as still there. progress: told of all."""
        n_rows = 0
        for batch in batched(rows, _BATCH):
            marks = ",".join("?" * len(batch))
            found = {
                row_id: (digest, place)
                for row_id, digest, place in self._database.execute(
                    f"SELECT id, digest, place FROM earlier WHERE id IN ({marks})",
                    [row.id for row in batch],
                )
            }
            for row in batch:
                digest, place = found.get(row.id, (None, 0))
                if digest == digest_of(row):
                    self._there[place] = 1
                else:
                    yield row
            n_rows += len(batch)
            if progress is not None:
                progress(n_rows)

    def kept(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """Yield the shards of which something is left, with what is not among their skipped rows."""
        first = 0
        for shard in shards:
            there = self._there[first : first + shard.n_rows]
            first += shard.n_rows
            if any(there):
                skip = tuple(position for position, is_there in enumerate(there) if not is_there)
                yield Shard(shard.index, shard.part, shard.digest, shard.n_rows, skip)


def digest_of(row: Row) -> bytes:
    """Return what tells a row from what it was: 16 bytes that stand for all it says."""
    told = (
        row.id,
        row.uri,
        row.member,
        row.offset,
        row.length,
        row.size,
        row.etag,
        row.text,
        row.metadata,
        row.error,
    )
    return blake2b(repr(told).encode("utf-8", "backslashreplace"), digest_size=16).digest()
