"""One object read as a file that can seek: by ranges, a chunk at a time, so that its size does not matter."""

from __future__ import annotations

import io
from typing import Any, Final

from manyeyes.errors import InvalidSource
from manyeyes.service.jobs.sources.places import Place

CHUNK_BYTES: Final = 2 * 2**20
# Longer than any header that an archive has a reason for; what claims more is damaged, or means harm.
_MOST_AT_ONCE: Final = 64 * 2**20


class RangeFile(io.RawIOBase):
    """An object as a binary file. chunk: bytes of one request; a jump beyond what was read costs another.

    Raises InvalidSource, from reading, if the object is gone or shorter than it was.
    """

    def __init__(self, place: Place, *, chunk: int = CHUNK_BYTES) -> None:
        meta = place.head()
        self.size = meta.size
        self.etag = meta.etag
        self._place = place
        self._chunk = chunk
        self._at = 0
        self._start = 0
        self._held = b""

    def check_unchanged(self) -> None:
        """Raise InvalidSource if the object is no longer what it was when it was opened."""
        meta = self._place.head()
        if (meta.size, meta.etag) != (self.size, self.etag):
            raise InvalidSource(f"{self._place.uri} changed while it was listed; run the job again")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read from."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go somewhere; nothing is read yet."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, n: int = -1) -> bytes:
        """Return up to n bytes; fewer only at the end. Raises ValueError if that is more than anything needs."""
        end = self.size if n is None or n < 0 else min(self.size, self._at + n)
        if end - self._at > _MOST_AT_ONCE:
            raise ValueError(f"{end - self._at:,} bytes at once are not read")
        pieces: list[bytes] = []
        while self._at < end:
            if not self._start <= self._at < self._start + len(self._held):
                self._start, self._held = (
                    self._at,
                    b"",
                )  # let go of first: both at once would be twice as much
                wanted = min(self.size, self._at + max(self._chunk, end - self._at)) - self._at
                self._held = self._place.read(self._at, wanted)
                if len(self._held) != wanted:
                    raise InvalidSource(f"{self._place.uri} changed while it was listed; run the job again")
            piece = self._held[self._at - self._start : end - self._start]
            pieces.append(piece)
            self._at += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; return how many bytes it got."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Lines:
    """The lines of a binary file, and where each was. longest: bytes after which a line is cut.

    start, end: of what was read since ``mark``.
    """

    def __init__(self, file: io.BufferedReader, *, longest: int) -> None:
        self._file = file
        self._longest = longest
        self.start = 0
        self.end = 0

    def mark(self) -> None:
        """Begin a new record."""
        self.start = self.end

    def readline(self, longest: int = -1) -> bytes:
        """Return the next line, with its end; nothing at the end of the file."""
        line = self._file.readline(min(longest, self._longest) if longest >= 0 else self._longest)
        self.end += len(line)
        return line

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        is_first = self.end == 0
        line = self.readline()
        if not line:
            raise StopIteration
        # Bytes that are no UTF-8 become lone surrogates, so that one bad row is noticed and does not end the table.
        return line.decode("utf-8-sig" if is_first else "utf-8", "surrogateescape")
