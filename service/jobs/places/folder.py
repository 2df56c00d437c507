"""Objects as files of a folder: whole or not at all, and created by one alone."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from manyeyes.errors import NotFound, StorageFailed, StorageFull
from manyeyes.service.jobs.places.objects import Meta

_STAGED: Final = ".staged-"
"""What begins so is being written, or was when its writer died; no listing names it."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_COPY_BYTES: Final = 2**20

T = TypeVar("T")


class Folder:
    """A folder as a place of objects. Files appear under their names only when they are whole.

    What is durable is flushed to the disk before it appears, so that a commit that survives a power cut names parts
    that survived it, too: 0.2 ms more for a small file, and 1.6 ms for one of 4 MB, as measured on ext4.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._nameless: bool | None = None

    def get(self, path: str) -> bytes:
        return self._do("read", path, lambda: self._file(path).read_bytes())

    def get_range(self, path: str, start: int, length: int) -> bytes:
        def read() -> bytes:
            with self._file(path).open("rb") as file:
                file.seek(start)
                return file.read(length)

        return self._do("read", path, read)

    def put(self, path: str, data: bytes | BinaryIO, *, durable: bool = True) -> None:
        self._do("write", path, lambda: self._write(path, data, new=False, durable=durable))

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        try:
            self._do("write", path, lambda: self._write(path, data, new=True, durable=durable))
        except FileExistsError:
            return self.get(path) == data
        return True

    def copy(self, source: str, target: str) -> None:
        def copy() -> None:
            with self._file(source).open("rb") as file:
                self._write(target, file, new=False, durable=True)

        self._do("copy", source, copy)

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            with contextlib.suppress(NotFound):
                self._do("delete", path, self._file(path).unlink)

    def head(self, path: str) -> Meta | None:
        try:
            told = self._do("read", path, self._file(path).stat)
        except NotFound:
            return None
        return _meta(path, told) if stat.S_ISREG(told.st_mode) else None

    def list(self, prefix: str) -> Iterator[Meta]:
        folder = self._file(prefix) if prefix else self.root
        yield from self._walk(folder, f"{prefix}/" if prefix else "", ())

    def check(self, *, write: bool) -> None:
        if not write:
            self._do("read", "", lambda: os.listdir(self.root))
            return
        path = f"{_STAGED}{secrets.token_hex(8)}"
        self.put(path, b"")
        self.delete([path])

    def _walk(self, folder: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[Meta]:
        try:
            with os.scandir(folder) as entries:
                found = [
                    (e.name + "/" * e.is_dir(), e.name) for e in entries if not e.name.startswith(_STAGED)
                ]
            told = os.stat(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._failed("list", below, error) from error
        identity = (told.st_dev, told.st_ino)
        if identity in above:  # a link to a folder that it lies in
            return
        found.sort()  # As a bucket would: by the whole name, in which what a folder holds stands after its slash.
        for key, name in found:
            if key.endswith("/"):
                yield from self._walk(folder / name, below + key, (*above, identity))
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted since
                yield _meta(below + name, os.stat(folder / name))

    def _file(self, path: str) -> Path:
        if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
            raise StorageFailed(
                f"{path!r} cannot name an object of a folder: a part of it is empty, `.` or `..`"
            )
        return self.root / path

    def _write(self, path: str, data: bytes | BinaryIO, *, new: bool, durable: bool) -> None:
        target = self._file(path)
        try:
            file, staged = self._open(target.parent)
        except FileNotFoundError:
            _make(target.parent)
            file, staged = self._open(target.parent)
        try:
            with file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, _COPY_BYTES)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                if staged is None:
                    staged = _name(file.fileno(), target)
            if staged is not None:
                # A hard link is the one way to give a file that is whole a name that nobody has, on every Unix.
                (os.link if new else os.replace)(staged, target)
        finally:
            if staged is not None:
                with contextlib.suppress(OSError):
                    staged.unlink(missing_ok=True)

    def _open(self, folder: Path) -> tuple[BinaryIO, Path | None]:
        """Open a file to be written, and tell its name; it has none where the system can do that: see ``_name``."""
        if self._nameless is None:
            self._nameless = _can_name(folder)
        if self._nameless:
            return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb"), None
        staged = _staged(folder)
        return staged.open("xb"), staged

    def _do(self, what: str, path: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except StorageFailed:
            raise
        except FileExistsError:
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if what == "write":
                raise self._failed(what, path, error) from error
            raise NotFound(f"there is no {path!r} in {str(self.root)!r}") from error
        except OSError as error:
            raise self._failed(what, path, error) from error

    def _failed(self, what: str, path: str, error: OSError) -> StorageFailed:
        where = str(self.root / path)
        if error.errno in _FULL:
            return StorageFull(
                f"cannot {what} {where!r}: {error.strerror}. Make room there, or raise the quota, and run the same job"
                " again: it goes on where it stopped"
            )
        if (
            error.errno in (errno.EPERM, errno.EOPNOTSUPP)
            and what == "write"
            and os.access(self.root, os.W_OK)
        ):
            return StorageFailed(
                f"cannot {what} {where!r}: {error.strerror}. A job needs a file system with hard links (not FAT or"
                " exFAT); choose another folder, or a bucket"
            )
        return StorageFailed(
            f"cannot {what} {where!r}: {error.strerror}. Check the folder and its permissions"
        )


def _staged(folder: Path) -> Path:
    return folder / f"{_STAGED}{secrets.token_hex(8)}"


def _name(fd: int, target: Path) -> Path | None:
    """Give a file that has no name that of the target, if nobody has that; else a name of its own, which is returned.

    A file without a name is gone with its writer: whoever is killed leaves nothing that a reader might take for a part.
    """
    for name in (target, _staged(target.parent)):
        try:
            # With a folder's number, which is not looked at, Python makes the call that follows links.
            os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)
        except FileExistsError:
            continue
        return None if name == target else name
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _can_name(folder: Path) -> bool:
    """Whether this system and the folder's can do what ``_name`` does. Raises FileNotFoundError without the folder."""
    name = _staged(folder)
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except FileNotFoundError:
        raise
    except (AttributeError, OSError):  # of macOS, and of file systems such as NFS
        return False
    try:
        return _name(fd, name) is None
    except OSError:
        return False
    finally:
        os.close(fd)
        name.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # which would read as if the object were there
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


def _meta(path: str, told: os.stat_result) -> Meta:
    return Meta(path, told.st_size, f"{told.st_mtime_ns:x}-{told.st_size:x}")
