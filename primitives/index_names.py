"""The ids of an index's rows, in little memory: their bytes end to end, and where each begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest

T = TypeVar("T", bound=np.generic)


class Names:
    """Which id every row has, which rows are dropped, and a mark of each row's vector.

    text: UTF-8 of all ids. ends: int64, shape (n_rows,); where each ends. marks: uint64. gone: bool.
    """

    def __init__(
        self,
        text: bytearray,
        ends: npt.NDArray[np.int64],
        marks: npt.NDArray[np.uint64],
        gone: npt.NDArray[np.bool_],
    ) -> None:
        self._text = text
        self._ends = [ends]
        self._marks = [marks]
        self._gone = [gone]
        self._rows: dict[str, int] | None = None

    @classmethod
    def empty(cls) -> Self:
        """Return the names of no rows."""
        return cls(bytearray(), np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.bool_))

    @classmethod
    def open(cls, folder: Path, turn: int) -> Self:
        """Read what ``save`` wrote. Raises OSError or ValueError if it is not whole."""
        text = bytearray((folder / f"ids.{turn}.utf8").read_bytes())
        with (folder / f"rows.{turn}.npz").open("rb") as file:
            kept = np.load(file, allow_pickle=False)
            names = cls(text, kept["ends"], kept["marks"], kept["gone"])
        ends = names._all_ends()
        if len(ends) and (int(ends[-1]) != len(names._text) or (np.diff(ends) < 0).any()):
            raise ValueError("its ids are not whole")
        return names

    def save(self, folder: Path, turn: int) -> None:
        """Write two files into a folder."""
        (folder / f"ids.{turn}.utf8").write_bytes(self._text)
        with (folder / f"rows.{turn}.npz").open("wb") as file:
            np.savez(file, ends=self._all_ends(), marks=_joined(self._marks), gone=self._all_gone())

    @property
    def n_rows(self) -> int:
        return sum(map(len, self._ends))

    @property
    def n_dropped(self) -> int:
        return int(sum(part.sum() for part in self._gone))

    def __len__(self) -> int:
        return self.n_rows - self.n_dropped

    def __getitem__(self, row: int) -> str:
        ends = self._all_ends()
        start = int(ends[row - 1]) if row else 0
        return self._text[start : int(ends[row])].decode()

    def add(self, ids: Sequence[str], marks: npt.NDArray[np.uint64]) -> None:
        """Name new rows. Raises InvalidRequest if an id is taken, or there is not one a row."""
        if len(ids) != len(marks):
            raise InvalidRequest(f"{len(ids)} ids for {len(marks)} vectors; each vector has one")
        rows = self._by_id()
        first = self.n_rows
        sizes = []
        for i, name in enumerate(ids):
            if rows.setdefault(name, first + i) != first + i:
                raise InvalidRequest(f"the id {name!r} comes twice; give every item an id of its own")
            coded = name.encode()
            sizes.append(len(coded))
            self._text += coded
        before = len(self._text) - sum(sizes)
        self._ends.append(before + np.cumsum(np.array(sizes, dtype=np.int64)))
        self._marks.append(marks)
        self._gone.append(np.zeros(len(ids), dtype=np.bool_))

    def compare(
        self, ids: Sequence[str], marks: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Return the places of ids that are new or whose mark changed, and the rows that these make outdated."""
        known, all_marks = self._by_id(), _joined(self._marks)
        self._marks = [all_marks]
        fresh, outdated = [], []
        for i, name in enumerate(ids):
            row = known.get(name)
            if row is None or all_marks[row] != marks[i]:
                fresh.append(i)
                if row is not None:
                    outdated.append(row)
        return np.array(fresh, dtype=np.int64), outdated

    def others(self, ids: Iterable[str]) -> list[int]:
        """Return the rows whose id is not among some."""
        kept = set(ids)
        return [row for name, row in self._by_id().items() if name not in kept]

    def drop(self, rows: Sequence[int]) -> None:
        """Forget rows; their places stay."""
        gone = self._all_gone().copy()
        gone[list(rows)] = True
        self._gone = [gone]
        if self._rows is not None and rows:
            left = set(rows)
            self._rows = {name: row for name, row in self._rows.items() if row not in left}

    def dropped(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which of some rows are dropped; so are those below 0."""
        gone = self._all_gone()
        self._gone = [gone]
        return np.asarray((rows < 0) | gone[np.maximum(rows, 0)])

    def _by_id(self) -> dict[str, int]:
        if self._rows is None:
            ends, gone = self._all_ends(), self._all_gone()
            starts = np.concatenate([[0], ends[:-1]]).tolist() if len(ends) else []
            self._rows = {
                self._text[start:end].decode(): row
                for row, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True))
                if not gone[row]
            }
        return self._rows

    def _all_ends(self) -> npt.NDArray[np.int64]:
        self._ends = [_joined(self._ends)]
        return self._ends[0]

    def _all_gone(self) -> npt.NDArray[np.bool_]:
        self._gone = [_joined(self._gone)]
        return self._gone[0]


def _joined(parts: list[npt.NDArray[T]]) -> npt.NDArray[T]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
