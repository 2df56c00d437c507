"""What a label matrix says of each labeling function: polarity, coverage, overlaps, conflicts, how often it is right.

Which LFs hang together is in ``analysis_pairs``, what a change of one would do in ``analysis_preview``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.analysis_blocks import (
    FittedModel,
    Mask,
    accuracy_at,
    by_column,
    checked_gold,
    checked_probs,
    clashes,
    count_votes,
    disagreement,
    evidence_table,
    kept_rows,
    log_odds_of_accuracy,
    members,
    odds_for,
    over_blocks,
    posterior,
    score_logits,
)
from manyeyes.types import ABSTAIN, FloatArray, VoteArray, Votes

_BLOCK: Final = 16_384
_ENOUGH: Final = 100_000  # votes of one LF for its estimated accuracy
_Z95: Final = 1.959964


@dataclass(frozen=True, slots=True)
class ValueSummary:
    """The votes of one LF for one class, or one set of classes. correct, incorrect: on items whose label is known."""

    name: str
    votes: int
    correct: int
    incorrect: int


@dataclass(frozen=True, slots=True)
class LFSummary:
    """One labeling function on some items. Shares are of all items, in [0, 1].

    polarity: what it votes for, in the recipe's order, sets of classes after the classes. coverage: where it votes.
    overlaps: where another LF votes too. conflicts: where another LF votes for something else, with no class in common.
    mean_score: over its votes with a score. correct, incorrect, accuracy: over its votes on items whose label is known;
    None without any. accuracy_interval: the ends of Wilson's 95 % interval of the accuracy.
    estimated_accuracy: how often it is right as far as a label model can tell; None without one, or without a vote.
    values: the same votes, one entry for each thing that it votes for, in the order of polarity.
    """

    name: str
    polarity: tuple[str, ...]
    votes: int
    coverage: float
    overlaps: float
    conflicts: float
    mean_score: float | None
    correct: int | None
    incorrect: int | None
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    estimated_accuracy: float | None
    values: tuple[ValueSummary, ...]


@dataclass(frozen=True, slots=True)
class VotesSummary:
    """All labeling functions on some items. coverage: where any votes; overlaps: where two or more do; conflicts:
    where two disagree."""

    n_items: int
    coverage: float
    overlaps: float
    conflicts: float
    lfs: tuple[LFSummary, ...]


def summarize(
    votes: Votes,
    *,
    gold: npt.NDArray[np.signedinteger[Any]] | None = None,
    errors: Collection[int] = (),
    probs: npt.NDArray[np.floating[Any]] | None = None,
    label_model: FittedModel | None = None,
) -> VotesSummary:
    """Return what the votes say of each LF and of all of them.

    gold: known labels, shape (n_items,), ABSTAIN where unknown. errors: rows to leave out, as if they were not there.
    probs: what a label model makes of these votes, shape (n_items, n_classes). With them, the estimated accuracy of an
    LF is the mean probability of what it voted for, its own vote included. With the fitted label model itself
    (probs are then optional), its own evidence is taken out first: the estimate is the accuracy at which its votes fit
    best to what all other LFs say, by ``analysis_blocks.log_odds_of_accuracy``, from at most 100,000 of its votes.
    A vote for a set of classes is right where the label is in the set.
    Raises InvalidRequest if gold, probs or errors do not fit the votes.

    >>> summary = summarize(Votes.hard([[0, 0], [0, 1], [-1, -1], [1, -1]]))
    >>> summary.coverage, summary.overlaps, summary.conflicts
    (0.75, 0.5, 0.25)
    >>> [(lf.name, lf.coverage, lf.conflicts) for lf in summary.lfs]
    [('lf_0', 0.75, 0.25), ('lf_1', 0.5, 0.25)]
    """
    truth = np.full(votes.n_items, ABSTAIN) if gold is None else checked_gold(gold, votes)
    if probs is None and label_model is not None:
        probs = posterior(label_model, votes)
    probs = None if probs is None else checked_probs(probs, votes)
    rows = kept_rows(votes.n_items, errors)
    n = votes.n_items if rows is None else len(rows)

    counts = _Counts.none(votes)
    for part in over_blocks(lambda run: _count(votes, probs, rows, run), n, size=_BLOCK):
        counts.add(part)
    known = np.flatnonzero(truth != ABSTAIN)
    known = known if rows is None else np.intersect1d(known, rows, assume_unique=True)
    judged, correct = _judge(votes, truth, known)
    estimated = _estimates(votes, counts, probs, label_model, rows)

    names = votes.value_names
    lfs = []
    for j, name in enumerate(votes.lf_names):
        per_value = counts.per_value[j]
        present = np.flatnonzero(per_value).tolist()
        n_votes, n_judged, n_correct = int(per_value.sum()), int(judged[j].sum()), int(correct[j].sum())
        lfs.append(
            LFSummary(
                name=name,
                polarity=tuple(names[value] for value in present),
                votes=n_votes,
                coverage=_share(n_votes, n),
                overlaps=_share(counts.overlaps[j], n),
                conflicts=_share(counts.conflicts[j], n),
                mean_score=float(counts.score_sum[j] / counts.n_scored[j]) if counts.n_scored[j] else None,
                correct=n_correct if n_judged else None,
                incorrect=n_judged - n_correct if n_judged else None,
                accuracy=_share(n_correct, n_judged) if n_judged else None,
                accuracy_interval=wilson(n_correct, n_judged) if n_judged else None,
                estimated_accuracy=estimated[j],
                values=tuple(
                    ValueSummary(
                        names[value],
                        int(per_value[value]),
                        int(correct[j, value]),
                        int(judged[j, value] - correct[j, value]),
                    )
                    for value in present
                ),
            )
        )
    return VotesSummary(
        n_items=n,
        coverage=_share(counts.covered, n),
        overlaps=_share(counts.overlapped, n),
        conflicts=_share(counts.mixed, n),
        lfs=tuple(lfs),
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share, within [0, 1]; (0, 1) where nothing was tried.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    if not trials:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass
class _Counts:
    """Sums over items. per_value: int64, shape (n_lfs, n_values); the other arrays have shape (n_lfs,)."""

    per_value: npt.NDArray[np.int64]
    overlaps: npt.NDArray[np.int64]
    conflicts: npt.NDArray[np.int64]
    n_scored: npt.NDArray[np.int64]
    score_sum: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]
    covered: int = 0
    overlapped: int = 0
    mixed: int = 0

    @classmethod
    def none(cls, votes: Votes) -> _Counts:
        m, whole = votes.n_lfs, np.int64
        return cls(
            np.zeros((m, votes.n_values), whole),
            np.zeros(m, whole),
            np.zeros(m, whole),
            np.zeros(m, whole),
            np.zeros(m),
            np.zeros(m),
        )

    def add(self, other: _Counts) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def _count(
    votes: Votes,
    probs: npt.NDArray[np.floating[Any]] | None,
    rows: npt.NDArray[np.intp] | None,
    run: Iterator[slice],
) -> _Counts:
    counts, table = _Counts.none(votes), members(votes)
    for block in run:
        where = block if rows is None else rows[block]
        turned = by_column(votes.classes, where)
        voted = turned != ABSTAIN
        n_votes = count_votes(voted)
        many = n_votes > 1
        clash = clashes(turned, table) if votes.sets else None
        mixed = disagreement(turned) if clash is None else np.zeros(turned.shape[1], dtype=np.bool_)
        mixed &= many
        mass = None if probs is None else probs[where] @ table.T.astype(np.float32)
        for value in range(len(table)):
            chosen = turned == value
            if mass is not None:
                counts.right += chosen.astype(np.float32) @ mass[:, value]
            for j, row in enumerate(chosen):
                counts.per_value[j, value] += np.count_nonzero(row)
            if clash is not None:
                chosen &= clash[value]
                mixed |= chosen.any(axis=0)
                counts.conflicts += np.count_nonzero(chosen, axis=1)
        counts.overlaps += _count_rows(voted, many)
        if clash is None:
            counts.conflicts += _count_rows(voted, mixed)
        counts.covered += int(np.count_nonzero(n_votes))
        counts.overlapped += int(np.count_nonzero(many))
        counts.mixed += int(np.count_nonzero(mixed))
        if not votes.is_hard:
            scores = votes.scores[where]
            scored = ~np.isnan(scores)
            counts.n_scored += scored.sum(axis=0)
            counts.score_sum += np.where(scored, scores, 0.0).sum(axis=0, dtype=np.float64)
    return counts


def _count_rows(voted: Mask, where: Mask) -> npt.NDArray[np.int64]:
    return np.array([np.count_nonzero(row & where) for row in voted], dtype=np.int64)


def _judge(
    votes: Votes, truth: npt.NDArray[np.signedinteger[Any]], known: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how many votes could be judged and how many were right: int64, shape (n_lfs, n_values) each."""
    shape = (votes.n_lfs, votes.n_values)
    judged, correct = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    table = members(votes)
    for start in range(0, len(known), _BLOCK):
        rows = known[start : start + _BLOCK]
        turned = by_column(votes.classes, rows)
        for value, classes in enumerate(table):
            right = classes[truth[rows]]
            for j, row in enumerate(turned == value):
                judged[j, value] += np.count_nonzero(row)
                correct[j, value] += np.count_nonzero(row & right)
    return judged, correct


