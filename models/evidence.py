"""Sums of per-vote evidence over many items: the inner loop of every additive label model.

``sum_tables`` looks each vote up in a table and adds the rows that it finds. Several labeling functions (LFs) are read
at once: their votes make one number, which indexes a table of their added evidence, so that twenty LFs over two classes
cost three look-ups an item instead of twenty. Blocks of items run on several threads, since numpy lets go of the
interpreter in all that matters here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from manyeyes.types import FloatArray, VoteArray, Votes

_BLOCK_CELLS = 327_680
"""Items × classes a block: its scratch space stays near the processor."""
_TABLE_CELLS = 32_768
"""Numbers in a table of joint evidence: more would fall out of the second-level cache (256 KiB of float64)."""
_TILE = 4_096
"""Rows whose probabilities are computed at once."""
_FEW_CLASSES = 32
ACCURACY_OF_A_HARD_VOTE = 0.7
"""What a vote without a score is worth before anything is known of its LF: right seven times out of ten."""
_SURE = 1e-3
"""No score is trusted further than this from certainty, so that one LF can always be outvoted."""

Float = npt.NDArray[np.float64]
_Thing = TypeVar("_Thing")
_Made = TypeVar("_Made")


class JointTables:
    """Evidence of several LFs at a time, ready to be looked up, under two regimes: one for each kind of item.

    tables: float64, shape (2, n_lfs, n_values + 1, n_classes); row 0 is what an abstention adds, row v + 1 what vote v
    adds, under the first regime and under the second.
    """

    def __init__(self, tables: Float) -> None:
        _, n_lfs, symbols, n_classes = tables.shape
        together = 1
        while symbols ** (together + 1) * n_classes * 2 <= _TABLE_CELLS and together < n_lfs:
            together += 1
        self.symbols = symbols
        # Groups of nearly equal size need the smallest tables for the same number of look-ups.
        n_groups = -(-n_lfs // together) if n_lfs else 0
        edges = np.linspace(0, n_lfs, n_groups + 1).round().astype(int).tolist()
        self.groups: list[tuple[int, int, Float]] = []
        for first, last in pairwise(edges):
            joint = tables[:, first]
            for j in range(first + 1, last):
                joint = (joint[:, :, None, :] + tables[:, j][:, None, :, :]).reshape(2, -1, n_classes)
            self.groups.append((first, last, np.ascontiguousarray(joint.reshape(-1, n_classes))))

    def add_to(self, out: Float, columns: VoteArray, second: npt.NDArray[np.bool_]) -> None:
        """Add the evidence of some items' votes to ``out``, shape (n_items, n_classes).

        columns: votes, one row an LF: shape (n_lfs, n_items), contiguous. second: shape (n_items,); items of the second
        regime.
        """
        found = np.empty_like(out)
        for first, last, joint in self.groups:
            code = second.astype(np.intp)
            for j in range(first, last):
                code *= self.symbols
                code += columns[j]
                code += 1
            np.take(joint, code, axis=0, out=found, mode="clip")
            out += found


def block_size(n_classes: int) -> int:
    """Return how many items make a block."""
    return max(256, _BLOCK_CELLS // max(n_classes, 10))


def blocks(n_items: int, size: int) -> Iterator[slice]:
    """Return slices that cover ``n_items`` rows, in order."""
    return (slice(start, min(start + size, n_items)) for start in range(0, n_items, size))


def in_blocks(n_items: int, work: Callable[[slice], None], *, size: int) -> None:
    """Call ``work`` on every block of rows, on as many threads as there are cores; each writes rows of its own.

    The first block runs in the caller's thread, so that what all blocks share and make at first use is made once.
    """
    todo = list(blocks(n_items, size))
    for rows in todo[:1]:
        work(rows)
    each(work, todo[1:])


def each(work: Callable[[_Thing], _Made], things: Sequence[_Thing]) -> list[_Made]:
    """Return what ``work`` makes of each thing, in order, on as many threads as there are cores."""
    n_threads = min(len(things), cores())
    if n_threads <= 1:
        return [work(thing) for thing in things]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(work, things))


def one_blas_thread() -> Any:
    """Return a context in which matrix products run in the caller's thread.

    Products this small lose more by waking a second BLAS thread than they gain, above all while something else has the
    cores: 17 times slower was seen.
    """
    return _ONE_THREAD


class _OneThread:
    """The limit holds from when the first thread enters to when the last one leaves.

    It is one for the whole process, so that who left first would undo it for those who are still inside.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = _thread_pools().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()
                self._limit = None

    def renew(self) -> None:
        """Forget who is inside; for a process that was forked."""
        self._lock = threading.Lock()
        self._inside = 0


_ONE_THREAD: Final = _OneThread()
os.register_at_fork(after_in_child=_ONE_THREAD.renew)


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        return os.cpu_count() or 1


def softmax(logits: Float, out: npt.NDArray[Any] | None = None) -> Float:
    """Return row-wise probabilities: float64, same shape; or write them into ``out``, of any floating dtype.

    >>> softmax(np.log([[1.0, 3.0]])).tolist()
    [[0.25, 0.75]]
    """
    n, k = logits.shape
    probs: npt.NDArray[Any] = np.empty((n, k)) if out is None else out
    if not logits.size:
        return probs
    if k > _FEW_CLASSES:
        for rows in blocks(n, _TILE):
            part = logits[rows] - logits[rows].max(axis=1, keepdims=True)
            np.exp(part, out=part)
            np.divide(part, part.sum(axis=1, keepdims=True), out=probs[rows], casting="same_kind")
        return probs
    # Classes first: sums over a handful of neighbouring numbers cost far more than over whole rows of items.
    scratch = np.empty((k, min(n, _TILE)))
    for rows in blocks(n, _TILE):
        part = scratch[:, : rows.stop - rows.start]
        part[:] = logits[rows].T
        part -= part.max(axis=0, initial=-np.inf)
        np.exp(part, out=part)
        total = part[0].copy()
        for of_class in part[1:]:  # always in this order: numpy sums the classes of a lone item in another
            total += of_class
        part /= total
        probs[rows] = part.T
    return probs


def members(votes: Votes) -> Float:
    """Return which classes each vote names: float64 of 0 and 1, shape (n_values + 1, n_classes).

    Row v is vote v; the last row, which index ABSTAIN finds too, names none.
    """
    named = np.zeros((votes.n_values + 1, votes.n_classes))
    named[np.arange(votes.n_classes), np.arange(votes.n_classes)] = 1.0
    for i, classes in enumerate(votes.sets):
        named[votes.n_classes + i, list(classes)] = 1.0
    return named


def score_logits(scores: FloatArray) -> Float:
    """Return the log-odds of scores, kept off certainty, and 0 where there is no score: float64, same shape."""
    score = np.clip(scores.astype(np.float64), _SURE, 1 - _SURE)
    logits: Float = np.where(np.isnan(scores), 0.0, np.log(score) - np.log1p(-score))
    return logits
