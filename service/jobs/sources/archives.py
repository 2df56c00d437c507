"""A zip or a tar as a source: its files by name, with the texts and metadata beside images, as in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from manyeyes.errors import InvalidSource, ItemError, by_code
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sources.beside import rows_of
from manyeyes.service.jobs.sources.entries import Entry, Shelf
from manyeyes.service.jobs.sources.places import Places
from manyeyes.service.jobs.sources.shelves import sorted_names
from manyeyes.service.jobs.sources.tars import TarShelf
from manyeyes.service.jobs.sources.zips import ZipShelf
from manyeyes.settings import Limits


def archive_rows(uri: str, places: Places, *, limits: Limits, skipped: Counter[str]) -> Iterator[Row]:
    """Yield the rows of an archive. Raises InvalidSource if it is none, and StorageFailed."""
    place = places.object(uri)
    lowered = uri.lower()
    if lowered.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise InvalidSource(
            f"{uri} is compressed as a whole, so that no member can be read by itself; images are compressed already:"
            " unpack it to a plain .tar, or to a folder"
        )
    if lowered.endswith(".zip"):
        shelf: Shelf = ZipShelf(place, skipped=skipped)
    elif lowered.endswith(".tar"):
        shelf = TarShelf(place, skipped=skipped)
    else:
        raise InvalidSource(f"{uri} is not named as an archive; archives end with .zip or .tar")
    yield from rows_of(_Sorted(shelf), limits=limits, skipped=skipped)


class _Sorted:
    """A shelf whose files come by name; in a temporary file, where they are many."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def entries(self) -> Iterator[Entry]:
        for line in sorted_names(_packed(entry) for entry in self._shelf.entries()):
            yield _unpacked(line)

    def read(self, entry: Entry, max_bytes: int) -> bytes | ItemError:
        return self._shelf.read(entry, max_bytes)


def _packed(entry: Entry) -> bytes:
    told = asdict(entry)
    told["problem"] = entry.problem and (entry.problem.code, str(entry.problem))
    key = entry.key.replace("\0", "\\0")
    # No JSON holds this byte, so whatever the key holds, the last of them ends it.
    return key.encode("utf-8", "backslashreplace") + b"\1" + json.dumps(told).encode()


def _unpacked(line: bytes) -> Entry:
    told = json.loads(line.rpartition(b"\1")[2])
    if told["problem"] is not None:
        code, message = told["problem"]
        told["problem"] = by_code()[code](message)
    return Entry(**told)
