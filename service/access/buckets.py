"""Token buckets: so many calls a minute, some of them at once, with bounded memory whoever calls.

Each process counts by itself: behind a balancer, a key gets its rate from every replica.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_BUCKETS: Final = 10_000
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Taken:
    """What a bucket answered.

    retry_after_s: until the next token is there, 0 where one was. reset_s: until it is full.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_s: int
    retry_after_s: int

    @property
    def headers(self) -> dict[str, str]:
        """The names that most clients know; draft-ietf-httpapi-ratelimit-headers up to version 07."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }


class Buckets:
    """One bucket for each name, of which the least recently used are forgotten above a number.

    A bucket that is forgotten is full again, so what fills the memory must cost more than what it gains.
    clock: seconds that never go back. Used from the event loop alone, so that nothing is locked.
    """

    def __init__(
        self, *, max_buckets: int = MAX_BUCKETS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_buckets = max_buckets
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, name: str, *, per_minute: int, burst: int, tokens: int = 1) -> Taken:
        """Take tokens, if they are there. burst: what a full bucket holds; 0 for a minute's. tokens 0 only looks."""
        size = float(burst or per_minute)
        a_second = per_minute / 60
        now = self._clock()
        level, seen = self._levels.get(name, (size, now))
        level = min(size, level + (now - seen) * a_second)
        allowed = level >= max(tokens, 1) - _ROUNDING
        if allowed:
            level = max(0.0, level - tokens)
        if tokens:
            self._levels[name] = (level, now)
            self._levels.move_to_end(name)
            while len(self._levels) > self.max_buckets:
                self._levels.popitem(last=False)
        return Taken(
            allowed=allowed,
            limit=per_minute,
            remaining=int(level),
            reset_s=math.ceil((size - level) / a_second),
            retry_after_s=0 if allowed else max(1, math.ceil((max(tokens, 1) - level) / a_second)),
        )
