"""What a label model learns from: the different rows of a label matrix, each once, with how often it was seen.

Label matrices repeat themselves: ten labeling functions (LFs) that mostly abstain leave a few hundred different rows
among a million items. Where they do not, a sample of some ten thousand rows pins the few parameters of a label model
down to well below the noise of its votes, so fitting costs the same for a million items as for twenty thousand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidVotes
from manyeyes.types import ABSTAIN, Votes

MAX_ROWS = 8_192
"""Rows that a label model is fitted on at most: the share of right votes of an LF that votes on half of them is known
to within 0.8 points."""
MAX_SCANNED = 500_000
"""Items whose rows are compared at most; of more, every n-th is."""

_MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], dtype=np.uint64
)


@dataclass(frozen=True, eq=False)
class Observed:
    """Rows to learn from. votes: distinct or sampled rows. weight: float64, shape (n_rows,); items a row stands for.

    gold: known labels of the rows, ABSTAIN where unknown. item: where each row stands in the votes observed.
    """

    votes: Votes
    weight: npt.NDArray[np.float64]
    gold: npt.NDArray[np.int64]
    item: npt.NDArray[np.intp]

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Rows on which some LF voted."""
        return np.asarray((self.votes.classes != ABSTAIN).any(axis=1))

    def rows(self, which: npt.NDArray[np.bool_]) -> Observed:
        """Return some of the rows."""
        return Observed(self.votes.rows(which), self.weight[which], self.gold[which], self.item[which])

    def thinned(self, max_rows: int) -> Observed:
        """Return at most so many of the rows, those with known labels first, and an even share of the rest.

        The rest has half of them at least, so that no row comes to stand for very many items.
        """
        if len(self.weight) <= max_rows:
            return self
        known, rest = np.flatnonzero(self.gold != ABSTAIN), np.flatnonzero(self.gold == ABSTAIN)
        n_rest = min(len(rest), max(max_rows - len(known), max_rows // 2))
        weight = self.weight.copy()
        parts = []
        for rows, count in ((known, max_rows - n_rest), (rest, n_rest)):
            kept = rows[np.linspace(0, len(rows) - 1, count).astype(np.intp)]
            if count:
                weight[kept] *= weight[rows].sum() / weight[kept].sum()
            parts.append(kept)
        which = np.concatenate(parts)
        return Observed(self.votes.rows(which), weight[which], self.gold[which], self.item[which])


def observe(
    votes: Votes, gold: npt.NDArray[np.signedinteger] | None = None, *, max_rows: int = MAX_ROWS
) -> Observed:
    """Return the rows to learn from: every item with a gold label, and the rest as distinct rows with counts.

    The choice depends on what the rows hold and not on their order, up to ``MAX_SCANNED`` items. Rows with scores are
    not merged: of too many, those with the lowest hash are kept.
    """
    n = votes.n_items
    known = np.full(n, ABSTAIN, dtype=np.int64) if gold is None else np.asarray(gold, dtype=np.int64)
    judged = np.flatnonzero(known != ABSTAIN)
    rest = np.flatnonzero(known == ABSTAIN) if judged.size else None
    if n > MAX_SCANNED:
        step = -(-n // MAX_SCANNED)
        rest = np.arange(0, n, step) if rest is None else rest[::step]
    scale = (n - judged.size) / max(rest.size if rest is not None else n, 1)
    chosen, weight = _distinct(votes if rest is None else votes.rows(rest), max_rows)
    if rest is not None:
        chosen = rest[chosen]
    rows = np.concatenate([judged, chosen])
    return Observed(
        votes=votes.rows(rows),
        weight=np.concatenate([np.ones(judged.size), weight * scale]),
        gold=known[rows],
        item=rows,
    )


def _distinct(votes: Votes, max_rows: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return one index for each different row, and how many items it stands for; a sample where they are too many."""
    n = votes.n_items
    if n == 0:
        return np.zeros(0, dtype=np.intp), np.zeros(0)
    code = _hash(votes.classes)
    if not votes.is_hard:
        scores = np.nan_to_num(votes.scores, nan=-1.0)
        code ^= _hash(scores) * _MULTIPLIERS[3]
    ordered = np.sort(code)
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    different, count = ordered[first], np.diff(np.append(first, n)).astype(np.float64)
    often, lowest = different[:0], different[-1]
    if len(different) > max_rows:
        # The rows seen most often, as far as they are seen more than once, then a sample of the others by lowest hash.
        repeated = np.flatnonzero(count > 1)
        top = np.sort(repeated[np.argsort(-count[repeated], kind="stable")[: max_rows // 2]])
        others = np.ones(len(different), dtype=bool)
        others[top] = False
        rare = np.flatnonzero(others)
        kept = rare[: max_rows - len(top)]  # `different` ascends, so these have the lowest hashes
        stands_for = count[rare].sum() / count[kept].sum()
        which = np.concatenate([top, kept])
        often, lowest = different[top], different[kept[-1]]
        count = np.concatenate([count[top], count[kept] * stands_for])
        different = different[which]
        order = np.argsort(different)
        different, count = different[order], count[order]
    # One index for each. Where most rows were left out, few can be among those kept: look only at them.
    near = np.arange(n)
    if len(different) < len(first):
        within = code <= lowest
        if len(often):
            within |= often[np.minimum(np.searchsorted(often, code), len(often) - 1)] == code
        near = np.flatnonzero(within)
    place = np.minimum(np.searchsorted(different, code[near]), len(different) - 1)
    hit = np.flatnonzero(different[place] == code[near])[::-1]
    index = np.empty(len(different), dtype=np.intp)
    index[place[hit]] = near[hit]
    return index, count


def _hash(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint64]:
    """Return one number a row: uint64, shape (n_rows,). Equal rows get equal numbers; others do not, but for 2⁻⁴⁰."""
    raw = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
    width = -(-raw.shape[1] // 8) * 8
    if raw.shape[1] != width:
        padded = np.zeros((len(raw), width), dtype=np.uint8)
        padded[:, : raw.shape[1]] = raw
        raw = padded
    words = raw.view(np.uint64)
    code = np.full(len(raw), _MULTIPLIERS[0])
    for j in range(words.shape[1]):
        code ^= words[:, j]
        code *= _MULTIPLIERS[j % 3]
        code ^= code >> np.uint64(29)
    code *= _MULTIPLIERS[2]
    code ^= code >> np.uint64(32)
    return code


def sample(stream: Iterable[Votes], *, limit: int = 1_000_000) -> Votes:
    """Return a sample of a stream of votes that is larger than memory, to fit a label model on.

    Keeps every item while there are at most ``limit``, then every second, every fourth, and so on: between limit / 2
    and ``limit`` items of a longer stream. Raises InvalidVotes for an empty stream or one of different LFs.
    """
    parts: list[Votes] = []
    step, seen, held = 1, 0, 0
    for block in stream:
        if parts and _meaning(block) != _meaning(parts[0]):
            raise InvalidVotes(
                "a stream of votes must be of the same LFs and classes throughout; got a block with LFs, classes and"
                f" sets {_meaning(block)} after {_meaning(parts[0])}"
            )
        offset = -seen % step
        seen += block.n_items
        kept = block.rows(slice(offset, None, step))
        # A copy, so that the block itself can be let go.
        parts.append(kept.rows(np.arange(kept.n_items)))
        held += kept.n_items
        while held > limit:
            joined = _join(parts)
            parts, step = [joined.rows(np.arange(0, joined.n_items, 2))], step * 2
            held = parts[0].n_items
    if not parts:
        raise InvalidVotes("there are no votes to fit on: the stream is empty")
    return _join(parts)


def _meaning(votes: Votes) -> tuple[list[str], list[str], list[tuple[int, ...]]]:
    """Return what the columns and the values of a label matrix stand for."""
    return list(votes.lf_names), list(votes.class_names), list(votes.sets)


def _join(parts: list[Votes]) -> Votes:
    if len(parts) == 1:
        return parts[0]
    return Votes.concatenate(parts)
