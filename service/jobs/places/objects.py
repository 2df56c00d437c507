"""What a place of objects is: the few verbs that a folder and a bucket share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple, Protocol


class Meta(NamedTuple):
    """An object of a listing. path: below the place that was listed. size: bytes. etag: tells contents apart."""

    path: str
    size: int
    etag: str | None


class Place(Protocol):
    """Where objects are. Errors are those of :class:`manyeyes.service.jobs.places.storage.Storage`."""

    def get(self, path: str) -> bytes:
        """Return an object's bytes."""

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes; fewer where it ends before."""

    def put(self, path: str, data: bytes | BinaryIO, *, durable: bool = True) -> None:
        """Write an object, over what is there."""

    def create(self, path: str, data: bytes, *, durable: bool = True) -> bool:
        """Write an object that is not there; True where what is there is just that."""

    def copy(self, source: str, target: str) -> None:
        """Write an object that is another's copy."""

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects, if they are there."""

    def head(self, path: str) -> Meta | None:
        """Return what is known of an object, or None where there is none."""

    def list(self, prefix: str) -> Iterator[Meta]:
        """Yield the objects below a folder's name, or all."""

    def check(self, *, write: bool) -> None:
        """Find out soon whether it can be used."""
