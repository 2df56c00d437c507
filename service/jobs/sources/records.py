"""Tables whose rows are metadata: a key, and everything else about what it names."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, TypeAlias

from manyeyes.errors import InvalidItem, InvalidSource, ItemError, StorageFailed
from manyeyes.service.jobs.sources.parquet import flat_columns, open_parquet, plain
from manyeyes.service.jobs.sources.places import Place, Places
from manyeyes.service.jobs.sources.streams import Lines, RangeFile
from manyeyes.settings import Limits
from manyeyes.tables import csv_rows, json_rows, longest_line, metadata_cells
from manyeyes.types import MetadataValue

Record: TypeAlias = "tuple[str, dict[str, MetadataValue]] | InvalidItem"

_BATCH = 1024


def records(place: Place, places: Places, *, key: str, limits: Limits) -> Iterator[Record]:
    """Yield each row of a table as its key and its metadata, or what is wrong with it.

    Raises InvalidSource if it is no table or has no such column, and StorageFailed.
    """
    del places
    name = place.path.rpartition("/")[2]
    lowered = place.uri.lower()
    if lowered.endswith(".parquet"):
        rows = _parquet(place, key, name)
    elif lowered.endswith((".csv", ".jsonl")):
        rows = _lines(place, key, name, limits, is_csv=lowered.endswith(".csv"))
    else:
        raise InvalidSource(f"{place.uri} is not named as a table; tables end with .csv, .jsonl or .parquet")
    for where, row in rows:
        if isinstance(row, ItemError):
            yield InvalidItem(str(row))
            continue
        from_csv = row.pop("", None) == "csv"
        told = row.pop(key, None)
        told = str(told) if isinstance(told, int) and not isinstance(told, bool) else told
        if not isinstance(told, str) or not told:
            yield InvalidItem(f"{where}: {key} must be a text or a whole number, got {told!r}")
            continue
        try:
            told.encode()
        except UnicodeEncodeError:
            yield InvalidItem(f"{where}: {key} is not UTF-8; save the table as UTF-8")
            continue
        metadata = metadata_cells(row, from_csv=from_csv, where=where)
        yield InvalidItem(str(metadata)) if isinstance(metadata, ItemError) else (told, metadata)


def _lines(
    place: Place, key: str, name: str, limits: Limits, *, is_csv: bool
) -> Iterator[tuple[str, dict[str, Any] | ItemError]]:
    lines = Lines(io.BufferedReader(RangeFile(place), 2**20), longest=longest_line(limits))
    seen = False

    def check(header: list[str]) -> ItemError | None:
        if key not in header:
            raise InvalidSource(
                f"the joined table {name} has no column {key!r}; it has {', '.join(header[:20])}"
            )
        return None

    rows = csv_rows(lines, where=name, check=check) if is_csv else json_rows(lines, where=name, limits=limits)
    for line, row in rows:
        if not seen and not is_csv and isinstance(row, dict):
            seen = True
            check(list(row))
        yield f"{name}, line {line}", row


def _parquet(place: Place, key: str, name: str) -> Iterator[tuple[str, dict[str, Any] | ItemError]]:
    import pyarrow as pa

    table = open_parquet(RangeFile(place, chunk=2**20), name)
    columns = flat_columns(table.schema_arrow)
    if key not in columns:
        raise InvalidSource(
            f"the joined table {name} has no column {key!r}; it has {', '.join(columns[:20])}"
        )
    n = 0
    batches = table.iter_batches(_BATCH, columns=columns, use_threads=False)
    while True:
        try:
            rows = next(batches).to_pylist()
        except StopIteration:
            return
        except (InvalidSource, StorageFailed):
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            # Not one row of many: without it, rows would be labeled as if nothing were known of them.
            raise InvalidSource(
                f"the joined table {name} is damaged after {n:,} rows ({error}); write it anew"
            ) from error
        for row in rows:
            n += 1
            yield f"{name}, row {n}", {one: plain(cell) for one, cell in row.items() if cell is not None}
