"""Patterns that name several objects: ``s-{000..099}.tar``, ``{train,test}.csv``, ``train-*.parquet``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final

from manyeyes.errors import InvalidSource
from manyeyes.service.jobs.sources.places import Places, file_uri, listed, local_path, scheme_of
from manyeyes.service.jobs.sources.shelves import shown, sorted_names

MAX_NAMED: Final = 1_000_000
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")


def expand(pattern: str) -> Iterator[str]:
    """Yield what braces stand for, in order. Raises InvalidSource if that is nothing, or too much.

    >>> list(expand("s-{08..10}.tar")), list(expand("{a,b}.csv"))
    (['s-08.tar', 's-09.tar', 's-10.tar'], ['a.csv', 'b.csv'])
    """
    if count(pattern) > MAX_NAMED:
        raise InvalidSource(f"{pattern!r} names more than {MAX_NAMED:,} objects; name fewer")
    yield from _expand(pattern)


def count(pattern: str) -> int:
    """Return how many addresses a pattern names."""
    n = 1
    for told in _BRACES.findall(pattern):
        n *= len(_alternatives(told, pattern))
    return n


def matching(pattern: str, places: Places) -> Iterator[str]:
    """Yield the addresses that a pattern names, in order; a ``*`` stands for what is there, in its last part alone.

    Raises InvalidSource if nothing fits, and StorageFailed.
    """
    for one in expand(pattern):
        head, _, name = one.rpartition("/")
        if "*" in head:
            raise InvalidSource(f"{pattern!r}: a * may stand in the last part of an address alone")
        if "*" not in name:
            yield one
            continue
        found = False
        for address in _beside(head, name, places):
            found = True
            yield address
        if not found:
            raise InvalidSource(f"nothing fits {one!r}; check its spelling")


def _beside(head: str, name: str, places: Places) -> Iterator[str]:
    if scheme_of(head or ".") == "file":
        folder = local_path(head or ".")
        try:
            names: list[bytes] = os.listdir(folder)
        except OSError as error:
            raise InvalidSource(f"the folder {shown(folder)!r} cannot be read: {error.strerror}") from error
        for found in sorted_names(names):
            if fnmatchcase(shown(found), name):
                yield file_uri(os.path.join(folder, found))
        return
    for meta in listed(places.folder(head), head):
        if "/" not in meta.path and fnmatchcase(meta.path, name):
            yield f"{head}/{meta.path}"


def _expand(pattern: str) -> Iterator[str]:
    matched = _BRACES.search(pattern)
    if matched is None:
        yield pattern
        return
    for one in _alternatives(matched[1], pattern):
        for rest in _expand(pattern[matched.end() :]):
            yield pattern[: matched.start()] + one + rest


def _alternatives(told: str, pattern: str) -> list[str] | _Numbers:
    matched = _RANGE.fullmatch(told)
    if matched is None:
        return told.split(",")
    first, last = int(matched[1]), int(matched[2])
    if last < first or last - first >= MAX_NAMED:
        raise InvalidSource(f"{pattern!r}: {{{told}}} names nothing, or more than {MAX_NAMED:,} objects")
    return _Numbers(first, last, len(matched[1]))


class _Numbers:
    """Numbers with leading zeros, none of them made before it is asked for."""

    def __init__(self, first: int, last: int, digits: int) -> None:
        self._numbers = range(first, last + 1)
        self._digits = digits

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return (str(number).zfill(self._digits) for number in self._numbers)