def _estimates(
    votes: Votes,
    counts: _Counts,
    probs: npt.NDArray[np.floating[Any]] | None,
    label_model: FittedModel | None,
    rows: npt.NDArray[np.intp] | None,
) -> list[float | None]:
    n_votes = counts.per_value.sum(axis=1).tolist()
    if probs is None:
        return [None] * votes.n_lfs
    if label_model is None:
        return [float(right / n) if n else None for right, n in zip(counts.right, n_votes, strict=True)]
    return [
        _leave_one_out(votes, j, probs, label_model, rows) if n_votes[j] else None for j in range(votes.n_lfs)
    ]


def _leave_one_out(
    votes: Votes,
    lf: int,
    probs: npt.NDArray[np.floating[Any]],
    label_model: FittedModel,
    rows: npt.NDArray[np.intp] | None,
) -> float:
    column: VoteArray = votes.classes[:, lf] if rows is None else votes.classes[rows, lf]
    own = np.flatnonzero(column != ABSTAIN)
    own = own[:: max(1, len(own) // _ENOUGH)]
    own = own if rows is None else rows[own]
    table = evidence_table(label_model, votes, lf)
    mine = label_model.evidence_of(votes.rows(own), lf) if table is None else table[votes.classes[own, lf]]
    logits = np.log(np.maximum(probs[own], 1e-30)) - mine
    others = odds_for(np.ascontiguousarray(logits.T), votes.classes[own, lf], members(votes))
    scores: FloatArray | None = None if votes.is_hard else score_logits(votes.scores[own, lf])
    return accuracy_at(log_odds_of_accuracy(others, scores), scores)


def _share(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else 0.0
