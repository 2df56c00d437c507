"""Majority vote over hard and scored votes: the baseline that everything else must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from manyeyes.models.base import ACCURACY_OF_A_HARD_VOTE, LabelModel
from manyeyes.types import Votes


class MajorityVote(LabelModel):
    """Every LF has one vote; a scored vote counts for the part of it that is better than chance.

    A hard vote weighs ``log(a (k - 1) / (1 - a))`` with a = 0.7, so that one vote alone gives probability 0.7
    under a uniform prior over k classes. A vote with score s weighs ``max(0, (k s - 1) / (k - 1))`` of that: all of
    it at s = 1, nothing at chance. Ties go to the more probable class under the prior, then to the class named first.

    class_balance: prior probability of each class; None is uniform.

    >>> from manyeyes.types import Votes
    >>> votes = Votes.hard([[0, 0, 1], [-1, -1, 1], [-1, -1, -1]], n_classes=2)
    >>> MajorityVote().fit(votes).predict_proba(votes).round(2).tolist()
    [[0.699999988079071, 0.30000001192092896], [0.30000001192092896, 0.699999988079071], [0.5, 0.5]]
    """

    name = "majority"

    def __init__(self, class_balance: Sequence[float] | None = None) -> None:
        self.class_balance = class_balance

    def _weights(self, votes: Votes) -> npt.NDArray[np.float64]:
        k = votes.n_classes
        whole = np.log(ACCURACY_OF_A_HARD_VOTE * (k - 1) / (1 - ACCURACY_OF_A_HARD_VOTE))
        if votes.is_hard:
            return np.broadcast_to(whole, votes.classes.shape)
        better_than_chance = np.maximum(0.0, (k * votes.scores.astype(np.float64) - 1) / (k - 1))
        weights: npt.NDArray[np.float64] = whole * np.where(np.isnan(votes.scores), 1.0, better_than_chance)
        return weights
