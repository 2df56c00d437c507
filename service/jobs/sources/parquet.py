"""Parquet tables: everything but the images is read when they are listed, a row group at a time.

Images may be addresses, bytes, or the ``{bytes, path}`` of Hugging Face's ``datasets``. Bytes stay where they are: the
row's member is ``<row group>:<row>:<column>``.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias

from manyeyes.errors import InvalidItem, InvalidSource, StorageFailed, UnreadableItem
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sources.named import Finder
from manyeyes.service.jobs.sources.places import Place, Places
from manyeyes.service.jobs.sources.streams import RangeFile
from manyeyes.service.jobs.sources.tables import Inside, check_columns, table_row
from manyeyes.settings import Limits
from manyeyes.tables import read_cells

ImageKind: TypeAlias = Literal["none", "address", "bytes", "struct"]

_BATCH: Final = 512
_IMAGES: Final = 16
BUFFER_BYTES: Final = 2**20


def open_parquet(file: RangeFile, where: str) -> Any:
    """Return pyarrow's ParquetFile. Raises InvalidSource if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES)
    except (InvalidSource, StorageFailed):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidSource(
            f"{where} cannot be read as Parquet: {error}; check the file, or write it anew"
        ) from error


def parquet_rows(
    place: Place, columns: Mapping[str, str], places: Places, *, limits: Limits, skipped: Counter[str]
) -> Iterator[Row]:
    """Yield the rows of a Parquet table; see ``table_rows``."""
    import pyarrow as pa

    file = RangeFile(place, chunk=BUFFER_BYTES)
    name = place.path.rpartition("/")[2]
    table = open_parquet(file, name)
    schema = table.schema_arrow
    check_columns(schema.names, columns, name)
    image = columns.get("image", "image")
    kind = _image_kind(schema, image, name)
    given = {columns.get(one, one) for one in ("id", "text", "image", "image_base64")}
    wanted = [one for one in flat_columns(schema) if one not in given]
    for field in schema:
        if field.name not in given and field.name not in wanted:
            skipped[f"column {field.name!r}, which is not flat"] += 1
    wanted += [one for one in (columns.get("id", "id"), columns.get("text", "text")) if one in schema.names]
    if kind == "address":
        wanted.append(image)
    finder = Finder(place.uri.rpartition("/")[0], places)
    n = 0
    for group in range(table.num_row_groups):
        n_rows = table.metadata.row_group(group).num_rows
        done = 0
        try:
            presence = _presence(table, group, image, kind)
            for row, present in _group_rows(table, group, wanted, image, kind, presence):
                n += 1
                where = f"{name}, row {n}"
                told = present if isinstance(present, str) else None
                is_inside = present is True
                if is_inside or told is not None:
                    row[image] = told or True
                cells = read_cells(row, name=f"{name}#{n}", where=where, limits=limits, columns=columns)
                inside = Inside(place.uri, file.etag, f"{group}:{done}:{image}") if is_inside else None
                done += 1
                yield table_row(cells, finder, where=where, inside=inside)
        except (InvalidSource, StorageFailed):
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            problem = UnreadableItem(
                f"row group {group} of {name} is damaged after {done:,} rows ({error}); write the table anew"
            )
            yield Row(f"{name}#group {group}", error=(problem.code, str(problem)))
            n += n_rows - done
    file.check_unchanged()


def _image_kind(schema: Any, image: str, name: str) -> ImageKind:
    import pyarrow.types as kinds

    if image not in schema.names:
        return "none"
    kind = schema.field(image).type
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    if kinds.is_string(kind) or kinds.is_large_string(kind):
        return "address"
    if kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind):
        return "bytes"
    if kinds.is_struct(kind) and "bytes" in {field.name for field in kind}:
        return "struct"
    raise InvalidSource(
        f"the column {image!r} of {name} is of {kind}; images are addresses, paths, bytes, or structs of bytes and path"
    )


def flat_columns(schema: Any) -> list[str]:
    """Return the columns of a table that can be metadata."""
    return [field.name for field in schema if _is_flat(field.type)]


