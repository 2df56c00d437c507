"""Which processor a model runs on, and how much of it fits there. Only files, settings, numbers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_GPU: Final = re.compile(r"nvidia\d+")
_MOST: Final = 32


def n_gpus(folder: Path = Path("/dev")) -> int:
    """Return how many NVIDIA GPUs this process may use: what the system has, or what CUDA_VISIBLE_DEVICES leaves.

    Torch is not asked, because asking loads it, and a run that only looks up should not.
    """
    try:
        present = sum(bool(_GPU.fullmatch(path.name)) for path in folder.iterdir())
    except OSError:
        return 0
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return present
    named = [name.strip() for name in shown.split(",") if name.strip()]
    # CUDA itself stops at the first that it does not know, and −1 is how people say "none".
    return min(present, named.index("-1") if "-1" in named else len(named))


def gpu_of(worker: int, available: int) -> str:
    """Return the GPU of one of several worker processes: one process a GPU, dealt in turn.

    >>> [gpu_of(worker, 2) for worker in range(3)]
    ['cuda:0', 'cuda:1', 'cuda:0']
    """
    if available < 1:
        raise ValueError("there is no GPU to deal")
    return f"cuda:{worker % available}"


def fitting_pack(free_bytes: int, bytes_per_image: int, *, most: int = _MOST) -> int:
    """Return how many images a forward pass may have: a power of two that needs at most half of the free memory.

    bytes_per_image: measured on a small pass. most: no more than a batch of the extractor's, since the rest would be
    padding. Half, because two passes are under way at once: one computes while the next one's pixels are copied.

    >>> fitting_pack(16 * 2**30, 20 * 2**20), fitting_pack(100 * 2**20, 20 * 2**20)
    (32, 2)
    """
    fits = max(1, free_bytes // 2 // max(1, bytes_per_image))
    return 1 << (min(fits, most).bit_length() - 1)
