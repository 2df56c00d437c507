"""What a source is, told from its address, and what lists it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from manyeyes.errors import InvalidSource
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.shapes import Row, Source, SourceKind
from manyeyes.service.jobs.sources.addresses import address_rows
from manyeyes.service.jobs.sources.archives import archive_rows
from manyeyes.service.jobs.sources.beside import rows_of
from manyeyes.service.jobs.sources.entries import Entry, Shelf
from manyeyes.service.jobs.sources.joining import joined
from manyeyes.service.jobs.sources.places import WEB_SCHEMES, Places, file_uri, local_path, scheme_of
from manyeyes.service.jobs.sources.shelves import BucketShelf, FolderShelf
from manyeyes.service.jobs.sources.tables import table_rows
from manyeyes.service.jobs.sources.web import WebReader, settings_for
from manyeyes.service.jobs.sources.webdataset import webdataset_rows
from manyeyes.settings import Limits
from manyeyes.sources import IMAGE_SUFFIXES

_KINDS: Final[Mapping[str, SourceKind]] = {
    ".parquet": "table",
    ".csv": "table",
    ".jsonl": "table",
    ".zip": "archive",
    ".tar": "archive",
    ".txt": "manifest",
}


class Opened:
    """A listing of one kind. rows_of: lists it; called anew for each ``rows``."""

    def __init__(self, uri: str, list_rows: Callable[[Counter[str]], Iterator[Row]]) -> None:
        self.uri = uri
        self.skipped: Counter[str] = Counter()
        self._list_rows = list_rows

    def rows(self) -> Iterator[Row]:
        """Yield every row. Raises InvalidSource if there is none."""
        self.skipped.clear()
        is_empty = True
        for row in self._list_rows(self.skipped):
            is_empty = False
            yield row
        if is_empty:
            found = ", ".join(f"{n:,} × {why}" for why, n in self.skipped.most_common(5))
            raise InvalidSource(
                f"{self.uri} holds nothing that can be labeled; "
                + (
                    f"passed over: {found}. Images and .txt files are read"
                    if found
                    else "it is empty, or not there"
                )
            )


def open_listing(
    source: Source, *, buckets: Buckets | None, limits: Limits, web: FetchSettings | None
) -> Opened:
    """See ``open_source``."""
    places = Places(buckets)
    places.check(source.uri)
    kind = source.kind if source.kind != "auto" else kind_of(source.uri)
    uri = source.uri
    if scheme_of(uri) in WEB_SCHEMES and kind != "manifest":
        raise InvalidSource(
            f"{uri.partition('?')[0]} is read as a list of addresses only (.txt or .jsonl); name a bucket, or copy it"
        )
    if scheme_of(uri) == "file":
        uri = file_uri(local_path(uri))

    def rows(skipped: Counter[str]) -> Iterator[Row]:
        found = _rows(source, kind, uri, places, limits, skipped, web)
        if source.join is None:
            return found
        return joined(found, source.join, places, limits=limits, skipped=skipped)

    return Opened(uri, rows)


def _rows(
    source: Source,
    kind: SourceKind,
    uri: str,
    places: Places,
    limits: Limits,
    skipped: Counter[str],
    web: FetchSettings | None,
) -> Iterator[Row]:
    if kind == "objects":
        return _objects(source, uri, places, limits, skipped)
    if kind == "archive":
        return archive_rows(uri, places, limits=limits, skipped=skipped)
    if kind == "webdataset":
        return webdataset_rows(source.uri, places, limits=limits, skipped=skipped)
    if kind == "table":
        return table_rows(source.uri, source.columns, places, limits=limits, skipped=skipped)
    return _addresses(uri, places, web, limits)


def kind_of(uri: str) -> SourceKind:
    """Return what kind of source an address is of, where that is not said.

    >>> [kind_of(uri) for uri in ("s3://b/photos", "s3://b/t.PARQUET", "s3://b/s-{00..99}.tar", "photos.zip")]
    ['objects', 'table', 'webdataset', 'archive']
    """
    suffix = os.path.splitext(uri.lower().partition("?")[0])[1]
    if scheme_of(uri) in WEB_SCHEMES and suffix == ".jsonl":
        return "manifest"
    if suffix == ".tar" and any(letter in uri for letter in "{*"):
        return "webdataset"
    return _KINDS.get(suffix, "objects")


def _objects(
    source: Source, uri: str, places: Places, limits: Limits, skipped: Counter[str]
) -> Iterator[Row]:
    shelf: Shelf
    if scheme_of(uri) == "file":
        if os.path.isfile(local_path(uri)):
            shelf = _One(places, uri)
        else:
            shelf = FolderShelf(local_path(uri), recursive=source.recursive, skipped=skipped)
        yield from rows_of(shelf, limits=limits, skipped=skipped, threads=1)
        return
    if os.path.splitext(uri.lower())[1] in IMAGE_SUFFIXES:
        shelf = _One(places, uri)
    else:
        shelf = BucketShelf(places.folder(uri), uri, recursive=source.recursive, skipped=skipped)
    yield from rows_of(shelf, limits=limits, skipped=skipped)


def _addresses(uri: str, places: Places, web: FetchSettings | None, limits: Limits) -> Iterator[Row]:
    reader = WebReader(settings_for(places, web))
    try:
        yield from address_rows(uri, places, reader, limits=limits)
    finally:
        reader.close()


class _One:
    """A single image that was named itself."""

    def __init__(self, places: Places, uri: str) -> None:
        self._place = places.object(uri)

    def entries(self) -> Iterator[Entry]:
        meta = self._place.head()
        yield Entry(self._place.path, self._place.uri, meta.size, meta.etag)

    def read(self, entry: Entry, max_bytes: int) -> bytes:
        return self._place.read(0, max_bytes)