def _is_flat(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kinds.is_dictionary(kind):
        kind = kind.value_type
    return not (kinds.is_nested(kind) or kinds.is_binary(kind) or kinds.is_large_binary(kind)
                or kinds.is_fixed_size_binary(kind))  # fmt: skip


def _presence(table: Any, group: int, image: str, kind: ImageKind) -> bool | None:
    """Return whether all (True) or none (False) of a row group's images are bytes, as its statistics say; else None."""
    if kind not in ("bytes", "struct"):
        return False
    leaf = image if kind == "bytes" else f"{image}.bytes"
    told = table.metadata.row_group(group)
    for number in range(told.num_columns):
        column = told.column(number)
        if column.path_in_schema == leaf:
            statistics = column.statistics
            if statistics is None or not statistics.has_null_count:
                return None
            if statistics.null_count == 0:
                return True
            return False if statistics.null_count == told.num_rows else None
    return None


def _group_rows(
    table: Any, group: int, wanted: list[str], image: str, kind: ImageKind, presence: bool | None
) -> Iterator[tuple[dict[str, Any], bool | str | None]]:
    """Yield rows, each with where its image is: True in the table, a path or address, or nowhere."""
    columns = list(wanted)
    n_batch = _BATCH
    if kind in ("bytes", "struct") and presence is None:
        columns.append(image)  # Only the bytes themselves say which of them are there.
        n_batch = _IMAGES
    elif kind == "struct" and presence is False:
        columns.append(f"{image}.path")
    if not columns:
        for _ in range(table.metadata.row_group(group).num_rows):
            yield {}, presence or None
        return
    for batch in table.iter_batches(n_batch, row_groups=[group], columns=columns, use_threads=False):
        for row in batch.to_pylist():
            present: bool | str | None = presence or None
            if kind in ("bytes", "struct") and presence is not True:
                value = row.pop(image, None)
                if isinstance(value, dict):
                    present = True if value.get("bytes") is not None else value.get("path")
                else:
                    present = value is not None or None
            yield {key: plain(cell) for key, cell in row.items() if cell is not None}, present


def plain(cell: object) -> object:
    """Return a cell as metadata can say it: times and decimals as text."""
    if isinstance(cell, dt.date | dt.time):
        return cell.isoformat()
    if isinstance(cell, decimal.Decimal | dt.timedelta):
        return str(cell)
    return cell


class ParquetImages:
    """Reads images out of Parquet tables; fastest in the order of the rows, one thread at a time.

    A row group is read from its beginning up to the row that is wanted, a few rows at a time, and the next row goes on
    from there: a column of a thousand images never is in memory as a whole.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._table: tuple[str, RangeFile, Any] | None = None
        self._batches: tuple[str, int, str, Iterator[Any]] | None = None
        self._held: list[Any] = []
        self._first = 0

    def read(self, uri: str, member: str, etag: str | None) -> bytes | str:
        """Return the bytes of an image, or the path that stands there instead.

        Raises an ItemError, StorageFailed, or what pyarrow raises of a damaged table.
        """
        from manyeyes.errors import EmptyItem, SourceChanged

        group, row, column = int((parts := member.split(":", 2))[0]), int(parts[1]), parts[2]
        if self._table is None or self._table[0] != uri:
            place = self._places.object(uri)
            # Trying again for long is the fetcher's business.
            file = RangeFile(replace(place, storage=place.quick), chunk=BUFFER_BYTES)
            self._table, self._batches = (uri, file, open_parquet(file, uri)), None
        _, file, table = self._table
        if etag is not None and file.etag != etag:
            self._table = None
            raise SourceChanged("the table changed while the job ran; run the job again, which lists it anew")
        try:
            if self._batches is None or self._batches[:3] != (uri, group, column) or row < self._first:
                batches = table.iter_batches(_IMAGES, row_groups=[group], columns=[column], use_threads=False)
                self._batches, self._held, self._first = (uri, group, column, batches), [], 0
            while row >= self._first + len(self._held):
                self._first += len(self._held)
                self._held = []
                self._held = next(self._batches[3]).column(0)
        except StopIteration:
            raise InvalidItem("the table has fewer rows than it had when it was listed") from None
        except BaseException:
            self._table = self._batches = None
            raise
        value = self._held[row - self._first].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if value is None:
            raise EmptyItem("the table has no image in this row")
        found: bytes | str = value
        return found
