"""What a row's bytes are read with: a file, an object, a part of an archive or a table, an address on the web."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import obstore
from obstore import exceptions

from manyeyes.errors import (
    AddressRefused,
    FetchFailed,
    ImageTooLarge,
    InvalidSource,
    ItemError,
    SourceChanged,
    SourceNotFound,
    StorageFailed,
    UnreadableItem,
)
from manyeyes.primitives.images import read_file
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sources.named import Finder
from manyeyes.service.jobs.sources.parquet import ParquetImages
from manyeyes.service.jobs.sources.places import WEB_SCHEMES, Places, local_path, scheme_of
from manyeyes.service.jobs.sources.shelves import file_etag
from manyeyes.service.jobs.sources.web import WebReader, settings_for
from manyeyes.service.jobs.sources.zips import member_bytes
from manyeyes.settings import Limits

_TOGETHER: Final = 32
_BYTES_TOGETHER: Final = 4 * 2**20
# Between two members of a tar there is a header; more than this is rather left out than read.
_GAP_BYTES: Final = 64 * 2**10
_UNKNOWN_BYTES: Final = 2**20
_STATUS: Final = re.compile(r"status(?: code)?:? ?(\d{3})")
_PASSING: Final = (408, 409, 425, 429)
_CHANGED: Final = "changed while the job ran; run the job again, which lists it anew"


class PassingFailure(Exception):
    """A failure that may have passed at the next try. Nobody outside of jobs meets it: it becomes a FetchFailed."""


class Reader:
    """Reads rows, each once: trying again is not its business. Threads share it.

    buckets, web: those of an operator; without buckets, whoever runs the job here may read all that they can.
    """

    def __init__(self, *, buckets: Buckets | None, web: FetchSettings | None, limits: Limits) -> None:
        self._places = Places(buckets)
        self._limits = limits
        self._web_settings = web
        self._lock = threading.Lock()
        self._web: WebReader | None = None
        self._tables = ParquetImages(self._places)
        self._turn = threading.Lock()

    def close(self) -> None:
        """Let go of connections."""
        with self._lock:
            web, self._web = self._web, None
        if web is not None:
            web.close()

    def units(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Yield positions of rows that are best read at once: small files, neighbours in an archive; else one."""
        unit: list[int] = []
        n_bytes = 0
        for position, row in enumerate(rows):
            joins = bool(unit) and _joins(rows[unit[-1]], row)
            if unit and (not joins or len(unit) >= _TOGETHER or n_bytes >= _BYTES_TOGETHER):
                yield unit
                unit, n_bytes = [], 0
            unit.append(position)
            n_bytes += row.size if row.size is not None else _UNKNOWN_BYTES
        if unit:
            yield unit

    def is_in_turn(self, row: Row) -> bool:
        """Whether a row is read fastest after the one before it, by the same thread."""
        return _suffix(row) == ".parquet"

    def n_bytes(self, rows: Sequence[Row]) -> int:
        """Return how many bytes rows may take."""
        sizes = (row.size if row.size is not None else _UNKNOWN_BYTES for row in rows)
        return sum(min(size, self._limits.max_bytes) for size in sizes)

    def read(self, row: Row) -> bytes:
        """Return the bytes of a row. Raises an ItemError; PassingFailure where trying again may help."""
        self._check_size(row.size)
        try:
            return self._read(row)
        except ItemError:
            raise
        except StorageFailed as error:
            raise PassingFailure(str(error)) from error
        except InvalidSource as error:  # what was an archive or a table when it was listed is none now
            raise UnreadableItem(str(error)) from error

    def read_together(self, rows: Sequence[Row]) -> list[bytes | ItemError] | None:
        """Return the bytes of the rows of a unit, or None where each is to be read alone. Raises as ``read`` does."""
        first, last = rows[0], rows[-1]
        if first.member is None:
            found: list[bytes | ItemError] = []
            for row in rows:
                try:
                    found.append(self.read(row))
                except ItemError as error:
                    found.append(error)
            return found
        start = first.offset or 0
        data = self._range(first, start, (last.offset or 0) + (last.length or 0) - start)
        return [
            data[(row.offset or 0) - start : (row.offset or 0) - start + (row.length or 0)] for row in rows
        ]

    def _read(self, row: Row) -> bytes:
        uri = row.uri or ""
        scheme = scheme_of(uri)
        if scheme == "file" and self._places.is_restricted:
            raise AddressRefused("files of the service's machine are not read for callers")
        if scheme in WEB_SCHEMES:
            return self._address(uri)
        if row.member is None:
            return self._file(row) if scheme == "file" else self._object(row, None, None)
        suffix = _suffix(row)
        if suffix == ".parquet":
            return self._cell(row)
        start, length = row.offset or 0, row.length or 0
        data = self._range(row, start, length)
        if suffix == ".zip":
            return member_bytes(
                data, row.size or 0, self._limits.max_bytes, lambda at, n: self._range(row, start + at, n)
            )
        return _decoded(row, data) if suffix in (".csv", ".jsonl") else data

    def _check_size(self, size: int | None) -> None:
        if size is not None and size > self._limits.max_bytes:
            raise ImageTooLarge(f"the file has {size:,} bytes; at most {self._limits.max_bytes:,} are read")

    def _address(self, url: str) -> bytes:
        with self._lock:
            if self._web is None:
                self._web = WebReader(settings_for(self._places, self._web_settings))
            web = self._web
        try:
            return web.get(url, max_bytes=self._limits.max_bytes)
        except FetchFailed as error:
            matched = _STATUS.search(str(error))
            if matched and 400 <= int(matched[1]) < 500 and int(matched[1]) not in _PASSING:
                raise
            raise PassingFailure(str(error)) from error

    def _cell(self, row: Row) -> bytes:
        import pyarrow as pa

        uri = row.uri or ""
        with self._turn:
            try:
                found = self._tables.read(uri, row.member or "", row.etag)
            except (pa.ArrowException, OSError, ValueError) as error:
                if isinstance(error, (ItemError, InvalidSource, StorageFailed)):
                    raise
                raise UnreadableItem(f"the table is damaged ({error}); write it anew") from error
        if isinstance(found, bytes):
            self._check_size(len(found))
            return found
        located = Finder(uri.rpartition("/")[0], self._places).find(found, where="the table")
        if isinstance(located, ItemError):
            raise located
        return self.read(Row(row.id, uri=located.uri))

    def _file(self, row: Row) -> bytes:
        path = os.fsdecode(local_path(row.uri or ""))
        data, told = read_file(path, self._limits)
        if row.etag is not None and row.etag != file_etag(told):
            raise SourceChanged(f"the file {_CHANGED}")
        return data

    def _range(self, row: Row, start: int, length: int) -> bytes:
        if scheme_of(row.uri or "") != "file":
            return self._object(row, start, length)
        if self._places.is_restricted:
            raise AddressRefused("files of the service's machine are not read for callers")
        path = local_path(row.uri or "")
        try:
            with open(path, "rb", buffering=0) as file:
                if row.etag is not None and row.etag != file_etag(os.fstat(file.fileno())):
                    raise SourceChanged(f"the archive {_CHANGED}")
                data = os.pread(file.fileno(), length, start)
        except FileNotFoundError as error:
            raise SourceNotFound(f"the archive {os.fsdecode(path)!r} is gone; put it back") from error
        except OSError as error:
            raise UnreadableItem(
                f"the archive {os.fsdecode(path)!r} cannot be read: {error.strerror}"
            ) from error
        if len(data) != length:
            raise UnreadableItem("the archive ends before the member does; make it anew")
        return data

    def _object(self, row: Row, start: int | None, length: int | None) -> bytes:
        store, key = self._places.store(row.uri or "")
        if length == 0:
            return b""
        options: Any = {"range": (start, start + length)} if start is not None and length is not None else {}
        try:
            got = obstore.get(store, key, options=options)
            meta = got.meta
            if row.etag is not None and meta["e_tag"] is not None and _bare(meta["e_tag"]) != _bare(row.etag):
                raise SourceChanged(f"the object {_CHANGED}")
            wanted = meta["size"] if length is None else length
            if length is None:
                # Known before any of it is read.
                self._check_size(wanted)
                if row.size is not None and row.size != wanted:
                    raise SourceChanged(f"the object {_CHANGED}")
            data: bytes = got.bytes().to_bytes()
        except ItemError:
            raise
        except Exception as error:
            raise _told(error) from error
        if len(data) != wanted:
            raise PassingFailure(f"the object ended after {len(data):,} of {wanted:,} bytes")
        return data


