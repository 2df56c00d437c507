"""What a shelf of files holds, whatever the shelf is: a bucket's prefix, a folder, an archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from manyeyes.errors import ItemError


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. key: its path below the shelf, with ``/``. size: bytes, as the shelf tells it.

    uri, member, offset, length, etag: as in Row. problem: why it cannot be read.
    """

    key: str
    uri: str | None = None
    size: int = 0
    etag: str | None = None
    member: str | None = None
    offset: int | None = None
    length: int | None = None
    problem: ItemError | None = None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Its path without the suffix: what ``a/photo.jpg``, ``a/photo.txt`` and ``a/photo.json`` share."""
        return self.key[: len(self.key) - len(self.suffix)] if self.suffix else self.key

    @property
    def suffix(self) -> str:
        """What its name ends with, from the last dot on, as it is written; nothing where there is no dot."""
        name = self.name
        dot = name.rfind(".")
        return name[dot:] if 0 < dot < len(name) - 1 else ""


class Shelf(Protocol):
    """Something that holds files."""

    def entries(self) -> Iterator[Entry]:
        """Yield its files by key, in the order of the keys' UTF-8 bytes; raises nothing for a single one."""

    def read(self, entry: Entry, max_bytes: int) -> bytes | ItemError:
        """Return the bytes of a small file, or what is wrong with it. Called from several threads."""
