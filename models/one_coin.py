"""The one-coin label model: each LF is right with a probability of its own, learned without gold labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from manyeyes.models.base import ACCURACY_OF_A_HARD_VOTE, Gold, LabelModel, softmax
from manyeyes.types import ABSTAIN, Votes

_SURE = 1e-3
"""No vote is trusted further than this from certainty, so that one LF can always be outvoted."""


class OneCoin(LabelModel):
    """Dawid–Skene with one accuracy an LF, over scores as well as hard votes, better than chance by construction.

    A vote of LF j with score s is right with probability ``a = sigmoid(offset_j + logit(s))``, and a hard vote with
    ``sigmoid(offset_j)``: the score says which votes of an LF are the better ones, the offset how far the LF as a whole
    can be believed. Wrong votes fall on the other classes alike, so a vote adds ``log(a (k - 1) / (1 - a))`` to the
    log-odds of its class, and never less than 0: a unanimous vote is not flipped under a uniform prior.

    Offsets are learned by EM: the E-step takes the posterior, the M-step fits each offset by Newton's method on the
    expected log-likelihood with a Gaussian prior, centred where a hard LF is right 7 times in 10 and a scored LF is as
    sure as it says. Items with gold labels keep them through the E-step.

    class_balance: prior probability of each class; None is uniform. prior_strength: how many votes the prior is worth.
    max_iterations, tolerance: EM stops when no offset moves by more than ``tolerance`` nats.

    Source: Dawid & Skene 1979 (the EM); Li, Yu & Zhou 2013, "Error rate analysis of labeling by crowdsourcing" (the
    one-coin form).

    >>> from manyeyes.types import Votes
    >>> votes = Votes.hard([[0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1]] * 20, n_classes=2)
    >>> (OneCoin().fit(votes).accuracy_ > 0.6).tolist()
    [True, True, False]
    """

    name = "one_coin"
    hyperparameters = ("class_balance", "prior_strength", "max_iterations", "tolerance")
    learned = ("offset_", "accuracy_")

    offset_: npt.NDArray[np.float64]
    """Shape (n_lfs,), in nats."""
    accuracy_: npt.NDArray[np.float64]
    """Shape (n_lfs,): mean probability that a vote is right; the prior's where an LF never voted."""

    def __init__(
        self,
        class_balance: Sequence[float] | None = None,
        *,
        prior_strength: float = 10.0,
        max_iterations: int = 200,
        tolerance: float = 1e-6,
    ) -> None:
        self.class_balance = class_balance
        self.prior_strength = prior_strength
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def _learn(self, votes: Votes, gold: Gold | None, shared: Sequence[Sequence[str]]) -> None:
        voted = votes.classes != ABSTAIN
        n_votes = voted.sum(axis=0)
        logits = _score_logits(votes)
        scored = (voted & ~np.isnan(votes.scores)).sum(axis=0) * 2 > n_votes
        centre = np.where(scored, 0.0, np.log(ACCURACY_OF_A_HARD_VOTE / (1 - ACCURACY_OF_A_HARD_VOTE)))
        precision = self.prior_strength * ACCURACY_OF_A_HARD_VOTE * (1 - ACCURACY_OF_A_HARD_VOTE)
        item, lf = np.nonzero(voted)
        vote, logit = votes.classes[item, lf], logits[item, lf]
        cell = item * votes.n_classes + vote
        known = np.zeros(votes.n_items, dtype=bool) if gold is None else gold != ABSTAIN

        self.offset_ = centre.copy()
        for _ in range(self.max_iterations):
            evidence = _evidence(self.offset_[lf] + logit, votes.n_classes)
            summed = np.bincount(cell, weights=evidence, minlength=votes.n_items * votes.n_classes)
            posterior = softmax(self.log_prior_ + summed.reshape(votes.n_items, votes.n_classes))
            if gold is not None and known.any():
                posterior[known] = np.eye(votes.n_classes)[gold[known]]
            right = posterior[item, vote]
            previous = self.offset_
            self.offset_ = _fit_offsets(
                previous, right=right, logit=logit, lf=lf, centre=centre, precision=precision
            )
            if float(np.abs(self.offset_ - previous).max(initial=0.0)) < self.tolerance:
                break
        accuracy = np.bincount(lf, weights=_sigmoid(self.offset_[lf] + logit), minlength=votes.n_lfs)
        self.accuracy_ = np.where(n_votes > 0, accuracy / np.maximum(n_votes, 1), _sigmoid(self.offset_))

    def _weights(self, votes: Votes) -> npt.NDArray[np.float64]:
        return _evidence(self.offset_ + _score_logits(votes), votes.n_classes)


def _fit_offsets(
    offset: npt.NDArray[np.float64],
    *,
    right: npt.NDArray[np.float64],
    logit: npt.NDArray[np.float64],
    lf: npt.NDArray[np.intp],
    centre: npt.NDArray[np.float64],
    precision: float,
) -> npt.NDArray[np.float64]:
    """Return the offsets that maximise the expected log-likelihood: float64, shape (n_lfs,).

    right: expected correctness of each vote; logit: logit of its score; lf: its column; all of shape (n_votes,).
    """
    n_lfs = len(offset)
    for _ in range(25):
        a = _sigmoid(offset[lf] + logit)
        gradient = np.bincount(lf, weights=right - a, minlength=n_lfs) - precision * (offset - centre)
        curvature = np.bincount(lf, weights=a * (1 - a), minlength=n_lfs) + precision
        step = np.clip(gradient / curvature, -2.0, 2.0)
        offset = offset + step
        if float(np.abs(step).max(initial=0.0)) < 1e-9:
            break
    return offset


def _evidence(log_odds: npt.NDArray[np.float64], n_classes: int) -> npt.NDArray[np.float64]:
    """Return what a vote adds to its class: log(a (k - 1) / (1 - a)), where log_odds is log(a / (1 - a))."""
    bound = np.log((1 - _SURE) / _SURE)
    evidence: npt.NDArray[np.float64] = np.maximum(
        0.0, np.clip(log_odds, -bound, bound) + np.log(n_classes - 1)
    )
    return evidence


def _score_logits(votes: Votes) -> npt.NDArray[np.float64]:
    score = np.clip(votes.scores.astype(np.float64), _SURE, 1 - _SURE)
    logits: npt.NDArray[np.float64] = np.where(np.isnan(votes.scores), 0.0, np.log(score) - np.log1p(-score))
    return logits


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    value: npt.NDArray[np.float64] = 1.0 / (1.0 + np.exp(-x))
    return value
