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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

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
                yield _item(row, folder=path.parent, name=f"{name}#{line}", where=where, limits=limits)
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
        reader = csv.reader(stream)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, InvalidItem(f"{path}, line {line} is not CSV: {error}; check its quotes")
                continue
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                wrong = _wrong_header(header, path)
                if wrong is not None:
                    yield line, wrong
                    return
            elif len(cells) != len(header):
                came = f"{len(cells)} cells, but the header has {len(header)}"
                yield line, InvalidItem(f"{path}, line {line} has {came}; check its quotes")
            else:
                yield (
                    line,
                    {key: cell for key, cell in zip(header, cells, strict=True) if cell != ""} | {"": "csv"},
                )


def _wrong_header(header: list[str], path: Path) -> ItemError | None:
    if not {"image", "image_base64", "text"} & set(header):
        hints = ((column, nearest(column, COLUMNS)) for column in header)
        hint = next((f"; column {column!r}{told}" for column, told in hints if told), "")
        return InvalidItem(
            f"{path} has the columns {', '.join(header)}; one named image, image_base64 or text is needed{hint}"
        )
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        return InvalidItem(f"{path} has the column {repeated[0]!r} twice; rename one")
    return None


def _json_rows(path: Path, limits: Limits) -> Iterator[tuple[int, dict[str, Any] | ItemError]]:
    # base64 is a third longer than the bytes it stands for; the rest of the line is small beside it.
    longest = limits.max_bytes * 4 // 3 + 4 * limits.max_text + 2**20
    with path.open("rb") as stream:
        line = 0
        while data := stream.readline(longest):
            line += 1
            if len(data) == longest and not data.endswith(b"\n"):
                while data and not data.endswith(b"\n"):
                    data = stream.readline(longest)
                yield line, InvalidItem(f"{path}, line {line} is longer than {longest:,} bytes; split it")
                continue
            if not data.strip():
                continue
            try:
                row = json.loads(data.decode("utf-8-sig" if line == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                yield line, InvalidItem(f"{path}, line {line} is not a JSON object in UTF-8: {error}")
                continue
            if isinstance(row, dict):
                yield line, row
            else:
                message = f"{path}, line {line} is a {type(row).__name__}; each line is one object with image or text"
                yield line, InvalidItem(message)


def _item(row: dict[str, Any], *, folder: Path, name: str, where: str, limits: Limits) -> Read:
    from_csv = row.pop("", None) == "csv"
    given = row.pop("id", None)
    item_id = name if given is None else given
    if isinstance(item_id, int) and not isinstance(item_id, bool):
        item_id = str(item_id)
    if not isinstance(item_id, str) or not item_id.strip():
        return Broken(name, InvalidItem(f"{where}: id must be a text or a whole number, got {given!r}"))
    try:
        item_id.encode()
    except UnicodeEncodeError:
        return Broken(name, InvalidItem(f"{where}: the id is not UTF-8; save the table as UTF-8"))
    image, text, encoded = row.pop("image", None), row.pop("text", None), row.pop("image_base64", None)
    problem: ItemError | None = None
    source: ImageSource | None = None
    if image is not None:
        source, problem = _confined(image, folder=folder, where=where)
    if encoded is not None and problem is None:
        if image is not None:
            problem = InvalidItem(f"{where} has both image and image_base64; keep one")
        else:
            source, problem = _decoded(encoded, where=where)
    if text is not None and problem is None:
        text, problem = _text(text, where=where, limits=limits)
    if problem is None and source is None and text is None:
        problem = EmptyItem(f"{where} has neither image nor text; fill in one of them")
    metadata = _metadata(row, from_csv=from_csv, where=where)
    problem = problem or (metadata if isinstance(metadata, ItemError) else None)
    if problem is not None or isinstance(metadata, ItemError):
        return Broken(item_id, problem or InvalidItem(where))
    return Item(id=item_id, image=source, text=text, metadata=metadata)


def _text(text: object, *, where: str, limits: Limits) -> tuple[str | None, ItemError | None]:
    if not isinstance(text, str):
        return None, InvalidItem(f"{where}: text must be a text, got {type(text).__name__}")
    checked = checked_text(text.encode("utf-8", "surrogateescape"), where=f"{where}: text", limits=limits)
    return (None, checked) if isinstance(checked, ItemError) else (checked, None)


def _confined(image: object, *, folder: Path, where: str) -> tuple[Path | None, ItemError | None]:
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


def _decoded(encoded: object, *, where: str) -> tuple[bytes | None, ItemError | None]:
    if not isinstance(encoded, str):
        return None, InvalidItem(f"{where}: image_base64 must be a text, got {type(encoded).__name__}")
    try:
        return base64.b64decode(encoded, validate=True), None
    except (binascii.Error, ValueError) as error:
        return None, InvalidItem(f"{where}: image_base64 is not base64 ({error}); encode the file's bytes")


def _metadata(row: Mapping[str, Any], *, from_csv: bool, where: str) -> dict[str, MetadataValue] | ItemError:
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
