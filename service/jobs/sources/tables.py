"""Tables as sources: .csv, .jsonl and .parquet, row by row, with the rules of :mod:`manyeyes.tables`.

Images may also be addresses, and in Parquet bytes: a row of the manifest then says where in the table they are, and
they are read when the row is.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from manyeyes.errors import EmptyItem, InvalidItem, InvalidSource, ItemError
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sources.beside import as_json
from manyeyes.service.jobs.sources.named import Finder
from manyeyes.service.jobs.sources.patterns import matching
from manyeyes.service.jobs.sources.places import Place, Places
from manyeyes.service.jobs.sources.streams import Lines, RangeFile
from manyeyes.settings import Limits
from manyeyes.sources import Broken
from manyeyes.tables import Cells, csv_rows, decoded, json_rows, longest_line, read_cells, wrong_header


@dataclass(frozen=True, slots=True)
class Inside:
    """Where in its table an image is: what Row has for it."""

    uri: str
    etag: str | None
    member: str
    offset: int | None = None
    length: int | None = None
    size: int | None = None


def table_rows(
    pattern: str, columns: Mapping[str, str], places: Places, *, limits: Limits, skipped: Counter[str]
) -> Iterator[Row]:
    """Yield the rows of one table or several, in order.

    columns: our name (id, image, text) → the table's column. Raises InvalidSource if a table is not there, or has
    neither a column of images nor one of texts, and StorageFailed.
    """
    unknown = set(columns) - {"id", "image", "text", "image_base64"}
    if unknown:
        raise InvalidSource(
            f"columns name {', '.join(sorted(unknown))!r}; what can be mapped is id, image and text"
        )
    for uri in matching(pattern, places):
        place = places.object(uri)
        if uri.lower().endswith(".parquet"):
            from manyeyes.service.jobs.sources.parquet import parquet_rows

            yield from parquet_rows(place, columns, places, limits=limits, skipped=skipped)
        else:
            yield from _text_rows(place, columns, places, limits=limits)


def table_row(cells: Cells | Broken, finder: Finder, *, where: str, inside: Inside | None = None) -> Row:
    """Return a row of a table as one of a manifest. inside: where its image is, if it is in the table."""
    if isinstance(cells, Broken):
        return Row(cells.id, error=(cells.error.code, str(cells.error)))
    metadata = as_json(cells.metadata)
    problem: ItemError | None = None
    if cells.image is not None and inside is None:
        found = finder.find(cells.image, where=where)
        if isinstance(found, ItemError):
            problem = found
        else:
            inside = Inside(found.uri, found.etag, "", size=found.size)
    problem = problem or cells.problem
    if problem is None and inside is not None and inside.size == 0:
        problem = EmptyItem(f"{where}: the image has no bytes; restore it, or remove the row")
    if problem is not None:
        return Row(cells.id, metadata=metadata, error=(problem.code, str(problem)))
    if inside is None:
        return Row(cells.id, text=cells.text, metadata=metadata)
    return Row(
        cells.id,
        uri=inside.uri,
        member=inside.member or None,
        offset=inside.offset,
        length=inside.length,
        size=inside.size,
        etag=inside.etag,
        text=cells.text,
        metadata=metadata,
    )


def check_columns(header: list[str], columns: Mapping[str, str], where: str) -> None:
    """Raise InvalidSource if a table lacks the columns of its items."""
    for ours, theirs in columns.items():
        if theirs not in header:
            raise InvalidSource(
                f"{where} has no column {theirs!r}, which is to be the {ours}; it has {', '.join(header[:20])}"
            )
    ours_there = [ours for ours, theirs in columns.items() if theirs in header]
    wrong = wrong_header([*header, *(one for one in ours_there if one not in header)], where)
    if wrong is not None:
        raise InvalidSource(f"{wrong}. Rename one, or say with `columns` which it is")


def _text_rows(place: Place, columns: Mapping[str, str], places: Places, *, limits: Limits) -> Iterator[Row]:
    file = RangeFile(place)
    lines = Lines(io.BufferedReader(file, 2**20), longest=longest_line(limits))
    name = place.path.rpartition("/")[2]
    finder = Finder(place.uri.rpartition("/")[0], places)
    encoded_column = columns.get("image_base64", "image_base64")
    header: list[str] = []

    def check(told: list[str]) -> ItemError | None:
        check_columns(told, columns, name)
        header.extend(told)
        lines.mark()
        return None

    is_csv = place.uri.lower().endswith(".csv")
    rows = csv_rows(lines, where=name, check=check) if is_csv else json_rows(lines, where=name, limits=limits)
    for line, row in rows:
        where = f"{name}, line {line}"
        own = f"{name}#{line}"
        if isinstance(row, ItemError):
            yield Row(own, error=(row.code, str(row)))
            lines.mark()
            continue
        cells = read_cells(row, name=own, where=where, limits=limits, columns=columns)
        inside: Inside | None = None
        if isinstance(cells, Cells) and cells.encoded is not None and cells.problem is None:
            found = _encoded(cells, where)
            if isinstance(found, ItemError):
                cells = Broken(cells.id, found)
            else:
                column = str(header.index(encoded_column)) if is_csv else encoded_column
                inside = Inside(
                    place.uri,
                    file.etag,
                    f"{line}:{column}",
                    lines.start,
                    lines.end - lines.start,
                    found,
                )
        yield table_row(cells, finder, where=where, inside=inside)
        lines.mark()
    file.check_unchanged()


def _encoded(cells: Cells, where: str) -> int | ItemError:
    """Return how many bytes base64 stands for, or what is wrong with it."""
    if cells.image is not None:
        return InvalidItem(f"{where} has both image and image_base64; keep one")
    data, wrong = decoded(cells.encoded, where=where)
    return len(data) if data is not None else wrong or InvalidItem(where)
