"""Tar archives: their headers are read, and the bytes of members only where a text or metadata is wanted.

Nothing is unpacked: a member is a range of bytes of the archive, and its name only an id. Links, devices and folders
hold no data and are passed over. An archive that ends early, or lies about a size, gives one row with an error for
what cannot be read, after the members before it.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import Final

from manyeyes.errors import InvalidItem, InvalidSource, ItemError, StorageFailed, UnreadableItem
from manyeyes.service.jobs.sources.entries import Entry
from manyeyes.service.jobs.sources.places import Place
from manyeyes.service.jobs.sources.streams import RangeFile

# Members up to about this size are read over, and larger ones jumped over: a request costs more than so many bytes.
_CHUNK_BYTES: Final = 512 * 2**10
_GZIP: Final = b"\x1f\x8b"
_OTHERS: Final = (b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class TarShelf:
    """The files of a tar, in its own order. place: where it is."""

    def __init__(self, place: Place, *, skipped: Counter[str]) -> None:
        self._place = place
        self._skipped = skipped
        self._file: RangeFile | None = None

    def entries(self) -> Iterator[Entry]:
        """Yield the files. Raises InvalidSource if it is no tar, or is compressed as a whole."""
        file = self._file = RangeFile(self._place, chunk=_CHUNK_BYTES)
        head = file.read(8)
        file.seek(0)
        if head.startswith((_GZIP, *_OTHERS)):
            raise InvalidSource(
                f"{self._place.uri} is compressed as a whole, so that no member can be read by itself; images are"
                " compressed already: unpack it to a plain .tar, or to a folder"
            )
        n_members = 0
        try:
            archive = tarfile.TarFile(fileobj=file, mode="r", errors="surrogateescape")
            while (member := archive.next()) is not None:
                n_members += 1
                archive.members = []  # type: ignore[attr-defined]  # It would keep them all.
                yield from self._entry(member, file)
        except (InvalidSource, StorageFailed):
            raise
        except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
            if not n_members:
                raise InvalidSource(
                    f"{self._place.uri} cannot be read as a tar: {error}; check the file"
                ) from error
            yield Entry(
                f"after {n_members:,} members",
                problem=UnreadableItem(
                    f"the archive is damaged after {n_members:,} members ({error}); make it anew"
                ),
            )
        if n_members == 0 and file.size:
            raise InvalidSource(f"{self._place.uri} cannot be read as a tar, or is empty; check the file")
        file.check_unchanged()

    def read(self, entry: Entry, max_bytes: int) -> bytes | ItemError:
        """Return the bytes of a member."""
        if entry.offset is None or entry.length is None:
            return UnreadableItem(f"{entry.key} has no bytes in the archive")
        if entry.length > max_bytes:
            return InvalidItem(f"{entry.key} holds {entry.length:,} bytes; at most {max_bytes:,} are read")
        return self._place.read(entry.offset, entry.length)

    def read_near(self, entry: Entry) -> bytes:
        """Return the bytes of the member that ``entries`` yielded last, mostly from what was read for its header."""
        assert self._file is not None and entry.offset is not None and entry.length is not None
        back = self._file.tell()
        self._file.seek(entry.offset)
        data = self._file.read(entry.length)
        self._file.seek(back)
        return data

    def _entry(self, member: tarfile.TarInfo, file: RangeFile) -> Iterator[Entry]:
        if member.isdir():
            return
        name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if not member.isreg() or member.issparse():
            self._skipped["link, device or sparse file in an archive"] += 1
            return
        problem: ItemError | None = wrong_name(name)
        if problem is None and member.offset_data + member.size > file.size:
            problem = UnreadableItem(
                f"{name} is to have {member.size:,} bytes, and the archive ends before; make it anew"
            )
        yield Entry(
            clean_name(name),
            self._place.uri,
            member.size,
            file.etag,
            member=name,
            offset=member.offset_data,
            length=member.size,
            problem=problem,
        )


def clean_name(name: str) -> str:
    """Return a member's name without ``./`` before it."""
    while name.startswith("./"):
        name = name[2:]
    return name


def wrong_name(name: str) -> ItemError | None:
    """Return what is wrong with a member's name: one that leads out of the archive is nobody's honest mistake."""
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name:
        return InvalidItem(
            f"the member {name!r} leads out of its archive, and is not read; make the archive anew"
        )
    return None
