"""What a label matrix says of its labeling functions: polarity, coverage, overlaps, conflicts, empirical accuracy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest
from manyeyes.types import ABSTAIN, Votes


@dataclass(frozen=True, slots=True)
class LFSummary:
    """One labeling function on some items. Shares are of all items, in [0, 1].

    polarity: the classes that it votes for, in the recipe's order. coverage: where it votes. overlaps: where another
    LF votes too. conflicts: where another LF votes for something else. mean_score: over its votes with a score.
    correct, incorrect, accuracy: over its votes on items whose label is known; None without any.
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
    votes: Votes, *, gold: npt.NDArray[np.signedinteger[Any]] | None = None, errors: Collection[int] = ()
) -> VotesSummary:
    """Return what the votes say of each LF and of all of them.

    gold: known labels, shape (n_items,), ABSTAIN where unknown. errors: rows to leave out, as if they were not there.
    Raises InvalidRequest if gold has another shape.

    >>> summary = summarize(Votes.hard([[0, 0], [0, 1], [-1, -1], [1, -1]]))
    >>> summary.coverage, summary.overlaps, summary.conflicts
    (0.75, 0.5, 0.25)
    >>> [(lf.name, lf.coverage, lf.conflicts) for lf in summary.lfs]
    [('lf_0', 0.75, 0.25), ('lf_1', 0.5, 0.25)]
    """
    if gold is not None and np.shape(gold) != (votes.n_items,):
        raise InvalidRequest(f"gold has one label an item, shape ({votes.n_items},), got {np.shape(gold)}")
    kept = np.ones(votes.n_items, dtype=np.bool_)
    kept[sorted(errors)] = False
    matrix, scores = votes.classes[kept], votes.scores[kept]
    known = np.full(votes.n_items, ABSTAIN) if gold is None else np.asarray(gold)
    truth = known[kept, None]

    n = len(matrix)
    voted = matrix != ABSTAIN
    n_votes = voted.sum(axis=1)
    lowest = np.where(voted, matrix, votes.n_classes).min(axis=1, initial=votes.n_classes)
    mixed = (n_votes > 1) & (matrix.max(axis=1, initial=ABSTAIN) != lowest)
    per_lf = voted.sum(axis=0)
    overlaps = (voted & (n_votes > 1)[:, None]).sum(axis=0)
    # Where two votes of an item differ, every voter has one that differs from its own.
    conflicts = (voted & mixed[:, None]).sum(axis=0)
    scored = ~np.isnan(scores)
    n_scored = scored.sum(axis=0)
    score_sums = np.where(scored, scores, 0.0).sum(axis=0, dtype=np.float64)
    judged = voted & (truth != ABSTAIN)
    correct = (judged & (matrix == truth)).sum(axis=0)
    n_judged = judged.sum(axis=0)

    rows = []
    for j, name in enumerate(votes.lf_names):
        present = np.unique(matrix[voted[:, j], j])
        has_gold = n_judged[j] > 0
        rows.append(
            LFSummary(
                name=name,
                polarity=tuple(votes.class_names[c] for c in present.tolist()),
                votes=int(per_lf[j]),
                coverage=_share(per_lf[j], n),
                overlaps=_share(overlaps[j], n),
                conflicts=_share(conflicts[j], n),
                mean_score=float(score_sums[j] / n_scored[j]) if n_scored[j] else None,
                correct=int(correct[j]) if has_gold else None,
                incorrect=int(n_judged[j] - correct[j]) if has_gold else None,
                accuracy=_share(correct[j], n_judged[j]) if has_gold else None,
            )
        )
    return VotesSummary(
        n_items=n,
        coverage=_share((n_votes > 0).sum(), n),
        overlaps=_share((n_votes > 1).sum(), n),
        conflicts=_share(mixed.sum(), n),
        lfs=tuple(rows),
    )


def _share(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else 0.0
