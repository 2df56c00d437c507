"""Zip archives: the directory at their end is read by ranges, a piece at a time, and nothing else of them.

Source of the format: PKWARE's APPNOTE.TXT, 4.3.12 (directory), 4.3.14 to 4.3.16 (its end, also of Zip64), 4.5.3.
Nothing is unpacked: a member is read when its row is, no further than its own limit.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from manyeyes.errors import ImageTooLarge, InvalidItem, InvalidSource, ItemError, UnreadableItem
from manyeyes.service.jobs.sources.entries import Entry
from manyeyes.service.jobs.sources.places import Place
from manyeyes.service.jobs.sources.streams import RangeFile
from manyeyes.service.jobs.sources.tars import clean_name, wrong_name

_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
LOCAL: Final = struct.Struct("<4s5H3L2H")
_CHUNK_BYTES: Final = 2**20
_MAX_COMMENT: Final = 2**16
STORED, DEFLATED = 0, 8
# A local header's extra field may be longer than the directory's; so much of it is fetched along with the bytes.
_SLACK: Final = 256
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF


Rest: TypeAlias = "Callable[[int, int], bytes]"
"""Reads more of an archive: from a place counted from a member's beginning, so many bytes."""


class ZipShelf:
    """The files of a zip, in the order of its directory. place: where it is."""

    def __init__(self, place: Place, *, skipped: Counter[str]) -> None:
        self._place = place
        self._skipped = skipped

    def entries(self) -> Iterator[Entry]:
        """Yield the files. Raises InvalidSource if it is no zip, or its end is damaged."""
        file = RangeFile(self._place, chunk=_CHUNK_BYTES)
        start, n_bytes, shift = self._directory(file)
        file.seek(start)
        n = 0
        while file.tell() < start + n_bytes:
            head = file.read(_ENTRY.size)
            if len(head) < _ENTRY.size or head[:4] != b"PK\1\2":
                if not n:
                    raise InvalidSource(
                        f"the directory of {self._place.uri} is damaged; make the archive anew"
                    )
                message = f"the archive's directory is damaged after {n:,} members; make it anew"
                yield Entry(f"after {n:,} members", problem=UnreadableItem(message))
                break
            n += 1
            yield from self._entry(file, _ENTRY.unpack(head), shift, start)
        file.check_unchanged()

    def read(self, entry: Entry, max_bytes: int) -> bytes | ItemError:
        """Return the bytes of a member, or what is wrong with it."""
        if entry.size > max_bytes:
            return InvalidItem(f"{entry.key} holds {entry.size:,} bytes; at most {max_bytes:,} are read")
        try:
            return member_bytes(
                self._place.read(entry.offset or 0, entry.length or 0),
                entry.size,
                max_bytes,
                self._rest(entry),
            )
        except ItemError as error:
            return error

    def _rest(self, entry: Entry) -> Rest:
        return lambda start, length: self._place.read((entry.offset or 0) + start, length)

    def _directory(self, file: RangeFile) -> tuple[int, int, int]:
        """Return where the directory begins, its bytes, and how far offsets are shifted by what stands before."""
        tail_at = max(0, file.size - _END.size - _MAX_COMMENT)
        file.seek(tail_at)
        tail = file.read(file.size - tail_at)
        at = tail.rfind(b"PK\5\6")
        if at < 0 or at + _END.size > len(tail):
            raise InvalidSource(
                f"{self._place.uri} is no zip, or ends too early; check the file, or copy it again"
            )
        end_at = tail_at + at
        _, _, _, _, count, n_bytes, start, _ = _END.unpack_from(tail, at)
        if _FULL32 in (n_bytes, start) or count == _FULL16:
            file.seek(max(0, end_at - _LOCATOR.size))
            locator = file.read(_LOCATOR.size)
            if locator[:4] == b"PK\6\7":
                file.seek(_LOCATOR.unpack(locator)[2])
                end64 = file.read(_END64.size)
                if end64[:4] != b"PK\6\6" or len(end64) != _END64.size:
                    raise InvalidSource(f"the end of {self._place.uri} is damaged; make the archive anew")
                *_, n_bytes, start = _END64.unpack(end64)
                end_at = _LOCATOR.unpack(locator)[2]
        shift = end_at - n_bytes - start  # bytes before the archive, of one that unpacks itself
        if shift < 0 or n_bytes > file.size:
            raise InvalidSource(f"the directory of {self._place.uri} is damaged; make the archive anew")
        return start + shift, n_bytes, shift

    def _entry(self, file: RangeFile, told: tuple[int, ...], shift: int, end: int) -> Iterator[Entry]:
        flags, method, crc, packed, size, n_name, n_extra, n_comment = (
            told[3], told[4], told[7], told[8], told[9], told[10], told[11], told[12],
        )  # fmt: skip
        del crc
        offset = told[16]
        raw = file.read(n_name)
        extra = file.read(n_extra)
        file.seek(n_comment, 1)
        name = _name(raw, flags)
        if name.endswith("/"):
            return
        size, packed, offset = _zip64(extra, size, packed, offset)
        offset += shift
        problem: ItemError | None = wrong_name(name)
        if problem is None and flags & 1:
            problem = UnreadableItem(f"{name} is encrypted; make an archive without a password")
        if problem is None and method not in (STORED, DEFLATED):
            problem = UnreadableItem(f"{name} is packed by method {method}; store or deflate it")
        length = min(LOCAL.size + n_name + n_extra + _SLACK + packed, end - offset)
        if problem is None and length < LOCAL.size + n_name + packed:
            problem = UnreadableItem(f"{name} is to have {packed:,} bytes, which are not in the archive")
        yield Entry(
            clean_name(name),
            self._place.uri,
            size,
            file.etag,
            member=name,
            offset=offset,
            length=length,
            problem=problem,
        )


