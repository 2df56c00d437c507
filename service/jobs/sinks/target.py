"""Where an export goes: a folder that appears whole, or a bucket's prefix whose last object says that it is whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeVar

from manyeyes.errors import InvalidRequest, NotFound, StorageFailed, StorageFull
from manyeyes.service.jobs.places.storage import Storage

T = TypeVar("T")

MARKER: Final = "manyeyes-export.json"
"""What an export holds; of one in a bucket, the last object, without which it is not whole."""
_AHEAD: Final = 32
_MOST_BYTES_AHEAD: Final = 64 * 2**20
_DELETE_AT_ONCE: Final = 1000


class Target:
    """Takes the files of one export. Use it in a ``with``: an error on the way out leaves nothing that seems whole.

    out: a folder or a bucket's prefix. overwrite: whether an earlier export there may be replaced. It is replaced as
    a whole at the end in a folder; in a bucket it is removed first, since a bucket cannot rename.
    Raises InvalidRequest if something is there that is no earlier export, or is one and ``overwrite`` is not set.
    """

    def __init__(self, storage: Storage, *, overwrite: bool) -> None:
        self.n_files = 0
        self.n_bytes = 0
        self._storage = storage
        self._digest = hashlib.sha256()
        self._earlier = _earlier(storage, overwrite=overwrite)
        self._place: _Folder | _Bucket | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        local = self._storage.local
        self._place = _Folder(local) if local is not None else _Bucket(self._storage, replace=self._earlier)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        place, self._place = self._place, None
        if place is None:
            return
        self._held.close()
        place.leave()
        if isinstance(error, OSError) and not isinstance(error, StorageFailed) and error.errno is not None:
            raise _failed(self._storage.uri, error) from error

    def enter(self, held: AbstractContextManager[T]) -> T:
        """Enter what an export holds until its end, well or not, such as a temporary file."""
        return self._held.enter_context(held)

    def put(self, path: str, data: bytes) -> None:
        """Write a file. path: below the target, with ``/``; each only once."""
        self._note(path, len(data), hashlib.sha256(data).digest())
        self._open.put(path, data)

    @contextlib.contextmanager
    def stream(self, path: str) -> Iterator[Writer]:
        """Give a writer of a file that is too large to hold."""
        with self._open.stream(path) as raw:
            writer = Writer(raw)
            yield writer
        self._note(path, writer.tell(), writer.digest)

    def commit(self, told: Mapping[str, Any]) -> str:
        """Say that all is there, and make it so; return the digest of the export. told: what else the marker says."""
        digest = self._digest.hexdigest()
        document = {"complete": True, **told, "files": self.n_files, "bytes": self.n_bytes, "digest": digest}
        self._open.commit(_dump(document))
        return digest

    @property
    def _open(self) -> _Folder | _Bucket:
        if self._place is None:
            raise RuntimeError("a target is used inside its `with`")
        return self._place

    def _note(self, path: str, size: int, digest: bytes) -> None:
        self.n_files += 1
        self.n_bytes += size
        self._digest.update(path.encode() + b"\0" + digest)


class Writer(io.RawIOBase):
    """A binary file to write to from the front to the end, which knows how long it is and what its digest is."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._size = 0
        self._sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._raw.closed:
            # The export has failed. Writers of Parquet and tars end their files when they are collected, all the same.
            return len(view)
        self._raw.write(view)
        self._sha256.update(view)
        self._size += len(view)
        return len(view)

    @property
    def digest(self) -> bytes:
        return self._sha256.digest()


