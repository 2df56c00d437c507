"""Lists of addresses: a text file with one a line, or a JSONL with one, or an object with one, a line.

The list itself lies on this machine, in a bucket, or on the web. What it names is on the web or in buckets; a path of
this machine is refused, since such lists are often made by others.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, Final

from manyeyes.errors import AddressRefused, InvalidItem, InvalidSource, ItemError
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sources.beside import as_json
from manyeyes.service.jobs.sources.named import Finder
from manyeyes.service.jobs.sources.places import WEB_SCHEMES, Places, scheme_of
from manyeyes.service.jobs.sources.streams import Lines, RangeFile
from manyeyes.service.jobs.sources.tables import table_row
from manyeyes.service.jobs.sources.web import WebReader
from manyeyes.settings import Limits
from manyeyes.sources import Broken
from manyeyes.tables import read_cells

MAX_LIST_BYTES: Final = 256 * 2**20
"""Of a list that is fetched from the web, which is held in memory."""
_LONGEST: Final = 2**20
_KEYS: Final = ("image", "url", "uri")


def address_rows(uri: str, places: Places, web: WebReader, *, limits: Limits) -> Iterator[Row]:
    """Yield a row for each address. An id is the address itself, where an object says no other.

    Raises InvalidSource if the list cannot be read, and StorageFailed.
    """
    finder = Finder(None, places)
    lines = Lines(io.BufferedReader(_opened(uri, places, web), 2**20), longest=_LONGEST)
    name = uri.partition("?")[0].rpartition("/")[2]
    n = 0
    while data := lines.readline():
        n += 1
        where = f"{name}, line {n}"
        is_cut = len(data) == _LONGEST and not data.endswith(b"\n")
        while is_cut and data and not data.endswith(b"\n"):
            data = lines.readline()
        if is_cut:
            error = InvalidItem(f"{where} is longer than {_LONGEST:,} bytes, so it is no address")
            yield Row(f"{name}#{n}", error=(error.code, str(error)))
            continue
        try:
            line = data.decode("utf-8-sig" if n == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            error = InvalidItem(f"{where} is not UTF-8; save the list as UTF-8")
            yield Row(f"{name}#{n}", error=(error.code, str(error)))
            continue
        if line and not line.startswith("#"):
            yield _row(line, finder, name=f"{name}#{n}", where=where, limits=limits)


def _row(line: str, finder: Finder, *, name: str, where: str, limits: Limits) -> Row:
    told: Any = line
    if line.startswith(("{", '"')):
        try:
            told = json.loads(line)
        except (ValueError, RecursionError) as error:
            wrong = InvalidItem(f"{where} is neither an address nor JSON: {error}")
            return Row(name, error=(wrong.code, str(wrong)))
    if isinstance(told, dict):
        key = next((one for one in _KEYS if told.get(one) is not None), "image")
        if told.get("id") is None and isinstance(told.get(key), str):
            told["id"] = told[key]
        cells = read_cells(told, name=name, where=where, limits=limits, columns={"image": key})
        if not isinstance(cells, Broken) and cells.encoded is not None:
            cells = Broken(cells.id, InvalidItem(f"{where}: a list holds addresses; bytes go into a table"))
        return table_row(cells, finder, where=where)
    found = finder.find(told, where=where)
    if isinstance(found, ItemError):
        return Row(told if isinstance(told, str) and told else name, error=(found.code, str(found)))
    return Row(str(told).strip(), uri=found.uri, metadata=as_json({}))


def _opened(uri: str, places: Places, web: WebReader) -> io.RawIOBase:
    if scheme_of(uri) not in WEB_SCHEMES:
        return RangeFile(places.object(uri))
    try:
        return io.BytesIO(web.get(uri, max_bytes=MAX_LIST_BYTES))  # type: ignore[return-value]
    except AddressRefused:
        raise
    except ItemError as error:
        raise InvalidSource(f"the list at {uri.partition('?')[0]} cannot be fetched: {error}") from error
