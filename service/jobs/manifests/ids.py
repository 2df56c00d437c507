"""Ids that name one row each, among any number of rows.

What is kept of an id is a hash of 64 bits. Where ids come in ascending order, as those of buckets and folders do, each
is compared with the one before it and no more; the hashes wait in a temporary file until one comes out of order. So
memory stays flat for listings, and grows by 8 bytes a row for tables. Among ten million ids in no order, two different
ones are taken for the same with a chance of 1 in 370,000, and the second is then called a repetition.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

_REMEMBERED: Final = 100_000
_LONGEST_RUN: Final = 2**18

Hashes = npt.NDArray[np.uint64]


class Ids:
    """Every id that was taken so far. A context manager: it may hold a temporary file."""

    def __init__(self) -> None:
        self._last: str | None = None
        self._file: Any = None
        self._runs: list[Hashes] | None = None
        self._repeats: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def take(self, ids: Sequence[str]) -> list[str]:
        """Take some ids; return under which each is known: itself, or, if it is taken, ``id (2)``, ``id (3)``, …."""
        hashes = np.fromiter((hashed(one) for one in ids), np.uint64, len(ids))
        if self._runs is None and self._ascend(ids):
            self._last = ids[-1] if ids else self._last
            self._spill(hashes)
            return list(ids)
        self._load()
        known = self._contains(hashes)
        here: set[int] = set()
        names: list[str] = []
        for one, told, is_known in zip(ids, hashes.tolist(), known.tolist(), strict=True):
            name = one
            if is_known or told in here:
                name, told = self._unused(one, here)
            here.add(told)
            names.append(name)
        self._add(np.fromiter(here, np.uint64, len(here)))
        return names

    def _ascend(self, ids: Sequence[str]) -> bool:
        last = self._last
        for one in ids:
            if last is not None and one <= last:
                return False
            last = one
        return True

    def _unused(self, one: str, here: set[int]) -> tuple[str, int]:
        n = self._repeats.get(one, 1)
        while True:
            n += 1
            name = f"{one} ({n})"
            told = hashed(name)
            if told not in here and not self._contains(np.array([told], np.uint64))[0]:
                break
        if one in self._repeats or len(self._repeats) < _REMEMBERED:
            self._repeats[one] = n
        return name, told

    def _spill(self, hashes: Hashes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="manyeyes-ids-")  # noqa: SIM115 - __exit__ closes it
        self._file.write(hashes.tobytes())

    def _load(self) -> None:
        if self._runs is not None:
            return
        self._runs = []
        if self._file is not None:
            self._file.seek(0)
            self._add(np.fromfile(self._file, np.uint64))
            self._file.close()
            self._file = None

    def _add(self, hashes: Hashes) -> None:
        assert self._runs is not None
        hashes.sort()
        self._runs.append(hashes)
        # As in a log-structured tree: runs of like size become one, so there are few, and each id moves rarely. Large
        # ones stay as they are, since joining two takes the memory of both once more.
        while (
            len(self._runs) > 1
            and len(self._runs[-2]) <= 2 * len(self._runs[-1])
            and len(self._runs[-2]) + len(self._runs[-1]) <= _LONGEST_RUN
        ):
            last = self._runs.pop()
            both = np.concatenate([self._runs.pop(), last])
            both.sort()
            self._runs.append(both)

    def _contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(hashes), np.bool_)
        for run in self._runs or ():
            if len(run):
                at = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
                found |= run[at] == hashes
        return found


def hashed(one: str) -> int:
    """Return 64 bits that stand for an id."""
    return int.from_bytes(blake2b(one.encode(), digest_size=8).digest(), "little")
