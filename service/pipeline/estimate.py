"""How long work takes, learned while it is done: seconds = a · n + b, recent batches counting most."""

from __future__ import annotations

import threading
import time
from typing import Final

_KEEP: Final = 0.9
"""What the past counts for after each batch: the last ten or so decide."""


class Fit:
    """Least squares of a line through (items of a batch, its seconds); neither coefficient is below 0.

    The first batch is left out: models load, and memory is touched for the first time. Source: BentoML's dispatcher,
    which predicts latency by the same line.

    >>> fit = Fit()
    >>> for n in (1, 1, 4, 2, 8):
    ...     fit.add(n, 0.5 + 0.25 * n)
    >>> round(fit.predict(10, most=8), 3)  # two batches
    3.5
    """

    def __init__(self) -> None:
        self.a = self.b = 0.0
        self.last = 0.0
        self._seen = 0
        self._sums = [0.0] * 5
        self._lock = threading.Lock()

    def add(self, n: int, seconds: float) -> None:
        """Learn from a batch."""
        with self._lock:
            self.last = time.monotonic()
            self._seen += 1
            if self._seen == 1:
                return
            new = (1.0, n, n * n, seconds, n * seconds)
            self._sums = [_KEEP * old + one for old, one in zip(self._sums, new, strict=True)]
            weight, of_n, of_nn, of_s, of_ns = self._sums
            spread = weight * of_nn - of_n * of_n
            a = (weight * of_ns - of_n * of_s) / spread if spread > 1e-6 * of_nn * weight else -1.0
            b = (of_s - a * of_n) / weight
            if a < 0 or b < 0:  # all of one size, or noise: so much an item
                a, b = of_s / of_n, 0.0
            self.a, self.b = a, b

    def predict(self, n: float, *, most: int) -> float:
        """Return the seconds for n items in batches of at most so many."""
        return self.a * n + self.b * -(-n // most)
