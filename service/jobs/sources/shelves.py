"""Buckets' prefixes and folders as shelves of files, listed as streams in one order: that of the names' UTF-8 bytes.

S3, Google Cloud Storage and Azure list in that order themselves. A folder does not: its names are sorted here, in runs
that go to a temporary file where they are many, so that a folder of a million files needs no more memory than a small
one.
"""

from __future__ import annotations

import heapq
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from manyeyes.errors import (
    FetchFailed,
    ImageTooLarge,
    InvalidSource,
    ItemError,
    NotFound,
    SourceNotFound,
    UnreadableItem,
)
from manyeyes.service.jobs.layout import OWN
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.sources.beside import WRITTEN, WRITTEN_BY_A_JOB
from manyeyes.service.jobs.sources.entries import Entry
from manyeyes.service.jobs.sources.places import file_uri, listed

_RUN: Final = 50_000
_HELD: Final = (b".", b"__MACOSX/", OWN.encode())
_WRITTEN: Final = tuple(one.encode() for one in WRITTEN)


class BucketShelf:
    """What is below a bucket's prefix. recursive: whether keys with further slashes are seen."""

    def __init__(self, storage: Storage, uri: str, *, recursive: bool, skipped: Counter[str]) -> None:
        self._storage = storage
        self._root = uri.rstrip("/") + "/"
        self._recursive = recursive
        self._skipped = skipped

    def entries(self) -> Iterator[Entry]:
        """Yield the objects, as the store orders them."""
        for meta in listed(self._storage, self._root):
            if not self._recursive and "/" in meta.path:
                self._skipped["folder inside a folder"] += 1
                continue
            yield Entry(meta.path, self._root + meta.path, meta.size, meta.etag)

    def read(self, entry: Entry, max_bytes: int) -> bytes | ItemError:
        """Return an object, or what is wrong with it."""
        try:
            data = self._storage.get_range(entry.key, 0, max_bytes + 1)
        except NotFound:
            return SourceNotFound(f"{entry.key} was deleted while the bucket was listed")
        if len(data) > max_bytes:
            return ImageTooLarge(f"{entry.key} has grown beyond {max_bytes:,} bytes since it was listed")
        if len(data) != entry.size:
            return FetchFailed(f"{entry.key} ended after {len(data)} of {entry.size} bytes")
        return data


class FolderShelf:
    """What is below a folder of this machine. Links are followed, except where they lead in a circle."""

    def __init__(self, root: bytes, *, recursive: bool, skipped: Counter[str]) -> None:
        self._root = root
        self._recursive = recursive
        self._skipped = skipped

    def entries(self) -> Iterator[Entry]:
        """Yield the files. Raises InvalidSource if the folder itself cannot be read."""
        try:
            os.scandir(self._root).close()
        except OSError as error:
            where = os.fsdecode(self._root)
            raise InvalidSource(
                f"the folder {where!r} cannot be read: {error.strerror}; check its name"
            ) from error
        yield from self._folder(b"", above=())

    def read(self, entry: Entry, max_bytes: int) -> bytes | ItemError:
        """Return a file, or what is wrong with it."""
        from manyeyes.primitives.images import read_file
        from manyeyes.service.jobs.sources.places import local_path
        from manyeyes.settings import Limits

        try:
            return read_file(os.fsdecode(local_path(entry.uri or "")), Limits(max_bytes=max_bytes))[0]
        except ItemError as error:
            return error

    def _folder(self, below: bytes, *, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        folder = os.path.join(self._root, below)
        try:
            told = os.stat(folder)
            here = (told.st_dev, told.st_ino)
            if here in above:
                message = f"{os.fsdecode(folder)} is a link back to a folder that holds it; remove the link"
                yield _broken(below, UnreadableItem(message))
                return
            is_out = False
            for name in sorted_names(_names(folder)):
                if name.endswith(b"/"):
                    is_out = is_out or name == OWN.encode()
                    if name.startswith(_HELD):
                        self._skipped["hidden"] += 1
                    elif is_out and name in _WRITTEN:
                        self._skipped[WRITTEN_BY_A_JOB] += 1
                    elif not self._recursive:
                        self._skipped["folder inside a folder"] += 1
                    else:
                        yield from self._folder(below + name, above=(*above, here))
                else:
                    yield self._file(below + name)
        except OSError as error:
            yield _broken(below, UnreadableItem(f"{os.fsdecode(folder)} cannot be read: {error.strerror}"))

    def _file(self, key: bytes) -> Entry:
        path = os.path.join(self._root, key)
        try:
            told = os.stat(path)
        except OSError as error:
            if os.path.islink(path):
                message = f"{shown(key)} is a link that leads nowhere or in a circle; remove it"
            else:
                message = f"{shown(key)} cannot be read: {error.strerror}"
            return _broken(key, UnreadableItem(message))
        if not stat.S_ISREG(told.st_mode):
            return _broken(key, UnreadableItem(f"{shown(key)} is a pipe, socket or device; remove it"))
        return Entry(shown(key), file_uri(path), told.st_size, file_etag(told))


def file_etag(told: os.stat_result) -> str:
    """Return what tells one content of a file from another: its time of change and its size."""
    return f"{told.st_mtime_ns:x}-{told.st_size:x}"


def shown(name: bytes) -> str:
    """Return a name as text; bytes that are no UTF-8 are written as ``\\xff``."""
    return name.decode("utf-8", "backslashreplace")


def sorted_names(names: Iterable[bytes], *, run: int = _RUN) -> Iterator[bytes]:
    """Yield names sorted, however many; more than a run of them are sorted in a temporary file.

    >>> list(sorted_names([b"b", b"a/", b"a.jpg", b"c"], run=2))
    [b'a.jpg', b'a/', b'b', b'c']
    """
    held: list[bytes] = []
    runs: list[BinaryIO] = []
    try:
        for name in names:
            held.append(name)
            if len(held) == run:
                runs.append(_written(sorted(held)))
                held = []
        held.sort()
        if not runs:
            yield from held
            return
        yield from heapq.merge(held, *(_read(one) for one in runs))
    finally:
        for one in runs:
            one.close()


def _written(names: list[bytes]) -> BinaryIO:
    file = tempfile.TemporaryFile(prefix="manyeyes-names-")  # noqa: SIM115 - its reader closes it
    file.writelines(name + b"\0" for name in names)  # the one byte that no name holds
    file.seek(0)
    return file


def _read(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(2**16):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole


def _names(folder: bytes) -> Iterator[bytes]:
    """Yield what a folder holds; folders with a slash, so that they sort as their contents do in a bucket."""
    with os.scandir(folder) as listing:
        for entry in listing:
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False  # A link in a circle: as a file it says so.
            yield entry.name + b"/" if is_folder else entry.name


def _broken(key: bytes, error: ItemError) -> Entry:
    return Entry(shown(key).rstrip("/") or ".", problem=error)
