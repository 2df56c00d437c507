"""Addresses of sources: what scheme they are of, whether they may be read, and what reads them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from manyeyes.errors import AddressRefused, InvalidSource, NotFound, StorageFailed, nearest
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.places.storage import Meta, Storage, opener, opener_of_environment

BUCKET_SCHEMES: Final = ("s3", "gs", "az", "memory")
WEB_SCHEMES: Final = ("http", "https")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_QUICK_S: Final = 5.0


def scheme_of(uri: str) -> str:
    """Return the scheme of an address in lower case; ``file`` of a plain path.

    >>> [scheme_of(uri) for uri in ("s3://photos/2026", "photos/2026", "file:///photos", "HTTPS://example.org/a")]
    ['s3', 'file', 'file', 'https']
    """
    matched = _SCHEME.match(uri)
    return matched[1].lower() if matched else "file"


def local_path(uri: str) -> bytes:
    """Return the absolute path that a ``file://`` address or a plain path names, as the bytes that the disk knows."""
    if _SCHEME.match(uri):
        host, slash, rest = uri.partition("://")[2].partition("/")
        if host not in ("", "localhost") or not slash:
            raise InvalidSource(f"{uri!r} names another machine; write file:///path, with three slashes")
        return os.path.abspath(unquote_to_bytes("/" + rest))
    return os.path.abspath(os.fsencode(Path(uri).expanduser()))


def file_uri(path: bytes) -> str:
    """Return the address of an absolute path. Any name has one: what is no UTF-8 is percent-encoded.

    >>> file_uri(b"/photos/a b.jpg")
    'file:///photos/a%20b.jpg'
    """
    return "file://" + quote(path, safe="/!$&'()*+,;=:@~-._")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one object is: in which storage, and its path there. quick: the same, which gives up within seconds."""

    storage: Storage
    quick: Storage
    path: str
    uri: str

    def head(self) -> Meta:
        """Return its size and etag. Raises InvalidSource if it is not there, and StorageFailed."""
        meta = self.quick.head(self.path)
        if meta is None:
            raise InvalidSource(f"nothing is at {self.uri}; check its spelling")
        return meta

    def read(self, start: int, length: int) -> bytes:
        """Return some of its bytes. Raises InvalidSource if it is gone, and StorageFailed."""
        try:
            return self.storage.get_range(self.path, start, length)
        except NotFound as error:
            raise InvalidSource(f"{self.uri} was deleted while it was listed; run the job again") from error


class Places:
    """Opens addresses. buckets: those of an operator, outside of which nothing is read then; this machine is not.

    Without, whoever runs the job is trusted: folders of this machine, and buckets with the credentials of the
    environment. Threads may share it.
    """

    def __init__(self, buckets: Buckets | None = None) -> None:
        self.buckets = buckets
        self._stores: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def is_restricted(self) -> bool:
        """Whether somebody else than the operator named the addresses."""
        return self.buckets is not None

    def check(self, uri: str) -> str:
        """Return the scheme of an address that may be read as a source, as far as that is known without asking.

        Raises InvalidSource, or AddressRefused.
        """
        scheme = scheme_of(uri)
        known = (*BUCKET_SCHEMES[:3], "file", *WEB_SCHEMES)
        if scheme not in known and scheme != "memory":
            raise InvalidSource(
                f"{uri!r} cannot be read; sources are {', '.join(f'{one}://' for one in known)} or a path"
                + nearest(scheme, known)
            )
        if scheme == "file" and self.is_restricted:
            raise AddressRefused(
                f"{uri!r} is a file of the service's machine; over HTTP, name a bucket that its operator lists"
            )
        return scheme

    def folder(self, uri: str) -> Storage:
        """Return the storage of a bucket's prefix. Raises InvalidSource, AddressRefused or StorageFailed."""
        self.check(uri)
        return Storage.open(uri, buckets=self.buckets)

    def object(self, uri: str) -> Place:
        """Return where one object or file is. Raises InvalidSource, AddressRefused or StorageFailed."""
        if self.check(uri) == "file":
            path = os.fsdecode(local_path(uri))
            folder = Storage.open(os.path.dirname(path))
            return Place(folder, folder, os.path.basename(path), file_uri(os.fsencode(path)))
        head, _, name = uri.rpartition("/")
        if not name or head.endswith("/"):
            raise InvalidSource(f"{uri!r} names no object; write bucket and key, such as s3://photos/all.zip")
        if self.buckets is not None:
            self.buckets.find(uri)
        quick = Storage.open(head, buckets=self.buckets, patience_s=_QUICK_S)
        return Place(Storage.open(head, buckets=self.buckets), quick, name, uri)

    def store(self, uri: str) -> tuple[Any, str]:
        """Return obstore's store of an object in a bucket, which tries nothing twice, and the object's key.

        Raises AddressRefused.
        """
        if self.buckets is not None:
            bucket, key = self.buckets.find(uri)
            root = bucket.root
        else:
            scheme, _, rest = uri.partition("://")
            name, _, key = rest.partition("/")
            root = f"{scheme}://{name}/"
            if scheme not in BUCKET_SCHEMES or not name or not key:
                raise AddressRefused(f"{uri!r} is not the address of an object, such as s3://bucket/a.jpg")
            bucket = None
        with self._lock:
            if root not in self._stores:
                opened = opener_of_environment(root) if bucket is None else opener(bucket, "")
                self._stores[root] = opened({"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
            return self._stores[root], key


def listed(storage: Storage, uri: str) -> Iterator[Meta]:
    """Yield what a bucket's prefix holds, a page at a time. Raises StorageFailed, in seconds if nothing answers."""
    try:
        storage.check()
        yield from storage.list("")
    except StorageFailed as error:
        if "InvalidPathError" in str(error):
            raise InvalidSource(
                f"below {uri} is a key with an empty part (`a//b`), a part `.` or `..`, or a control character, which"
                " cannot be listed. Rename it, or name prefixes beside it"
            ) from error
        raise
