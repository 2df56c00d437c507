"""What a row's bytes are read with: a file, an object, a part of an archive or a table, an address on the web."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import obstore
from obstore import exceptions

from manyeyes.errors import (
    AddressRefused,
    FetchFailed,
    ImageTooLarge,
    ItemError,
    SourceChanged,
    SourceNotFound,
    UnreadableItem,
)
from manyeyes.primitives.images import read_file
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sources.places import WEB_SCHEMES, Places, local_path, scheme_of
from manyeyes.service.jobs.sources.shelves import file_etag
from manyeyes.settings import Limits

log: Final = logging.getLogger("manyeyes.service.jobs")

_FILES_TOGETHER: Final = 32
_BYTES_TOGETHER: Final = 4 * 2**20
_GAP_BYTES: Final = 64 * 2**10
_UNKNOWN_BYTES: Final = 2**20
_STATUS: Final = re.compile(r"status(?: code)?:? ?(\d{3})")
_CHANGED: Final = "changed while the job ran; run the job again, which lists it anew"


class PassingFailure(FetchFailed):
    """A failure that may have passed at the next try. Nobody outside of jobs meets it: it becomes a FetchFailed."""


class Reader:
    """Reads rows, each once: trying again is not its business. Threads share it."""

    def __init__(self, *, buckets: Buckets | None, web: FetchSettings | None, limits: Limits) -> None:
        self._places = Places(buckets)
        self._limits = limits
        self._web_settings = web

    def close(self) -> None:
        """Let go of connections and files."""

    def units(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Yield positions of rows that are best read at once: small files, neighbours in an archive; else one."""
        unit: list[int] = []
        n_bytes = 0
        for position, row in enumerate(rows):
            joins = bool(unit) and self._joins(rows[unit[-1]], row)
            if unit and (not joins or len(unit) >= _FILES_TOGETHER or n_bytes >= _BYTES_TOGETHER):
                yield unit
                unit, n_bytes = [], 0
            unit.append(position)
            n_bytes += row.size if row.size is not None else _UNKNOWN_BYTES
        if unit:
            yield unit

    def is_in_turn(self, row: Row) -> bool:
        """Whether a row is read fastest after the one before it, by the same thread."""
        del row
        return False

    def n_bytes(self, rows: Sequence[Row]) -> int:
        """Return how many bytes rows may take."""
        sizes = (row.size if row.size is not None else _UNKNOWN_BYTES for row in rows)
        return sum(min(size, self._limits.max_bytes) for size in sizes)

    def read(self, row: Row) -> bytes:
        """Return the bytes of a row. Raises an ItemError; PassingFailure where trying again may help."""
        uri = row.uri or ""
        if row.size is not None and row.size > self._limits.max_bytes:
            raise ImageTooLarge(
                f"the file has {row.size:,} bytes; at most {self._limits.max_bytes:,} are read"
            )
        scheme = scheme_of(uri)
        if scheme == "file":
            return self._file(row)
        if scheme in WEB_SCHEMES:
            raise AddressRefused("addresses on the web are not read yet")
        if row.offset is not None and row.length is not None:
            return self._object(row, row.offset, row.length)
        return self._object(row, None, None)

    def read_together(self, rows: Sequence[Row]) -> list[bytes | ItemError] | None:
        """Return the bytes of the rows of a unit, or None where each is to be read alone. Raises as ``read`` does."""
        if scheme_of(rows[0].uri or "") != "file":
            return None
        found: list[bytes | ItemError] = []
        for row in rows:
            try:
                found.append(self.read(row))
            except ItemError as error:
                found.append(error)
        return found

    def _joins(self, one: Row, other: Row) -> bool:
        return all(
            row.error is None and row.uri is not None and row.uri.startswith("file://")
            for row in (one, other)
        )

    def _file(self, row: Row) -> bytes:
        if self._places.is_restricted:
            raise AddressRefused("files of the service's machine are not read for callers")
        path = os.fsdecode(local_path(row.uri or ""))
        data, told = read_file(path, self._limits)
        if row.etag is not None and row.etag != file_etag(told):
            raise SourceChanged(f"the file {_CHANGED}")
        return data

    def _object(self, row: Row, offset: int | None, length: int | None) -> bytes:
        store, key = self._places.store(row.uri or "")
        options: Any = {"range": (offset, offset + length)} if offset is not None and length else {}
        try:
            got = obstore.get(store, key, options=options)
            meta = got.meta
            if row.etag is not None and meta["e_tag"] not in (row.etag, None):
                raise SourceChanged(f"the object {_CHANGED}")
            wanted = meta["size"] if length is None else length
            if wanted > self._limits.max_bytes:
                raise ImageTooLarge(
                    f"the object has {wanted:,} bytes; at most {self._limits.max_bytes:,} are read"
                )
            if length is None and row.size is not None and row.size != wanted:
                raise SourceChanged(f"the object {_CHANGED}")
            data = got.bytes().to_bytes()
        except ItemError:
            raise
        except (FileNotFoundError, exceptions.NotFoundError) as error:
            raise SourceNotFound(
                "no such object is in the bucket; it was there when it was listed"
            ) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise AddressRefused(
                "the bucket does not let the object be read (403); check credentials and policy"
            ) from error
        except exceptions.InvalidPathError as error:
            raise UnreadableItem("the object's key cannot be read; rename it") from error
        except exceptions.BaseError as error:
            raise _told(error) from error
        if len(data) != wanted:
            raise PassingFailure(f"the object ended after {len(data):,} of {wanted:,} bytes")
        return data


def _told(error: Exception) -> ItemError:
    """Return what a store's failure is to a row. Not its text, which may name machines and accounts."""
    matched = _STATUS.search(str(error))
    status = int(matched[1]) if matched else None
    message = f"the object cannot be read: {f'status {status}' if status else type(error).__name__}"
    if status is not None and 400 <= status < 500 and status not in (408, 409, 425, 429):
        return FetchFailed(message) if status != 403 else AddressRefused(message)
    return PassingFailure(message)
