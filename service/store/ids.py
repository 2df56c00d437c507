"""Ids that sort by when they were made."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Final

_RANDOM_BITS: Final = 62
_last = 0
_lock: Final = threading.Lock()


def new_id() -> str:
    """Return a UUID of version 7 as 32 hexadecimal digits: 48 bits of milliseconds, 12 of a finer part, 62 random.

    Within a process each is larger than the one before, also where the clock steps back. Source: RFC 9562, section
    5.7 and method 3 of section 6.2.
    """
    global _last
    with _lock:
        ns = time.time_ns()
        # Milliseconds in the upper 48 bits, the fraction of one in 4096ths below.
        stamp = (ns // 1_000_000 << 12) | (ns % 1_000_000 * 4096 // 1_000_000)
        _last = stamp = max(stamp, _last + 1)
    ms, fraction = stamp >> 12, stamp & 0xFFF
    value = ms << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(_RANDOM_BITS)
    return f"{value:032x}"
