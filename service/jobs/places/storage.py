"""The place that a job reads from or writes to: a folder or a bucket's prefix, with the same few verbs for both."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

from obstore.store import MemoryStore

from manyeyes.errors import InvalidRequest, NotPermitted, nearest
from manyeyes.service.fetching.buckets import Bucket, Buckets, open_bucket
from manyeyes.service.jobs.places.bucket import BucketPlace
from manyeyes.service.jobs.places.folder import Folder
from manyeyes.service.jobs.places.objects import Meta, Place

__all__ = ["Meta", "Storage"]

PATIENCE_S: Final = 120.0
"""How long a call is tried again: longer than the short outages that buckets have, shorter than anybody waits."""
_SPOOL_BYTES: Final = 16 * 2**20
_SCHEMES: Final = ("s3", "gs", "az", "file", "memory")

_memories: Final[dict[str, MemoryStore]] = {}
_memories_lock: Final = threading.Lock()


class Storage:
    """Objects below one place. Threads may share it; pickled, it opens itself again where it arrives.

    uri: its address, without a slash at its end; of a folder its absolute path. local: the folder, if it is one.

    Calls to a bucket are tried again for up to two minutes, with jittered back-off, where that may help. Every method
    raises StorageFailed where it does not, and StorageFull where there is no room; what they say tells what to do and
    holds no secret.

    >>> place = Storage.open("memory://example")
    >>> place.create("a/b.txt", b"1"), place.create("a/b.txt", b"2"), place.get("a/b.txt")
    (True, False, b'1')
    >>> [meta.path for meta in place.list("a/")]
    ['a/b.txt']
    """

    def __init__(
        self, uri: str, place: Place, *, buckets: Buckets | None, patience_s: float, writable: bool
    ) -> None:
        self.uri = uri
        self.local = place.root if isinstance(place, Folder) else None
        self._place = place
        self._buckets = buckets
        self._patience_s = patience_s
        self._writable = writable

    @classmethod
    def open(cls, uri: str, *, buckets: Buckets | None = None, patience_s: float = PATIENCE_S) -> Storage:
        """Open ``s3://``, ``gs://``, ``az://``, ``file://``, a path, or ``memory://`` (of this process, for tests).

        buckets: those of an operator. Then it must be in one of them, and is written to only where that one allows it;
        without, credentials come from the environment (``AWS_…``, ``GOOGLE_…``, ``AZURE_…``). Nothing is asked yet.
        Raises InvalidRequest if it is no such address, AddressRefused if it is in none of the operator's buckets.
        """
        uri = os.fspath(uri)
        if buckets is not None:
            bucket, key = buckets.place(uri)
            place: Place = BucketPlace(uri.rstrip("/"), opener(bucket, key), patience_s=patience_s)
            return cls(uri.rstrip("/"), place, buckets=buckets, patience_s=patience_s, writable=bucket.write)
        scheme, found, rest = uri.partition("://")
        if not found or scheme == "file":
            root = Path(unquote(urlsplit(uri).path) if found else uri).expanduser().absolute()
            return cls(str(root), Folder(root), buckets=None, patience_s=patience_s, writable=True)
        if scheme not in _SCHEMES:
            raise InvalidRequest(
                f"{scheme}:// is not a place for objects; use a path or {', '.join(f'{one}://' for one in _SCHEMES)}"
                + nearest(scheme, _SCHEMES)
            )
        if not rest.strip("/"):
            raise InvalidRequest(
                f"{uri!r} names no bucket; write it as {scheme}://bucket or {scheme}://bucket/folder"
            )
        uri = uri.rstrip("/")
        place = BucketPlace(uri, opener_of_environment(uri), patience_s=patience_s)
        return cls(uri, place, buckets=None, patience_s=patience_s, writable=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process opens it with: names of variables, no secret."""
        if self.uri.startswith("memory://"):
            raise TypeError(
                f"{self.uri} is in this process's memory; another process needs a folder or a bucket"
            )
        return _reopen, (self.uri, self._buckets, self._patience_s)

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def hurry(self, stop: threading.Event) -> None:
        """Wait for no outage any more once an event is set; calls that are waiting end within seconds, too."""
        if isinstance(self._place, BucketPlace):
            self._place.stop = stop

    def check(self, *, write: bool = False) -> None:
        """Find out in seconds whether it can be listed, and, with ``write``, written to as a job needs it.

        Raises StorageFailed: no such bucket, wrong credentials, no answer, or a store that cannot create conditionally.
        """
        if write:
            self._may_write()
        self._place.check(write=write)

    def get(self, path: str) -> bytes:
        """Return an object's bytes. Raises NotFound."""
        return self._place.get(path)

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start`` on; fewer where the object ends before. Raises NotFound."""
        return self._place.get_range(path, start, length)

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write an object whole or not at all, over what is there.

        durable: whether it shall outlive a power cut; a bucket's always does.
        """
        self._may_write()
        self._place.put(path, data, durable=durable)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write an object whole where there is none. Returns False where there is another.

        True also where what is there is just this, since the answer to an earlier try may have been lost: who wants to
        know that it was the one who created it writes something of its own into it.
        """
        self._may_write()
        return self._place.create(path, data, durable=durable)

    def copy(self, source: str, target: str) -> None:
        """Write an object that is the copy of another, over what is there. Raises NotFound."""
        self._may_write()
        self._place.copy(source, target)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; those that are not there are fine."""
        if isinstance(paths, str):
            raise TypeError("delete takes a list of paths")
        self._may_write()
        self._place.delete(paths)

    def list(self, prefix: str = "") -> Iterator[Meta]:
        """Yield what is below a folder's name, ``a`` or ``a/``, by name, a page at a time; nothing where it is not."""
        return self._place.list(prefix.strip("/"))

    def head(self, path: str) -> Meta | None:
        """Return what is known of an object, or None where there is none."""
        return self._place.head(path)

    def exists(self, path: str) -> bool:
        """Return whether there is an object of that name."""
        return self._place.head(path) is not None

    @contextmanager
    def put_stream(self, path: str) -> Iterator[BinaryIO]:
        """Give a binary file to write to, which becomes the object at the end, unless an error leaves the block."""
        self._may_write()
        # First to a file of its own: so the whole can be sent again when a bucket fails in the middle of it.
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            yield spool  # type: ignore[misc]
            spool.seek(0)
            self._place.put(path, spool)  # type: ignore[arg-type]

    def _may_write(self) -> None:
        if not self._writable:
            raise NotPermitted(
                f"jobs may not write to {self.uri}; its operator allows it with `write: true` in MANYEYES_BUCKETS_FILE"
            )


def _reopen(uri: str, buckets: Buckets | None, patience_s: float) -> Storage:
    return Storage.open(uri, buckets=buckets, patience_s=patience_s)


def _client_options() -> dict[str, Any]:
    # The wait is for each answer and each piece of a body, not for all of a large one.
    wait_s = float(os.environ.get("MANYEYES_STORAGE_TIMEOUT_S", "30"))
    return {"read_timeout": timedelta(seconds=wait_s), "timeout": timedelta(seconds=20 * wait_s)}


def opener(bucket: Bucket, key: str) -> Any:
    """Return what opens obstore's store of a place in an operator's bucket, given its ``retry_config``."""
    return lambda retry: bucket.open(key, retry_config=retry, client_options=_client_options())


def opener_of_environment(uri: str) -> Any:
    """Return what opens obstore's store of an address, given its ``retry_config``; the environment signs in."""
    if uri.startswith("memory://"):
        with _memories_lock:
            memory = _memories.setdefault(uri, MemoryStore())
        return lambda retry: memory
    options = _client_options()
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    if uri.startswith("s3://") and any(os.environ.get(name, "").startswith("http://") for name in variables):
        options["allow_http"] = True
    return lambda retry: open_bucket(uri, retry_config=retry, client_options=options)
