"""Who goes into which split: rows that hang together stay together, and the fractions hold, class by class.

Groups of several rows go first, the largest first, each to the split that its key draws, unless that one has no room
for it. Rows that stand alone then fill what is left of each class, in the order of their keys. A key depends on the
seed and the row's id alone, so that a dataset that has grown by a little is split nearly as before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_BITS: Final = 63
Integers = npt.NDArray[np.int64]


def split_key(seed: int, row_id: str) -> int:
    """Return 63 bits that put a row in its place; as good as random, and always the same."""
    digest = hashlib.blake2b(row_id.encode(), digest_size=8, key=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") >> (64 - _BITS)


def split_rows(
    groups: Integers, strata: Integers, keys: Integers, fractions: Sequence[float]
) -> npt.NDArray[np.int8]:
    """Return the split of every row: int8, shape (n_rows,), an index of ``fractions``.

    groups: shape (n_rows,); rows with an equal one are never divided. strata: shape (n_rows,); the class of each, from
    0 on, within which the fractions shall hold as far as groups allow. keys: shape (n_rows,), from ``split_key``.
    Without groups, each split differs from its fraction of all rows by less than one row for each split, and in each
    class by at most two. With them, by not much more than the largest group.

    >>> split_rows(np.array([0, 0, 2, 3]), np.zeros(4, int), np.arange(4) << 61, [0.5, 0.5]).tolist()
    [1, 1, 0, 0]
    """
    n, n_splits = len(groups), len(fractions)
    shares = np.asarray(fractions, dtype=np.float64)
    result = np.zeros(n, dtype=np.int8)
    if n == 0 or n_splits == 1:
        return result
    n_strata = int(strata.max()) + 1
    # Where each split is to have how many of each class, and how many it has.
    quota = shares[:, None] * np.bincount(strata, minlength=n_strata)[None, :]
    filled = np.zeros((n_splits, n_strata))
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    together = sizes[member] > 1
    bounds = np.cumsum(shares)
    for rows in _grouped(np.flatnonzero(together), member, keys):
        classes, counts = np.unique(strata[rows], return_counts=True)
        drawn = int(np.searchsorted(bounds, _even(int(keys[rows].min())), side="right"))
        drawn = min(drawn, n_splits - 1)
        room = quota[:, classes] - filled[:, classes]
        if (room[drawn] < counts).any():
            fitting = (room >= counts).all(axis=1)
            # Of those with room, the one that lacks most of its share; else the one that is overfilled least.
            lack = (room / np.maximum(quota[:, classes], 1e-9) * counts).sum(axis=1)
            drawn = (
                int(np.where(fitting, lack, -np.inf).argmax())
                if fitting.any()
                else int((room * counts).sum(axis=1).argmax())
            )
        filled[drawn, classes] += counts
        result[rows] = drawn
    _fill(result, np.flatnonzero(~together), strata, keys, quota - filled)
    return result


def _even(least: int) -> float:
    """Return a number in [0, 1) for the least key of a group, which by itself is the smaller the larger the group."""
    digest = hashlib.blake2b(least.to_bytes(8, "big"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _grouped(rows: Integers, member: npt.NDArray[Any], keys: Integers) -> list[Integers]:
    """Return the rows of each group, the largest first; of equal ones, by their least key."""
    if not len(rows):
        return []
    order = rows[np.argsort(member[rows], kind="stable")]
    cuts = np.flatnonzero(np.diff(member[order])) + 1
    found = np.split(order, cuts)
    return sorted(found, key=lambda one: (-len(one), int(keys[one].min())))


def _fill(
    result: npt.NDArray[np.int8],
    rows: Integers,
    strata: Integers,
    keys: Integers,
    room: npt.NDArray[np.float64],
) -> None:
    """Give rows that stand alone to what is left of each split, class by class."""
    order = rows[np.lexsort((keys[rows], strata[rows]))]
    cuts = np.flatnonzero(np.diff(strata[order])) + 1
    carried = np.zeros(len(room))
    for own in np.split(order, cuts) if len(order) else []:
        # What rounding took from a split in one class, it gets in the next: many small classes add up, too.
        wanted = np.maximum(room[:, strata[own[0]]], 0) + carried
        left = np.maximum(wanted, 0)
        left *= len(own) / left.sum() if left.sum() > 0 else 0
        counts = np.floor(left + 1e-9).astype(np.int64)
        for split in np.argsort(-(left - counts), kind="stable")[: len(own) - int(counts.sum())]:
            counts[split] += 1
        if int(counts.sum()) < len(own):
            counts[0] += len(own) - int(counts.sum())
        carried = wanted - counts
        result[own] = np.repeat(np.arange(len(counts)), counts)