def _bare(etag: str) -> str:
    """Return an etag without its quotes, which Azure's listings leave out and its answers do not."""
    return etag.removeprefix("W/").strip('"')


def _joins(one: Row, other: Row) -> bool:
    """Whether two rows are read at once: two files, or two members of one tar that are close to each other."""
    if one.uri is None or other.uri is None or one.error is not None or other.error is not None:
        return False
    if one.member is None and other.member is None:
        return one.uri.startswith("file://") and other.uri.startswith("file://")
    if (
        one.uri != other.uri
        or one.etag != other.etag
        or _suffix(one) in (".zip", ".parquet", ".csv", ".jsonl")
    ):
        return False
    if None in (one.offset, one.length, other.offset, other.length):
        return False
    gap = (other.offset or 0) - (one.offset or 0) - (one.length or 0)
    return 0 <= gap <= _GAP_BYTES and (other.length or 0) <= _BYTES_TOGETHER


def _suffix(row: Row) -> str:
    """Return what holds a member: what the address of an archive or a table ends with."""
    return os.path.splitext(row.uri or "")[1].lower() if row.member is not None else ""


def _decoded(row: Row, data: bytes) -> bytes:
    """Return the image that stands as base64 in one record of a table."""
    column = (row.member or "").partition(":")[2]
    try:
        if _suffix(row) == ".csv":
            text = data.decode("utf-8-sig", "surrogateescape")
            cell = next(cells for cells in csv.reader(io.StringIO(text, newline="")) if cells)[int(column)]
        else:
            cell = json.loads(data.decode("utf-8-sig"))[column]
        return base64.b64decode(cell, validate=True)
    except (ValueError, KeyError, IndexError, StopIteration, csv.Error) as error:
        raise UnreadableItem("the table is not what it was when it was listed; run the job again") from error


def _told(error: Exception) -> ItemError | PassingFailure:
    """Return what a store's failure is to a row. Not its text, which may name machines and accounts."""
    if isinstance(error, (FileNotFoundError, exceptions.NotFoundError)):
        return SourceNotFound("nothing of that name is in the bucket, or no more")
    matched = _STATUS.search(str(error))
    status = int(matched[1]) if matched else None
    if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)):
        return AddressRefused(
            "the bucket does not let it be read; check the credentials and the bucket's policy"
        )
    if isinstance(error, exceptions.InvalidPathError):
        return UnreadableItem("its key has parts that cannot be read; rename it")
    message = f"the object cannot be read: {f'status {status}' if status else type(error).__name__}"
    if status is not None and 300 <= status < 500 and status not in _PASSING:
        return FetchFailed(message)
    return PassingFailure(message)
