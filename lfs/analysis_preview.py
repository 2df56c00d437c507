"""What dropping, adding or editing one labeling function would do to the labels, before it is saved."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest, InvalidVotes, nearest
from manyeyes.lfs.analysis_blocks import (
    SURE,
    FittedModel,
    Mask,
    accuracy_at,
    chance,
    evidence_table,
    kept_rows,
    log_odds_of_accuracy,
    log_posterior,
    members,
    odds_for,
    over_blocks,
    score_logits,
)
from manyeyes.lfs.analysis_change import EXAMPLES, Change, Flip, Tally
from manyeyes.lfs.base import VoteColumn
from manyeyes.types import ABSTAIN, FloatArray, VoteArray, Votes, no_scores, vote_dtype

_BLOCK: Final = 32_768
_ENOUGH: Final = 200_000
_BOUND: Final = math.log((1 - SURE) / SURE)
_TIE: Final = 1e-4  # nats; classes this close are tied, and rounding must not flip a label


class Preview:
    """Holds what previews of one label matrix share; each preview then takes time for one LF, not for all.

    votes: the label matrix as it is. label_model: fitted on it. errors: rows to leave out. abstain_below: an item whose
    most probable class is less probable than this has no label, nor has one on which no LF votes. more_sets: sets of
    classes that new columns may vote for, numbered on from those of the votes.

    A preview takes the LF's own evidence, as the label model says it, out of the log-posterior and puts in that of the
    new column. How often the new column is right is estimated against what all others say
    (``analysis_blocks.log_odds_of_accuracy``), the old column likewise. A vote that was there before keeps its
    evidence, moved by the difference of the two estimates; any other vote gets ``log(a (k - 1) / (1 - a))`` for
    accuracy a, along the line by which the label model weighed the old column's votes. Evidence is never negative.
    The evidence of the other LFs stays: to see how they would be weighed anew, fit the label model again.

    It holds the votes once more, a column in one piece, and the log-posterior, 4 bytes a class and item.
    Raises InvalidRequest if errors name rows that are not there; NotFitted or InvalidVotes as the label model does.

    >>> from manyeyes.models.majority import MajorityVote
    >>> votes = Votes.hard([[0, 0, 1], [-1, -1, 1], [0, 1, 1], [-1, 0, -1]], n_classes=2)
    >>> change = Preview(votes, MajorityVote().fit(votes)).drop("lf_2")
    >>> change.after.conflicts, change.uncovered_examples
    (0.25, (1,))
    >>> [(flip.before, flip.after, flip.items) for flip in change.flips]
    [('class_1', None, 1), ('class_1', 'class_0', 1)]
    """

    def __init__(
        self,
        votes: Votes,
        label_model: FittedModel,
        *,
        errors: Collection[int] = (),
        abstain_below: float = 0.0,
        more_sets: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self.votes = votes
        self.label_model = label_model
        self.abstain_below = abstain_below
        rows = kept_rows(votes.n_items, errors)
        self._broken: Mask | None = None
        if rows is not None:
            self._broken = np.ones(votes.n_items, dtype=np.bool_)
            self._broken[rows] = False
        self._n_sound = votes.n_items if rows is None else len(rows)
        known = replace(votes, sets=(*votes.sets, *more_sets))
        self._n_values = known.n_values
        self._table = members(known)
        self._chance = chance(self._table)
        self._turned = np.array(
            votes.classes.T, dtype=vote_dtype(self._n_values), order="C"
        )  # ours to write in
        if self._broken is not None:
            self._turned[:, self._broken] = ABSTAIN
        self._logits = np.ascontiguousarray(log_posterior(label_model, votes).T)

    def drop(self, lf: str | int) -> Change:
        """Return what leaving out one LF, by name or column, would do. Raises InvalidRequest if there is none such."""
        return self._change("drop", self._index(lf), None)

    def add(self, column: VoteColumn, *, name: str = "new") -> Change:
        """Return what one more LF would do. Raises InvalidVotes if its votes are not of these items and classes."""
        return self._change("add", None, self._checked(column), name=name)

    def edit(self, lf: str | int, column: VoteColumn) -> Change:
        """Return what other votes of one LF, by name or column, would do.

        Raises InvalidRequest if there is no such LF, InvalidVotes if its votes are not of these items and classes.
        """
        return self._change("edit", self._index(lf), self._checked(column))

    def _change(
        self,
        kind: Literal["drop", "add", "edit"],
        lf: int | None,
        column: VoteColumn | None,
        *,
        name: str = "",
    ) -> Change:
        votes, n = self.votes, self.votes.n_items
        own = np.zeros_like(self._logits) if lf is None else self._evidence(lf)
        nothing = np.full(n, ABSTAIN, dtype=self._turned.dtype), no_scores((n,))
        before = _Side(*nothing)
        if lf is not None:
            before = _Side(self._turned[lf], no_scores((n,)) if votes.is_hard else votes.scores[:, lf])
        after = _Side(*(nothing if column is None else self._silenced(column)))
        self._weigh(before, own)
        self._weigh(after, own)
        if lf is not None:
            # How much more or less the label model trusts this LF than its accuracy alone would have it.
            after.trust, after.tilt = _trust(before)
        tally = Tally(
            np.zeros((votes.n_classes + 1,) * 2, dtype=np.int64), np.zeros(votes.n_lfs, dtype=np.int64)
        )
        for part in over_blocks(lambda run: self._tally(lf, own, before, after, run), n, size=_BLOCK):
            tally.add(part)
        return self._told(kind, lf, name if lf is None else votes.lf_names[lf], tally, before, after)

    def _evidence(self, lf: int) -> FloatArray:
        """Return what an LF adds as it is: float32, shape (n_classes, n_items), nats."""
        own = np.empty_like(self._logits)
        table = evidence_table(self.label_model, self.votes, lf)

        def fill(run: Iterator[slice]) -> None:
            for block in run:
                if table is None:
                    own[:, block] = self.label_model.evidence_of(self.votes.rows(block), lf).T
                else:
                    np.take(table.T, self.votes.classes[block, lf], axis=1, out=own[:, block], mode="wrap")

        over_blocks(fill, self.votes.n_items, size=_BLOCK)
        return own

    def _weigh(self, side: _Side, own: FloatArray) -> None:
        """Estimate how often the votes of a column are right, from at most 200,000 of them."""
        rows = np.flatnonzero(side.classes != ABSTAIN)
        side.n_votes = len(rows)
        if not len(rows):
            return
        rows = rows[:: max(1, len(rows) // _ENOUGH)]
        vote, mine = side.classes[rows], own[:, rows]
        side.sampled_scores = score_logits(side.scores[rows])
        side.offset = log_odds_of_accuracy(
            odds_for(self._logits[:, rows] - mine, vote, self._table), side.sampled_scores
        )
        base = side.offset if side.sampled_scores is None else side.offset + side.sampled_scores
        side.fair = np.maximum(0.0, self._chance[vote] + base)
        side.given = _advantage(mine, vote, self._table)

    def _tally(
        self, lf: int | None, own: FloatArray, before: _Side, after: _Side, run: Iterator[slice]
    ) -> Tally:
        k = self.votes.n_classes
        tally = Tally(np.zeros((k + 1, k + 1), dtype=np.int64), np.zeros(self.votes.n_lfs, dtype=np.int64))
        for block in run:
            turned, column = self._turned[:, block], after.classes[block]
            if lf is None:
                changed = np.concatenate([turned, column[None]])
            elif after.n_votes:
                changed = turned.copy()
                changed[lf] = column
            else:
                changed = np.delete(turned, lf, axis=0)
            n_before = tally.before.add(turned, self._table, lf)
            n_after = tally.after.add(
                changed, self._table, -1 if lf is None else lf if after.n_votes else None
            )
            if after.n_votes:
                spoken = np.where(column == ABSTAIN, ABSTAIN - 1, column)  # no vote is like an abstention
                tally.same += [np.count_nonzero(row) for row in turned == spoken]

            logits = self._logits[:, block]
            moved = logits + self._difference(own[:, block], before, after, block)
            was = self._labels(logits, n_before)
            now = self._labels(moved, n_after)
            tally.flips += np.bincount(
                (was + 1).astype(np.intp) * (k + 1) + now + 1, minlength=(k + 1) ** 2
            ).reshape(k + 1, k + 1)
            rows = np.flatnonzero((was != now) & (was != ABSTAIN) & (now != ABSTAIN))
            far = 0.5 * np.abs(_softmax(moved[:, rows]) - _softmax(logits[:, rows])).sum(axis=0)
            furthest = np.argsort(-far, kind="stable")[:EXAMPLES]
            tally.examples += zip(
                (-far[furthest]).tolist(), (rows[furthest] + block.start).tolist(), strict=True
            )
            covered, uncovered = (n_before == 0) & (n_after > 0), (n_before > 0) & (n_after == 0)
            tally.covered += int(np.count_nonzero(covered))
            tally.uncovered += int(np.count_nonzero(uncovered))
            tally.covered_rows += (np.flatnonzero(covered)[:EXAMPLES] + block.start).tolist()
            tally.uncovered_rows += (np.flatnonzero(uncovered)[:EXAMPLES] + block.start).tolist()
        return tally

    def _difference(self, own: FloatArray, before: _Side, after: _Side, block: slice) -> FloatArray:
        """Return what the log-posterior gains: float32, shape (n_classes, n_rows), nats."""
        old, new = before.classes[block], after.classes[block]
        old_score, new_score = before.scores[block], after.scores[block]
        same_score = (old_score == new_score) | (np.isnan(old_score) & np.isnan(new_score))
        kept = (old == new) & (new != ABSTAIN) & same_score
        difference = np.where(kept, np.float32(0.0), -own)
        rows = np.flatnonzero(new != ABSTAIN)
        vote, stays = new[rows], kept[rows]
        logits = score_logits(new_score[rows])
        sure = np.clip(after.offset + (0.0 if logits is None else logits), -_BOUND, _BOUND)
        fresh = np.maximum(0.0, after.tilt * (self._chance[vote] + sure) + after.trust)
        shift = np.maximum(
            after.offset - before.offset, -np.maximum(0.0, _advantage(own[:, rows], vote, self._table))
        )
        gain = np.where(stays, shift, fresh).astype(np.float32)
        single = vote < self.votes.n_classes
        difference[vote[single], rows[single]] += gain[single]
        if not single.all():
            difference[:, rows[~single]] += self._table[vote[~single]].T * gain[~single]
        return difference

    def _labels(self, logits: FloatArray, n_votes: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
        """Return the most probable class, the first of those that are tied, or ABSTAIN: int16, shape (n_rows,)."""
        near = logits >= logits.max(axis=0) - _TIE
        label = np.zeros(logits.shape[1], dtype=np.int16)
        for c in range(len(logits) - 1, -1, -1):
            np.copyto(label, c, where=near[c])
        silent = n_votes == 0
        if self.abstain_below > 0:
            silent |= _softmax(logits).max(axis=0) < self.abstain_below
        label[silent] = ABSTAIN
        return label

    def _told(
        self,
        kind: Literal["drop", "add", "edit"],
        lf: int | None,
        name: str,
        tally: Tally,
        before: _Side,
        after: _Side,
    ) -> Change:
        names = (None, *self.votes.class_names)
        flips = [
            Flip(names[was], names[now], int(tally.flips[was, now]))
            for was, now in np.argwhere(tally.flips).tolist()
            if was != now
        ]
        same = tally.same
        if lf is not None:
            same[lf] = 0
        twin = int(same.argmax()) if same.any() else None
        return Change(
            kind=kind,
            lf=name,
            n_items=self._n_sound,
            before=tally.before.shares(self._n_sound),
            after=tally.after.shares(self._n_sound),
            lf_before=None if kind == "add" else tally.before.own.shares(self._n_sound),
            lf_after=None if kind == "drop" else tally.after.own.shares(self._n_sound),
            estimated_before=before.accuracy(),
            estimated_after=after.accuracy(),
            n_flips=sum(flip.items for flip in flips if None not in (flip.before, flip.after)),
            flips=tuple(sorted(flips, key=lambda flip: -flip.items)),
            examples=tuple(row for _, row in sorted(tally.examples)[:EXAMPLES]),
            newly_covered=tally.covered,
            uncovered=tally.uncovered,
            covered_examples=tuple(tally.covered_rows[:EXAMPLES]),
            uncovered_examples=tuple(tally.uncovered_rows[:EXAMPLES]),
            twin=None if twin is None else (self.votes.lf_names[twin], float(same[twin] / after.n_votes)),
        )

    def _index(self, lf: str | int) -> int:
        names = self.votes.lf_names
        if isinstance(lf, str) and lf in names:
            return names.index(lf)
        if not isinstance(lf, str) and 0 <= lf < len(names):
            return int(lf)
        hint = nearest(lf, names) if isinstance(lf, str) else ""
        raise InvalidRequest(f"no LF {lf!r}; LFs: {', '.join(names) or '(none)'}{hint}")

    def _checked(self, column: VoteColumn) -> VoteColumn:
        shape, n_values = (self.votes.n_items,), self._n_values
        if column.classes.shape != shape or column.scores.shape != shape:
            raise InvalidVotes(
                f"a column of votes has classes and scores of shape {shape}, one an item, got {column.classes.shape}"
                f" and {column.scores.shape}"
            )
        if not np.issubdtype(column.classes.dtype, np.signedinteger):
            raise InvalidVotes(
                f"votes must be signed integers, got {column.classes.dtype}; ABSTAIN is {ABSTAIN}"
            )
        if column.classes.size and (column.classes.min() < ABSTAIN or column.classes.max() >= n_values):
            raise InvalidVotes(
                f"a vote is {ABSTAIN} (abstain) or below {n_values}, a class index or a set of classes, got values from"
                f" {column.classes.min()} to {column.classes.max()}"
            )
        return column

    def _silenced(self, column: VoteColumn) -> tuple[VoteArray, FloatArray]:
        classes = column.classes.astype(self._turned.dtype)
        if self._broken is not None:
            classes[self._broken] = ABSTAIN
        if column.errors:
            classes[sorted(column.errors)] = ABSTAIN
        return classes, column.scores


@dataclass
class _Side:
    """One LF before or after a change. classes, scores: its column, shape (n_items,).

    offset: how far its votes can be believed, in nats; with the scores of a sample of its votes, how often it is right.
    fair, given: evidence of these votes, by that offset and by the label model. trust, tilt: given = tilt · fair +
    trust, as near as a line comes.
    """

    classes: VoteArray
    scores: FloatArray
    n_votes: int = 0
    offset: float = 0.0
    trust: float = 0.0
    tilt: float = 1.0
    sampled_scores: FloatArray | None = None
    fair: FloatArray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    given: FloatArray = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    def accuracy(self) -> float | None:
        return accuracy_at(self.offset, self.sampled_scores) if self.n_votes else None


def _trust(side: _Side) -> tuple[float, float]:
    """Return the line, as height and slope, by which a label model weighs votes as their own accuracy would have it."""
    if not side.n_votes:
        return 0.0, 1.0
    spread = float(np.var(side.fair))
    together = float(np.mean((side.fair - np.mean(side.fair)) * (side.given - np.mean(side.given))))
    tilt = min(max(together / spread, 0.0), 1.5) if spread > 1e-3 else 1.0
    return float(np.mean(side.given) - tilt * np.mean(side.fair)), tilt


def _advantage(evidence: FloatArray, vote: VoteArray, table: Mask) -> FloatArray:
    """Return what evidence, shape (n_classes, n_rows), adds for the classes voted for above the others: nats."""
    k, size = len(evidence), table.sum(axis=1)[vote].astype(np.float32)
    sums = (
        evidence if len(table) == k else np.concatenate([evidence, table[k:].astype(np.float32) @ evidence])
    )
    within = np.take_along_axis(sums, vote[None].astype(np.intp), axis=0)[0]
    return np.asarray(within / size - (evidence.sum(axis=0) - within) / np.maximum(k - size, 1), np.float32)


def _softmax(logits: FloatArray) -> FloatArray:
    weight = np.exp(logits - logits.max(axis=0))
    return np.asarray(weight / weight.sum(axis=0), dtype=np.float32)
