"""Majority vote over hard and scored votes: the baseline that everything else must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manyeyes.models.base import Gold, LabelModel
from manyeyes.models.evidence import ACCURACY_OF_A_HARD_VOTE, Float
from manyeyes.types import ABSTAIN, FloatArray, Votes


class MajorityVote(LabelModel):
    """Every LF has one vote; a scored vote counts for the part of it that is better than chance.

    A hard vote weighs ``log(a (k - 1) / (1 - a))`` with a = 0.7, so that one vote alone gives probability 0.7
    under a uniform prior over k classes. A vote with score s weighs ``max(0, (k s - 1) / (k - 1))`` of that: all of
    it at s = 1, nothing at chance. Ties go to the more probable class under the prior, then to the class named first.

    class_balance: prior probability of each class; None is uniform, "estimated" is what the majority says of the items.

    >>> from manyeyes.types import Votes
    >>> votes = Votes.hard([[0, 0, 1], [-1, -1, 1], [-1, -1, -1]], n_classes=2)
    >>> MajorityVote().fit(votes).predict_proba(votes).round(2).tolist()
    [[0.699999988079071, 0.30000001192092896], [0.30000001192092896, 0.699999988079071], [0.5, 0.5]]
    """

    name = "majority"

    def __init__(self, class_balance: Sequence[float] | str | None = None) -> None:
        self.class_balance = class_balance

    def _learn(
        self,
        votes: Votes,
        gold: Gold | None,
        embeddings: FloatArray | None,
        shared: Sequence[Sequence[str]],
    ) -> None:
        if self.class_balance == "estimated":
            # What the majority says of a sample, ties shared, with one more item of each class.
            some = votes.rows(slice(None, None, max(1, votes.n_items // 100_000)))
            total = self._log_posterior(some, None)[(some.classes != ABSTAIN).any(axis=1)]
            most = total >= total.max(axis=1, keepdims=True, initial=-np.inf) - 1e-9
            share = (most / np.maximum(most.sum(axis=1, keepdims=True), 1)).sum(axis=0) + 1.0
            self.log_prior_ = np.log(share / share.sum())

    def _weights(self, votes: Votes) -> Float:
        k = votes.n_classes
        whole = np.log(ACCURACY_OF_A_HARD_VOTE * (k - 1) / (1 - ACCURACY_OF_A_HARD_VOTE))
        if votes.is_hard:
            return np.broadcast_to(whole, votes.classes.shape)
        better_than_chance = np.maximum(0.0, (k * votes.scores.astype(np.float64) - 1) / (k - 1))
        weights: Float = whole * np.where(np.isnan(votes.scores), 1.0, better_than_chance)
        return weights
