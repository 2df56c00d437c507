"""What a table or a list calls an image: an address, or a path that starts from the table's folder and stays in it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from manyeyes.errors import AddressRefused, InvalidItem, ItemError, UnreadableItem
from manyeyes.service.fetching.urls import parse_url
from manyeyes.service.jobs.sources.places import (
    BUCKET_SCHEMES,
    WEB_SCHEMES,
    Places,
    file_uri,
    local_path,
    scheme_of,
)
from manyeyes.service.jobs.sources.shelves import file_etag

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Located:
    """Where an image is; size and etag as far as they are known without asking a store."""

    uri: str
    size: int | None = None
    etag: str | None = None


class Finder:
    """Finds images that are named in one place.

    folder: the address of the folder that relative paths start from; None where there are none, as in a list from the
    web. places: says what may be read.
    """

    def __init__(self, folder: str | None, places: Places) -> None:
        self._places = places
        self._folder = folder.rstrip("/") if folder is not None else None
        self._inside: bytes | None = None
        if self._folder is not None and scheme_of(self._folder) == "file":
            self._inside = os.path.realpath(local_path(self._folder))

    def find(self, told: object, *, where: str) -> Located | ItemError:
        """Return where an image is, or why it may not be read. where: how messages call the row."""
        if not isinstance(told, str) or not told.strip() or _CONTROL.search(told):
            return InvalidItem(f"{where}: image must be an address or a path, got {told!r}"[:300])
        told = told.strip()
        try:
            if _ADDRESS.match(told):
                return self._address(told, where)
            return self._path(told, where)
        except ItemError as error:
            return type(error)(f"{where}: {error}")

    def _address(self, told: str, where: str) -> Located | ItemError:
        scheme = scheme_of(told)
        if scheme in WEB_SCHEMES:
            parse_url(told)
            return Located(told)
        if scheme in BUCKET_SCHEMES:
            if self._places.buckets is not None:
                self._places.buckets.find(told)
            elif any(part in ("", ".", "..") for part in told.partition("://")[2].split("/")) or (
                "/" not in told.partition("://")[2]
            ):
                return InvalidItem(
                    f"{where}: {told!r} is not the address of an object, as s3://bucket/a.jpg is"
                )
            return Located(told)
        if scheme == "file" and self._inside is not None and not self._places.is_restricted:
            return self._file(local_path(told), told, where)
        return AddressRefused(
            f"{where}: {told!r} is not read; write https://, s3://, gs://, az://, or a path beside the table"
        )

    def _path(self, told: str, where: str) -> Located | ItemError:
        if self._folder is None:
            return InvalidItem(f"{where}: {told!r} is no address; write https://…, s3://…, gs://… or az://…")
        if self._inside is not None:
            return self._file(os.path.join(self._inside, os.fsencode(told)), told, where)
        parts = told.removeprefix("./").split("/")
        if "\\" in told or any(part in ("", ".", "..") for part in parts):
            return UnreadableItem(
                f"{where}: image {told!r} leads out of the table's folder, or is no key; write a path below it"
            )
        return Located(f"{self._folder}/{'/'.join(parts)}")

    def _file(self, path: bytes, told: str, where: str) -> Located | ItemError:
        assert self._inside is not None
        real = os.path.realpath(path)
        if os.path.commonpath([real, self._inside]) != self._inside:
            return UnreadableItem(
                f"{where}: image {told!r} lies outside the table's folder; move it there, or the table up"
            )
        try:
            status = os.stat(real)
        except OSError as error:
            return UnreadableItem(f"{where}: image {told!r} cannot be read: {error.strerror}")
        return Located(file_uri(real), status.st_size, file_etag(status))
