"""Whether probabilities mean what they say, and how to mend them with a few known labels.

Measures: ``expected_calibration_error``, ``log_loss``, ``brier``. Mending: ``Calibrator``.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidVotes, NotFitted
from manyeyes.models.evidence import softmax
from manyeyes.types import ABSTAIN

Float = npt.NDArray[np.float64]
Probs = npt.NDArray[np.floating[Any]]
Gold = npt.NDArray[np.signedinteger[Any]]

_LEAST_PROB = 1e-7
"""What a probability of 0 counts as, so that one sure mistake does not make a log-loss infinite."""
_SHARPEST, _FLATTEST = 4.0, 0.05
"""Inverse temperatures stay within these."""


def expected_calibration_error(
    probs: Probs, gold: Gold, bins: int = 15, *, adaptive: bool = False, debias: bool = False
) -> float:
    """Return how far confidence is from accuracy on average, in [0, 1]: the top-label calibration error.

    Items are put into bins by the probability of their most probable class; the result is the mean over items
    of how far the share of right labels in their bin is from the mean confidence there.

    probs: float, shape (n_items, n_classes). gold: int, shape (n_items,); items with ABSTAIN do not count.
    adaptive: bins of equally many items instead of equal width. debias: subtract what sampling noise alone
    adds, which for a few hundred items is most of a small figure; not below 0. No items: NaN. Raises
    InvalidVotes if shapes do not fit.

    Source: Naeini et al. 2015 (equal width); Nixon et al. 2019 (equal mass); Kumar et al. 2019, "Verified
    uncertainty calibration", for taking the noise of a bin's accuracy as normal when debiasing.

    >>> probs = np.array([[0.75, 0.25]] * 4)
    >>> expected_calibration_error(probs, np.array([0, 0, 0, 1])), expected_calibration_error(probs, np.zeros(4, int))
    (0.0, 0.25)
    """
    probs, gold = _judged(probs, gold)
    n = len(gold)
    if not n:
        return math.nan
    confidence = probs.max(axis=1).astype(np.float64)
    right = (probs.argmax(axis=1) == gold).astype(np.float64)
    if adaptive:
        # Equal confidences stay together, so that the order of items does not matter.
        _, rank, ties = np.unique(confidence, return_inverse=True, return_counts=True)
        middle = np.cumsum(ties) - (ties + 1) / 2
        which = np.minimum((middle[rank] * bins / n).astype(np.intp), bins - 1)
    else:
        which = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    filled = count > 0
    size = count[filled].astype(np.float64)
    said = np.bincount(which, confidence, bins)[filled] / size
    found = np.bincount(which, right, bins)[filled] / size
    gap = np.abs(found - said)
    error = float(gap @ size / n)
    if not debias:
        return error
    # The accuracy behind a bin that got everything right is not certain either: one more item, as sure as it says.
    accuracy = (found * size + said) / (size + 1)
    noise = np.sqrt(np.maximum(accuracy * (1 - accuracy), 1e-12) / size)
    inside = np.array([math.erf(z / math.sqrt(2)) for z in gap / noise])
    folded = noise * math.sqrt(2 / math.pi) * np.exp(-0.5 * (gap / noise) ** 2) + gap * inside
    return max(0.0, error - float((folded - gap) @ size / n))


def log_loss(probs: Probs, gold: Gold) -> float:
    """Return the mean of −log p(gold class), in nats. Arguments and errors as ``expected_calibration_error``."""
    probs, gold = _judged(probs, gold)
    if not len(gold):
        return math.nan
    of_gold = probs[np.arange(len(gold)), gold].astype(np.float64)
    return float(-np.log(np.maximum(of_gold, _LEAST_PROB)).mean())


def brier(probs: Probs, gold: Gold) -> float:
    """Return the mean squared distance to the gold label, summed over classes, in [0, 2]. Source: Brier 1950.

    Arguments and errors as ``expected_calibration_error``.
    """
    probs, gold = _judged(probs, gold)
    if not len(gold):
        return math.nan
    off = probs.astype(np.float64).copy()
    off[np.arange(len(gold)), gold] -= 1.0
    return float((off**2).sum(axis=1).mean())


class Calibrator:
    """Maps log-posteriors to calibrated ones: ``logits / temperature + bias``, learned from a few known labels.

    classwise: also learn one number a class, for classes that come out too often or too seldom. Without it, which
    class is most probable never changes. prior_labels: how many known labels it takes to outweigh the model's
    own word. What the prior expects is temperature 1 and no bias: as many labels as ``prior_labels``, drawn
    from the probabilities to be calibrated, stand beside the known ones, and each class's bias has a normal
    prior as wide as these labels would leave it.

    Learned: ``temperature`` (float) and ``bias`` (float64, shape (n_classes,), sums to 0). The penalised
    likelihood is concave in (1 / temperature, bias), so there is one answer, found by Newton's method; the
    order of labels does not matter.

    Source: Guo et al. 2017, "On calibration of modern neural networks" (temperature; bias-corrected as in
    Alexandari et al. 2020); Chen & Ibrahim 2003, "Conjugate priors for generalized linear models" (the prior
    as labels).

    >>> logits = np.log([[0.99, 0.01]] * 100)
    >>> calibrator = Calibrator().fit(logits, np.array([0] * 80 + [1] * 20))
    >>> softmax(calibrator.transform(logits))[0].round(2).tolist()
    [0.82, 0.18]
    """

    temperature: float
    bias: Float

    def __init__(self, *, classwise: bool = False, prior_labels: float = 10.0) -> None:
        self.classwise = classwise
        self.prior_labels = prior_labels

    def fit(self, logits: Float, gold: Gold) -> Self:
        """Learn from log-posteriors of items that the model has not learned from with their labels.

        logits: float, shape (n_items, n_classes), up to a constant an item. gold: int, shape (n_items,);
        items with ABSTAIN do not count. No labels: temperature 1, no bias. Raises InvalidVotes if shapes do
        not fit or a logit is not finite.
        """
        logits, gold = _judged(np.asarray(logits, dtype=np.float64), gold)
        if not np.isfinite(logits).all():
            raise InvalidVotes("log-posteriors to calibrate must be finite, got NaN or infinity among them")
        n, k = logits.shape
        self.temperature, self.bias = 1.0, np.zeros(k)
        if not n:
            return self
        centred: Float = logits - logits.max(axis=1, keepdims=True)
        said = softmax(centred)
        target = said * (self.prior_labels / n)
        target[np.arange(n), gold] += 1.0
        mass = 1.0 + self.prior_labels / n
        # A label tells at most 1/4 of a bias, where its class is even odds.
        stiff = self.prior_labels / 4 if self.classwise else 0.0
        parameters = np.zeros(1 + k if self.classwise else 1)
        parameters[0] = 1.0

        def objective(at: Float) -> float:
            logit = at[0] * centred + (at[1:] if self.classwise else 0.0)
            top = logit.max(axis=1, keepdims=True)
            log_norm = top[:, 0] + np.log(np.exp(logit - top).sum(axis=1))
            return float(mass * log_norm.sum() - (target * logit).sum() + stiff / 2 * (at[1:] @ at[1:]))

        loss = objective(parameters)
        for _ in range(100):
            step = _newton(parameters, centred, target, mass, stiff)
            length = 1.0
            while True:
                tried = parameters - length * step
                tried[0] = np.clip(tried[0], _FLATTEST, _SHARPEST)
                new = objective(tried)
                if new <= loss or length < 1e-6:
                    break
                length /= 2
            moved = float(np.abs(tried - parameters).max())
            if new < loss:
                parameters, loss = tried, new
            if moved < 1e-9 or new >= loss + 1e-12:
                break
        self.temperature = float(1.0 / parameters[0])
        if self.classwise:
            self.bias = parameters[1:] - parameters[1:].mean()
        return self

    def transform(self, logits: Float) -> Float:
        """Return calibrated log-posteriors, up to a constant an item: float64, same shape.

        Raises NotFitted before ``fit``.
        """
        if not hasattr(self, "temperature"):
            raise NotFitted("this Calibrator has seen no labels yet; call fit(logits, gold) first")
        return np.asarray(logits, dtype=np.float64) / self.temperature + self.bias

    @classmethod
    def of(cls, temperature: float, bias: Float) -> Calibrator:
        """Make the calibrator that once learned these numbers: the way back from ``temperature`` and ``bias``."""
        calibrator = cls(classwise=bool(np.any(bias)))
        calibrator.temperature, calibrator.bias = float(temperature), np.asarray(bias, dtype=np.float64)
        return calibrator


def _newton(at: Float, logits: Float, target: Float, mass: float, stiff: float) -> Float:
    """Return the Newton step of the penalised likelihood: shape of ``at``."""
    biased = len(at) > 1
    probs = softmax(at[0] * logits + (at[1:] if biased else 0.0))
    residual = mass * probs - target
    mean = (probs * logits).sum(axis=1, keepdims=True)
    slope = float((residual * logits).sum())
    curve = float(mass * (probs * (logits - mean) ** 2).sum()) + 1e-9
    if not biased:
        return np.array([slope / curve])
    k = logits.shape[1]
    hessian = np.empty((k + 1, k + 1))
    hessian[0, 0] = curve
    hessian[0, 1:] = hessian[1:, 0] = mass * (probs * (logits - mean)).sum(axis=0)
    hessian[1:, 1:] = np.diag(mass * probs.sum(axis=0) + stiff + 1e-9) - mass * probs.T @ probs
    gradient = np.concatenate([[slope], residual.sum(axis=0) + stiff * at[1:]])
    return np.asarray(np.linalg.solve(hessian, gradient))


def _judged(probs: Probs, gold: Gold) -> tuple[Float, Gold]:
    """Return the rows that have a gold label, and these labels."""
    probs, gold = np.asarray(probs, dtype=np.float64), np.asarray(gold)
    if probs.ndim != 2 or gold.shape != probs.shape[:1]:
        raise InvalidVotes(
            "probabilities must have shape (n_items, n_classes) and gold labels (n_items,), got"
            f" {probs.shape} and {gold.shape}"
        )
    if gold.size and (gold.min() < ABSTAIN or gold.max() >= probs.shape[1]):
        raise InvalidVotes(
            f"a gold label is {ABSTAIN} (unknown) or a class index below {probs.shape[1]}, got"
            f" {int(gold.min())} to {int(gold.max())}"
        )
    known = gold != ABSTAIN
    return probs[known], gold[known]