def _name(raw: bytes, flags: int) -> str:
    if flags & 0x800:
        return raw.decode("utf-8", "backslashreplace")
    try:
        return raw.decode("utf-8")  # which many write without saying so
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _zip64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return size, packed size and offset, from the extra field where they do not fit in 32 bits."""
    at = 0
    while at + 4 <= len(extra):
        kind, n = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = [one for (one,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + n - n % 8])]
            values.reverse()
            if size == _FULL32 and values:
                size = values.pop()
            if packed == _FULL32 and values:
                packed = values.pop()
            if offset == _FULL32 and values:
                offset = values.pop()
            break
        at += 4 + n
    return size, packed, offset


def member_bytes(data: bytes, size: int, max_bytes: int, rest: Rest) -> bytes:
    """Return the bytes of a member. Raises ImageTooLarge or UnreadableItem.

    data: the archive from the member's local header on, and maybe more. size: of the member, unpacked, as the directory
    tells it: not a byte more is unpacked. rest: reads what ``data`` lacks.
    """
    if size > max_bytes:
        raise ImageTooLarge(f"the member has {size:,} bytes; at most {max_bytes:,} are read")
    if len(data) < LOCAL.size or data[:4] != b"PK\3\4":
        raise UnreadableItem("the archive is damaged where the member should begin; make it anew")
    _, _, flags, method, _, _, crc, _, _, n_name, n_extra = LOCAL.unpack_from(data)
    start = LOCAL.size + n_name + n_extra
    if method == STORED:
        if len(data) < start + size:
            data += rest(len(data), start + size - len(data))
        found = data[start : start + size]
    elif method == DEFLATED:
        found = _inflated(data, start, size, rest)
    else:
        raise UnreadableItem(f"the member is packed by method {method}; store or deflate it")
    if len(found) != size:
        raise UnreadableItem(
            f"the member holds another number of bytes than the {size:,} it is to have; make the archive anew"
        )
    # Bit 3: the sum stands behind the bytes, since the archive was written as a stream.
    if not flags & 8 and zlib.crc32(found) != crc:
        raise UnreadableItem("the member's checksum is wrong: it is damaged; make the archive anew")
    return found


def _inflated(data: bytes, start: int, size: int, rest: Rest) -> bytes:
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = unpack.decompress(data[start:], size + 1)
        while not unpack.eof and len(found) <= size:
            more = unpack.unconsumed_tail or rest(len(data), _SLACK * 16)
            if not more:
                break
            if not unpack.unconsumed_tail:
                data += more
            found += unpack.decompress(more, size + 1 - len(found))
    except zlib.error as error:
        raise UnreadableItem(f"the member is damaged ({error}); make the archive anew") from None
    return found
