"""Near-duplicates: items that are the same picture or text again, cropped, resized, recompressed or edited a little.

Two items go together where their embeddings are closer than different items come, or where the perceptual hashes of
their images differ in few bits and their embeddings do not object. Groups are what hangs together so.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

COSINE: Final = 0.99
"""Embeddings at least this close are of near-duplicates."""
COSINE_WITH_HASH: Final = 0.85
"""The same where the perceptual hashes agree, too."""
HASH_BITS: Final = 8
"""In how many of their 64 bits perceptual hashes of near-duplicates may differ."""
_NEIGHBORS: Final = 32
_BLOCK: Final = 2_048
_EXACT_UP_TO: Final = 50_000
_PLAIN: Final = range(4, 61)
"""Bits set in a hash that tells something; a plain surface hashes to nearly all or nearly none."""

Pairs = npt.NDArray[np.int64]


def duplicate_groups(
    embeddings: npt.NDArray[np.floating[Any]] | None,
    hashes: npt.NDArray[np.uint64] | None = None,
    *,
    present: npt.NDArray[np.bool_] | None = None,
    cosine: float = COSINE,
    cosine_with_hash: float = COSINE_WITH_HASH,
    hash_bits: int = HASH_BITS,
) -> npt.NDArray[np.int64]:
    """Return the group of every item: int64, shape (n_items,); the least index of an item in it.

    embeddings: shape (n_items, dim), of length 1. hashes: uint64, shape (n_items,), as the ``image`` primitive's
    ``phash``. At least one of them; without embeddings, hashes alone decide. present: which items have either; the
    others stand alone. cosine: from which on two items go together. cosine_with_hash: from which on they do where at
    most ``hash_bits`` bits of their hashes differ. Of an item, its 32 nearest count, and in large sets those that an
    approximate search finds.

    A split that must not leak keeps each group on one side.

    >>> duplicate_groups(np.eye(3)[[0, 1, 0, 2, 1]]).tolist()
    [0, 1, 0, 3, 1]
    """
    known = embeddings if embeddings is not None else hashes
    if known is None:
        raise ValueError("near-duplicates are found by embeddings, by hashes, or by both; got neither")
    n = len(known)
    here = np.flatnonzero(np.ones(n, dtype=bool) if present is None else present)
    pairs = []
    if embeddings is not None and len(here) > 1:
        unit = np.ascontiguousarray(embeddings[here], dtype=np.float32)
        lowest = cosine if hashes is None else min(cosine, cosine_with_hash)
        found, near = _near(unit, lowest)
        keep = near >= cosine
        if hashes is not None:
            differing = np.bitwise_count(hashes[here[found[:, 0]]] ^ hashes[here[found[:, 1]]])
            keep |= (near >= cosine_with_hash) & (differing <= hash_bits)
        pairs.append(here[found[keep]])
    elif hashes is not None and len(here) > 1:
        pairs.append(here[_like_hashes(hashes[here], hash_bits)])
    return _united(np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64), n)


def _near(unit: npt.NDArray[np.float32], lowest: float) -> tuple[Pairs, npt.NDArray[np.float32]]:
    """Return pairs of rows at least so close, and their cosines."""
    if len(unit) > _EXACT_UP_TO:
        return _near_by_index(unit, lowest)
    pairs, cosines = [], []
    for start in range(0, len(unit), _BLOCK):
        # Only what comes after: each pair once.
        block = unit[start : start + _BLOCK] @ unit[start:].T
        rows, columns = np.nonzero(block >= lowest)
        later = columns > rows
        pairs.append(np.stack([rows[later] + start, columns[later] + start], axis=1))
        cosines.append(block[rows[later], columns[later]])
    return np.concatenate(pairs).astype(np.int64), np.concatenate(cosines)


def _near_by_index(unit: npt.NDArray[np.float32], lowest: float) -> tuple[Pairs, npt.NDArray[np.float32]]:
    from manyeyes.primitives.index import VectorIndex, chunks_of

    index = VectorIndex.build(chunks_of([str(i) for i in range(len(unit))], unit), version="duplicates")
    pairs, cosines = [], []
    for start in range(0, len(unit), _BLOCK):
        queries = unit[start : start + _BLOCK]
        near, _ = index.nearest(queries, _NEIGHBORS)
        rows = np.repeat(np.arange(len(queries)), near.shape[1])
        others = near.ravel()
        # The index keeps six bits a dimension: whether a pair is close enough is settled by the vectors themselves.
        exact = np.einsum("ij,ij->i", queries[rows], unit[np.maximum(others, 0)])
        keep = (others >= 0) & (others != rows + start) & (exact >= lowest)
        pairs.append(np.stack([rows[keep] + start, others[keep]], axis=1))
        cosines.append(exact[keep])
    return np.concatenate(pairs).astype(np.int64), np.concatenate(cosines)


def _like_hashes(hashes: npt.NDArray[np.uint64], bits: int) -> Pairs:
    """Return pairs of hashes that differ in at most so many bits; hashes of plain surfaces go with nothing."""
    import faiss

    set_bits = np.bitwise_count(hashes)
    told = np.flatnonzero((set_bits >= _PLAIN.start) & (set_bits < _PLAIN.stop))
    if len(told) < 2:
        return np.empty((0, 2), dtype=np.int64)
    index = faiss.IndexBinaryFlat(64)
    codes = np.ascontiguousarray(hashes[told]).view(np.uint8).reshape(-1, 8)
    index.add(codes)
    pairs = []
    for start in range(0, len(told), _BLOCK):
        # faiss finds what is nearer than the radius.
        limits, _, found = index.range_search(codes[start : start + _BLOCK], bits + 1)
        rows = np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(np.int64)) + start
        later = found > rows
        pairs.append(np.stack([told[rows[later]], told[found[later]]], axis=1))
    return np.concatenate(pairs).astype(np.int64)


def _united(pairs: Pairs, n: int) -> npt.NDArray[np.int64]:
    """Return the least index that each item hangs together with. Source: union-find with path halving, Tarjan 1984."""
    parent = np.arange(n)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for a, b in pairs.tolist():
        left, right = root(a), root(b)
        if left != right:
            parent[max(left, right)] = min(left, right)
    return np.array([root(i) for i in range(n)], dtype=np.int64)
