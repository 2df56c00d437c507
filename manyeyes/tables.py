"""Tables of items: ``.csv`` with a header, and ``.jsonl`` with one object a line; read row by row.

Columns ``id``, ``image`` (a path relative to the table, inside its folder), ``image_base64`` and ``text`` are the item;
every other column is metadata, and so is each entry of an object under ``metadata`` in JSON. A row without ``id`` is
named after its line. In CSV an empty cell is absent, and a cell that looks like a number, ``true`` or ``false`` is one.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from manyeyes.errors import EmptyItem, InvalidItem, ItemError, UnreadableItem, nearest
from manyeyes.settings import Limits
from manyeyes.sources import Broken, Read, checked_text, flat_metadata, unreadable
from manyeyes.types import ImageSource, Item, MetadataValue

COLUMNS: Final = ("id", "image", "image_base64", "text", "metadata")
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def read_table(path: Path, *, name: str, limits: Limits) -> Iterator[Read]:
    """Yield the items of a table, in order; a row that is no item is a Broken and the others follow.

    name: the table's id, for rows that have none of their own.
    """
    rows = _json_rows if path.suffix.lower() == ".jsonl" else _csv_rows
    empty = True
    try:
        for line, row in rows(path, limits):
            empty = False
            where = f"{path}, line {line}"
            if isinstance(row, ItemError):
                yield Broken(f"{name}#{line}", row)
            else:
                cells = read_cells(row, name=f"{name}#{line}", where=where, limits=limits)
                yield cells if isinstance(cells, Broken) else _item(cells, folder=path.parent, where=where)
    except OSError as error:
        yield Broken(name, unreadable(path, error))
        return
    if empty:
        yield Broken(
            name, EmptyItem(f"{path} has no rows; give it one row an item, with a column image or text")
        )


def _csv_rows(path: Path, _: Limits) -> Iterator[tuple[int, dict[str, Any] | ItemError]]:
    # Bytes that are no UTF-8 become lone surrogates, so that one bad row is noticed and does not end the table.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        yield from csv_rows(stream, where=str(path))


def _json_rows(path: Path, limits: Limits) -> Iterator[tuple[int, dict[str, Any] | ItemError]]:
    with path.open("rb") as stream:
        yield from json_rows(stream, where=str(path), limits=limits)


def csv_rows(
    stream: Iterator[str], *, where: str, check: Callable[[list[str]], ItemError | None] | None = None
) -> Iterator[tuple[int, dict[str, Any] | ItemError]]:
    """Yield the rows of a CSV, each with the number of its line, or what is wrong with it.

    stream: its lines, with their ends; no more of them are taken than the row that is yielded has. where: how messages
    call it. check: what is wrong with the header; by default it needs a column of an image or a text. A row has one
    more entry, ``"": "csv"``, for :func:`read_cells`.
    """
    reader = csv.reader(stream)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "check its quotes"
            if "field limit" in str(error):
                hint = "check its quotes, and put images into files, JSONL or Parquet"
            yield line, InvalidItem(f"{where}, line {line} is not CSV: {error}; {hint}")
            continue
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            wrong = check(header) if check is not None else wrong_header(header, where)
            if wrong is not None:
                yield line, wrong
                return
        elif len(cells) != len(header):
            came = f"{len(cells)} cells, but the header has {len(header)}"
            yield line, InvalidItem(f"{where}, line {line} has {came}; check its quotes")
        else:
            yield (
                line,
                {key: cell for key, cell in zip(header, cells, strict=True) if cell != ""} | {"": "csv"},
            )


def wrong_header(header: list[str], where: str) -> ItemError | None:
    """Return what is wrong with the columns of a table: none of an image or a text, or one twice."""
    if not {"image", "image_base64", "text"} & set(header):
        hints = ((column, nearest(column, COLUMNS)) for column in header if column not in COLUMNS)
        hint = next((f"; column {column!r}{told}" for column, told in hints if told), "")
        return InvalidItem(
            f"{where} has the columns {', '.join(header)}; one named image, image_base64 or text is needed{hint}"
        )
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        return InvalidItem(f"{where} has the column {repeated[0]!r} twice; rename one")
    return None


def longest_line(limits: Limits) -> int:
    """Return how many bytes a line of a table may have."""
    # base64 is a third longer than the bytes it stands for; the rest of the line is small beside it.
    return limits.max_bytes * 4 // 3 + 4 * limits.max_text + 2**20


class ReadsLines(Protocol):
    """As much of a binary file as tables need."""

    def readline(self, longest: int = -1, /) -> bytes:
        """Return the next line, or the beginning of one that is longer."""


def json_rows(
    stream: ReadsLines, *, where: str, limits: Limits
) -> Iterator[tuple[int, dict[str, Any] | ItemError]]:
    """Yield the rows of a JSONL, each with the number of its line, or what is wrong with it; see :func:`csv_rows`."""
    longest = longest_line(limits)
    line = 0
    while data := stream.readline(longest):
        line += 1
        if len(data) == longest and not data.endswith(b"\n"):
            while data and not data.endswith(b"\n"):
                data = stream.readline(longest)
            yield line, InvalidItem(f"{where}, line {line} is longer than {longest:,} bytes; split it")
            continue
        if not data.strip():
            continue
        try:
            row = json.loads(data.decode("utf-8-sig" if line == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            yield line, InvalidItem(f"{where}, line {line} is not a JSON object in UTF-8: {error}")
            continue
        if isinstance(row, dict):
            yield line, row
        else:
            message = (
                f"{where}, line {line} is a {type(row).__name__}; each line is one object with image or text"
            )
            yield line, InvalidItem(message)


@dataclass(frozen=True, slots=True)
class Cells:
    """One row of a table, before its image is looked at. image, encoded: as they stand there.

    problem: what is wrong with the text or the metadata.
    """

    id: str
    image: Any
    encoded: Any
    text: str | None
    metadata: Mapping[str, MetadataValue]
    problem: ItemError | None


def read_cells(
    row: dict[str, Any],
    *,
    name: str,
    where: str,
    limits: Limits,
    columns: Mapping[str, str] = MappingProxyType({}),
) -> Cells | Broken:
    """Return a row as what its columns say.

    row: column → value; emptied. name: its id where it has none. where: how messages call it. columns: our name (id,
    image, image_base64, text) → the table's, where it is another.
    """
    from_csv = row.pop("", None) == "csv"
    given = row.pop(columns.get("id", "id"), None)
    item_id = name if given is None else given
    if isinstance(item_id, int) and not isinstance(item_id, bool):
        item_id = str(item_id)
    if not isinstance(item_id, str) or not item_id.strip():
        return Broken(name, InvalidItem(f"{where}: id must be a text or a whole number, got {given!r}"))
    try:
        item_id.encode()
    except UnicodeEncodeError:
        return Broken(name, InvalidItem(f"{where}: the id is not UTF-8; save the table as UTF-8"))
    image, text, encoded = (
        row.pop(columns.get(column, column), None) for column in ("image", "text", "image_base64")
    )
    problem: ItemError | None = None
    if text is not None:
        text, problem = _text(text, where=where, limits=limits)
    if problem is None and image is None and encoded is None and text is None:
        problem = EmptyItem(f"{where} has neither image nor text; fill in one of them")
    metadata = metadata_cells(row, from_csv=from_csv, where=where)
    if isinstance(metadata, ItemError):
        return Cells(item_id, image, encoded, text, {}, problem or metadata)
    return Cells(item_id, image, encoded, text, metadata, problem)


def _item(cells: Cells, *, folder: Path, where: str) -> Read:
    problem: ItemError | None = None
    source: ImageSource | None = None
    if cells.image is not None:
        source, problem = confined(cells.image, folder=folder, where=where)
    if cells.encoded is not None and problem is None:
        if cells.image is not None:
            problem = InvalidItem(f"{where} has both image and image_base64; keep one")
        else:
            source, problem = decoded(cells.encoded, where=where)
    problem = problem or cells.problem
    if problem is not None:
        return Broken(cells.id, problem)
    return Item(id=cells.id, image=source, text=cells.text, metadata=cells.metadata)


def _text(text: object, *, where: str, limits: Limits) -> tuple[str | None, ItemError | None]:
    if not isinstance(text, str):
        return None, InvalidItem(f"{where}: text must be a text, got {type(text).__name__}")
    checked = checked_text(text.encode("utf-8", "surrogateescape"), where=f"{where}: text", limits=limits)
    return (None, checked) if isinstance(checked, ItemError) else (checked, None)


def confined(image: object, *, folder: Path, where: str) -> tuple[Path | None, ItemError | None]:
    """Return the path of an image that lies in the table's folder, or why it may not be read."""
    if not isinstance(image, str) or not image.strip() or "\x00" in image:
        return None, InvalidItem(f"{where}: image must be a path relative to the table, got {image!r}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]+://", image):
        return None, InvalidItem(
            f"{where}: image is the address {image!r}; fetch it first and give the file's path"
        )
    real, inside = os.path.realpath(folder / image), os.path.realpath(folder)
    if os.path.commonpath([real, inside]) != inside:
        message = f"{where}: image {image!r} lies outside the table's folder {folder}; move it there, or the table up"
        return None, UnreadableItem(message)
    return folder / image, None


