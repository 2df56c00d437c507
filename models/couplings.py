"""Which labels go together: how the presence of one moves another, learned from their probabilities.

The log-odds of each label are a linear function of the others, as in an Ising model fitted by
pseudo-likelihood, with two safeguards. A label is moved only by those that are correlated with it beyond what
as many tries would show by chance. And nobody is heard twice: what moves a label is what those witnesses say of
the others who said nothing of itself. An image model that sees a cup and a dining table in every kitchen errs
on both at once, and its word on the one is no evidence for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from manyeyes.models.evidence import Float

_CHANCE = 0.01
"""Probability that any couplings are found where there are none."""
_LEAST_ITEMS = 30
"""Items on which both labels must be told."""
_LEAST_CORRELATION = 0.1
"""Weaker ones are not worth a reason, however certain."""
_RIDGE = 5.0
"""Pull of each coupling to 0: as strong as the word of 20 items at even odds."""
_STRONGEST = 3.0
"""No label moves another by more nats than this."""

Mask = npt.NDArray[np.bool_]


def learn_couplings(
    probs: Float, seen: Mask, others: Callable[[int], tuple[Float, Mask]]
) -> tuple[Float, Float]:
    """Return what labels tell of each other, and from where on they tell it.

    probs: float64, shape (n_items, n_classes); the probability of each label by its own evidence, or 0 and 1
    where it is known. seen: bool, same shape; where that is more than a prior. others: for a class, the same
    two of all labels by the evidence of those who said nothing of that class. Returns coupling and centre,
    float64, shape (n_classes, n_classes): label d of probability p adds ``coupling[d, c] * (p - centre[d,
    c])`` nats to the log-odds of label c.

    Source: Besag 1975 (pseudo-likelihood); Heckerman et al. 2000, "Dependency networks" (one regression a
    variable); Ravikumar et al. 2010 (neighbourhoods of an Ising model by logistic regression), here chosen by
    a test.
    """
    k = probs.shape[1]
    coupling, centre = np.zeros((k, k)), np.full((k, k), 0.5)
    needed = NormalDist().inv_cdf(1 - _CHANCE / (2 * max(k * (k - 1), 1)))
    for c in np.flatnonzero(seen.sum(axis=0) >= _LEAST_ITEMS).tolist():
        rows = seen[:, c]
        own = probs[rows, c]
        other, told = others(c)
        other, told = other[rows], told[rows]
        told[:, c] = False
        correlation, n, mean = _correlations(own, other, told)
        certain = (np.abs(correlation) * np.sqrt(n) > needed) & (np.abs(correlation) > _LEAST_CORRELATION)
        chosen = np.flatnonzero(certain & (n >= _LEAST_ITEMS))
        if chosen.size:
            away = np.where(told[:, chosen], other[:, chosen] - mean[chosen], 0.0)
            coupling[chosen, c] = np.clip(_regress(away, own), -_STRONGEST, _STRONGEST)
            centre[chosen, c] = mean[chosen]
    return coupling, centre


def _correlations(own: Float, other: Float, told: Mask) -> tuple[Float, Float, Float]:
    """Return for each other label its correlation with one, on how many items, and its mean there."""
    mask = told.astype(np.float64)
    n = mask.sum(axis=0)
    size = np.maximum(n, 1.0)
    value = other * mask
    mean, mean_own = value.sum(axis=0) / size, own @ mask / size
    variance = (value * other).sum(axis=0) / size - mean**2
    variance_own = own**2 @ mask / size - mean_own**2
    spread = np.sqrt(np.maximum(variance, 0.0) * np.maximum(variance_own, 0.0))
    covariance = own @ value / size - mean * mean_own
    return np.where(spread > 1e-6, covariance / np.maximum(spread, 1e-6), 0.0), n, mean


def _regress(others: Float, target: Float) -> Float:
    """Return the weights of a ridge logistic regression on soft targets: float64, shape (n_others,)."""
    design = np.concatenate([others, np.ones((len(others), 1))], axis=1)
    pull = np.full(design.shape[1], _RIDGE)
    pull[-1] = 1e-6
    at = np.zeros(design.shape[1])
    for _ in range(50):
        guess = 0.5 * (1 + np.tanh(0.5 * np.clip(design @ at, -30, 30)))
        gradient = design.T @ (guess - target) + pull * at
        hessian = (design * np.maximum(guess * (1 - guess), 1e-6)[:, None]).T @ design + np.diag(pull)
        step = np.linalg.solve(hessian, gradient)
        at -= np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(at[:-1])
