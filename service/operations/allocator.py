"""Memory of forward passes that is kept for the next one instead of being given back to the system each time."""

from __future__ import annotations

import ctypes
import logging
from typing import Final

log: Final = logging.getLogger("manyeyes.service")

_M_TRIM_THRESHOLD: Final = -1  # of malloc.h
_M_MMAP_THRESHOLD: Final = -3
_LARGEST: Final = 32 * 2**20
_KEPT: Final = 256 * 2**20


def keep_freed_memory() -> bool:
    """Tell the allocator of this process to keep up to 256 MiB that were freed; return whether it took that.

    By itself glibc gives every large block back at once, and the system hands it out again page by page, zeroed: for
    the starter CLIP 4,700 page faults an image, a fifth of the time. Blocks above 32 MiB, such as large photographs,
    are still given back at once. A process of the service's own, or of a job's, may do that; a library must not, so
    nobody else calls it. Other allocators than glibc's are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    taken = bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
    log.debug("freed memory is %s", "kept" if taken else "given back")
    return taken
