"""The breaker: stops a job that is hopeless, such as a bucket in which nothing is an image, within seconds.

Failures often stand together: a folder of damaged files comes first, or the fastest answers are the refusals. So a job
is not given up because the first rows fail: that only raises a suspicion, and then rows from all over the source are
tried. Only if more of them fail than may, the job stops.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from manyeyes.service.jobs.shapes import Breaker, Counts

_AGAIN: Final = 4
"""A suspicion that was wrong is not raised again before so many times as many rows are known."""


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Why a job is given up. rows: that were looked at. code: the commonest of the errors; row, message: one of it."""

    rows: int
    failed: int
    code: str
    n_code: int
    row: str
    message: str

    def __str__(self) -> str:
        return (
            f"{self.failed:,} of {self.rows:,} rows failed; the commonest error is {self.code} ({self.n_code:,}), such"
            f" as {self.row!r}: {self.message}"
        )


class Watched:
    """Counts rows as they become known, and says when there is a suspicion. Used by several threads."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self._lock = threading.Lock()
        self._rows = 0
        self._from = breaker.min_rows
        self._failed: Counter[str] = Counter()
        self._examples: dict[str, tuple[str, str]] = {}

    def saw(self, n_rows: int, errors: Sequence[tuple[str, str, str]]) -> None:
        """Count rows of which some failed: (id, code, message) of each that did."""
        with self._lock:
            self._rows += n_rows
            for row, code, message in errors:
                self._failed[code] += 1
                self._examples.setdefault(code, (row, message))

    @property
    def is_suspicious(self) -> bool:
        """Whether enough rows are known, and more of them failed than may."""
        with self._lock:
            failed = self._failed.total()
            return self._rows >= self._from and failed > self.breaker.max_error_rate * self._rows

    def was_wrong(self) -> None:
        """Note that a suspicion was not confirmed."""
        with self._lock:
            self._from = _AGAIN * max(self._rows, self._from)

    def hopeless(self, *, least: int = 1) -> Hopeless | None:
        """Return why a job whose rows these are is hopeless, or None. least: from how many rows on one may say so."""
        with self._lock:
            failed = self._failed.total()
            if self._rows < least or failed <= self.breaker.max_error_rate * self._rows:
                return None
            (code, n), *_ = self._failed.most_common(1)
            return Hopeless(self._rows, failed, code, n, *self._examples[code])


def too_many(breaker: Breaker, counts: Counts) -> bool:
    """Whether a job all of whose rows are known is one on which no label model should be fitted.

    However few rows there are, if all of them failed it is.
    """
    if counts.rows and counts.failed == counts.rows:
        return True
    return counts.rows >= breaker.min_rows and counts.failed > breaker.max_error_rate * counts.rows


def spread(n: int, most: int) -> list[int]:
    """Return up to ``most`` of ``n`` places, spread evenly.

    >>> spread(10, 4), spread(3, 5)
    ([1, 3, 6, 8], [0, 1, 2])
    """
    if most < 1:
        return []
    step = max(1.0, n / most)
    return [int(step * (i + 0.5)) for i in range(min(n, most))]
