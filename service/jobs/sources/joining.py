"""Metadata that comes from a table by key, whatever the size of either: the table is indexed on disk first."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from manyeyes.errors import InvalidItem, InvalidSource
from manyeyes.service.jobs.shapes import Join, Row
from manyeyes.service.jobs.sources.beside import as_json
from manyeyes.service.jobs.sources.patterns import matching
from manyeyes.service.jobs.sources.places import Places
from manyeyes.service.jobs.sources.records import records
from manyeyes.settings import Limits

_BATCH: Final = 1000
_CACHE_KIB: Final = 4 * 1024


def joined(
    rows: Iterator[Row], join: Join, places: Places, *, limits: Limits, skipped: Counter[str]
) -> Iterator[Row]:
    """Yield rows with what a table says of them added to their metadata; what a row says itself stays.

    A row that the table does not name stays as it is, and is counted in ``skipped``. Raises InvalidSource if the table
    cannot be read or lacks the key.
    """
    with _Index() as index:
        index.fill(join, places, limits, skipped)
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH:
                yield from _added(batch, join, index, skipped)
                batch = []
        yield from _added(batch, join, index, skipped)


class _Index:
    """Key → metadata, in a temporary file that ends with the job."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="manyeyes-join-")
        self._database = sqlite3.connect(
            Path(self._folder.name) / "join.sqlite", isolation_level=None, check_same_thread=False
        )
        # Nobody reads it after a crash, so nothing need survive one.
        self._database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;"
            f"PRAGMA cache_size=-{_CACHE_KIB};"
            "CREATE TABLE told (key TEXT PRIMARY KEY, metadata TEXT NOT NULL) WITHOUT ROWID;"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self._folder.cleanup()

    def fill(self, join: Join, places: Places, limits: Limits, skipped: Counter[str]) -> None:
        """Read the table. The first row of a key counts."""
        batch: list[tuple[str, str]] = []
        n_rows = 0
        for uri in matching(join.table, places):
            for record in records(places.object(uri), places, key=join.key, limits=limits):
                if isinstance(record, InvalidItem):
                    skipped["row of the joined table that cannot be read"] += 1
                    continue
                key, metadata = record
                n_rows += 1
                batch.append((key, as_json(metadata)))
                if len(batch) == _BATCH:
                    self._insert(batch, skipped)
                    batch = []
        self._insert(batch, skipped)
        if not n_rows:
            raise InvalidSource(
                f"the joined table {join.table} has no row with something in its column {join.key!r}"
            )

    def find(self, keys: list[str]) -> Mapping[str, str]:
        """Return what is told of some keys."""
        found: dict[str, str] = {}
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            marks = ",".join("?" * len(some))
            found.update(
                self._database.execute(f"SELECT key, metadata FROM told WHERE key IN ({marks})", some)
            )
        return found

    def _insert(self, batch: list[tuple[str, str]], skipped: Counter[str]) -> None:
        self._database.execute("BEGIN")
        before = self._database.total_changes
        self._database.executemany("INSERT OR IGNORE INTO told VALUES (?, ?)", batch)
        self._database.execute("COMMIT")
        repeated = len(batch) - (self._database.total_changes - before)
        if repeated:
            skipped["repeated key of the joined table"] += repeated


def _added(rows: list[Row], join: Join, index: _Index, skipped: Counter[str]) -> Iterator[Row]:
    keys = [_key(row, join) for row in rows]
    found = index.find(list(dict.fromkeys(keys)))
    for row, key in zip(rows, keys, strict=True):
        told = found.get(key)
        if told is None:
            skipped["row that the joined table does not name"] += 1
            yield row
        elif row.metadata == "{}":
            yield replace(row, metadata=told)
        else:
            yield replace(row, metadata=as_json(json.loads(told) | json.loads(row.metadata)))


def _key(row: Row, join: Join) -> str:
    """Return what names a row in the table; keys are of UTF-8, and what is none fits nothing.

    >>> [_key(Row("cats/a.b.jpg"), Join(table="t.csv", on=on)) for on in ("id", "name", "stem")]
    ['cats/a.b.jpg', 'a.b.jpg', 'a.b']
    """
    row_id = row.id.encode("utf-8", "replace").decode()
    if join.on == "id":
        return row_id
    name = row_id.rpartition("/")[2]
    if join.on == "name":
        return name
    head, dot, _ = name.rpartition(".")
    return head if dot and head else name