def decoded(encoded: object, *, where: str) -> tuple[bytes | None, ItemError | None]:
    """Return the bytes that base64 stands for, or what is wrong with it."""
    if not isinstance(encoded, str):
        return None, InvalidItem(f"{where}: image_base64 must be a text, got {type(encoded).__name__}")
    try:
        return base64.b64decode(encoded, validate=True), None
    except (binascii.Error, ValueError) as error:
        return None, InvalidItem(f"{where}: image_base64 is not base64 ({error}); encode the file's bytes")


def metadata_cells(
    row: Mapping[str, Any], *, from_csv: bool, where: str
) -> dict[str, MetadataValue] | ItemError:
    """Return the cells of a row that are metadata, or what is wrong with them."""
    if from_csv:
        found: dict[str, MetadataValue] = {}
        for key, cell in row.items():
            try:
                cell.encode()
            except UnicodeEncodeError:
                return InvalidItem(f"{where}: column {key!r} is not UTF-8; save the table as UTF-8")
            found[key] = _typed(cell)
        return found
    nested = row.get("metadata", {})
    if not isinstance(nested, Mapping):
        return InvalidItem(
            f"{where}: metadata must be an object of names to values, got {type(nested).__name__}"
        )
    return flat_metadata({key: row[key] for key in row if key != "metadata"} | dict(nested), where=where)


def _typed(cell: str) -> MetadataValue:
    """Return a CSV cell as what it looks like; ``007`` stays a text, because a number has no leading zero.

    >>> [_typed(cell) for cell in ("12", "9.50", "true", "007", "dress")]
    [12, 9.5, True, '007', 'dress']
    """
    if cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return cell
    try:
        return float(cell) if match[2] or match[3] else int(cell)
    except ValueError:  # More digits than Python turns into an int: an identifier, not a number.
        return cell