class _Folder:
    """Files in a hidden folder beside the target, which takes its place in one step."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._part = target.with_name(f".{target.name}.part")
        self._made: set[Path] = set()
        self._raws: set[BinaryIO] = set()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(
                target.with_name(f".{target.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
            )
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._lock)
                raise InvalidRequest(f"another export writes to {target} just now; wait for it") from error
            # What an export that was killed has left.
            shutil.rmtree(self._part, ignore_errors=True)
            self._part.mkdir()
        except OSError as error:
            if isinstance(error, InvalidRequest):
                raise
            raise _failed(str(target), error) from error

    def put(self, path: str, data: bytes) -> None:
        self._path(path).write_bytes(data)

    @contextlib.contextmanager
    def stream(self, path: str) -> Iterator[BinaryIO]:
        with self._path(path).open("wb", buffering=2**20) as raw:
            self._raws.add(raw)
            yield raw
            self._raws.discard(raw)

    def commit(self, marker: bytes) -> None:
        (self._part / MARKER).write_bytes(marker)
        # One sync for all files costs less than one for each, and the name must not be on the disk before they are.
        os.sync()
        old = self._target.with_name(f".{self._target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self._target.exists():
            self._target.rename(old)
        self._part.rename(self._target)
        shutil.rmtree(old, ignore_errors=True)

    def leave(self) -> None:
        for raw in self._raws:  # of an export that ended early
            raw.close()
        shutil.rmtree(self._part, ignore_errors=True)
        # Removed while it is still locked, so that nobody has just opened it and waits for nothing.
        self._target.with_name(f".{self._target.name}.lock").unlink(missing_ok=True)
        os.close(self._lock)

    def _path(self, path: str) -> Path:
        found = self._part / path
        if found.parent not in self._made:
            found.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(found.parent)
        return found


class _Bucket:
    """Objects below a prefix, small ones several at a time."""

    def __init__(self, storage: Storage, *, replace: bool) -> None:
        self._storage = storage
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._n_bytes = 0
        self._raws: set[BinaryIO] = set()
        unfinished = _dump({"complete": False})
        storage.put(MARKER, unfinished)  # from here on, what is there is ours
        if replace:
            _remove_all(storage)
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="export")

    def put(self, path: str, data: bytes) -> None:
        while self._waiting and (
            len(self._waiting) >= _AHEAD or self._n_bytes + len(data) > _MOST_BYTES_AHEAD
        ):
            self._take()
        self._waiting.append((self._pool.submit(self._storage.put, path, data), len(data)))
        self._n_bytes += len(data)

    @contextlib.contextmanager
    def stream(self, path: str) -> Iterator[BinaryIO]:
        with self._storage.put_stream(path) as raw:
            self._raws.add(raw)
            yield raw
            self._raws.discard(raw)

    def commit(self, marker: bytes) -> None:
        while self._waiting:
            self._take()
        self._storage.put(MARKER, marker)

    def leave(self) -> None:
        for raw in self._raws:
            raw.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _take(self) -> None:
        future, size = self._waiting.popleft()
        self._n_bytes -= size
        future.result()


def _earlier(storage: Storage, *, overwrite: bool) -> bool:
    """Return whether an earlier export is there, and may be replaced. Raises InvalidRequest if it may not be."""
    local = storage.local
    if local is not None and local.exists() and not local.is_dir():
        raise InvalidRequest(f"{local} is a file; name a folder for the export")
    empty = not any(local.iterdir()) if local is not None and local.is_dir() else _is_empty(storage)
    if empty:
        return False
    try:
        told = json.loads(storage.get(MARKER))
        if not isinstance(told, dict) or "complete" not in told:
            raise ValueError(MARKER)
    except (NotFound, ValueError) as error:
        raise InvalidRequest(
            f"{storage.uri} is not empty, and what is there is no export of manyeyes (there is no {MARKER}); name a"
            " place of its own, so that nothing else is lost"
        ) from error
    if not overwrite:
        whole = "an earlier export" if told["complete"] else "an export that was not finished"
        raise InvalidRequest(
            f"{storage.uri} holds {whole}; set overwrite to replace it, or name another place"
        )
    return True


def _is_empty(storage: Storage) -> bool:
    return next(iter(storage.list("")), None) is None


def _remove_all(storage: Storage) -> None:
    paths: list[str] = []
    for meta in storage.list(""):
        if meta.path != MARKER:
            paths.append(meta.path)
        if len(paths) == _DELETE_AT_ONCE:
            storage.delete(paths)
            paths = []
    if paths:
        storage.delete(paths)


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def _failed(where: str, error: OSError) -> StorageFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"there is no room left for the export at {where}; make room, and export again")
    return StorageFailed(
        f"cannot write the export to {where}: {error.strerror or error}; choose another place"
    )
