"""Which labeling functions (LFs) err together, and what a vote is worth beside votes like it.

Ten prompts over one CLIP are not ten witnesses. Two signs of that are used. Before anything is known of the labels:
LFs that agree so often, beyond chance, that they would have to be almost flawless if they were independent (Cohen's
kappa); the more so where they read the same primitive. Once there are labels to condition on: agreement beyond what the
LFs' own confusions explain. Either gives a matrix of shares in [0, 1], and an LF then counts for
``1 / (1 + the sum of its shares)`` of a vote: copies of an LF together count for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from manyeyes.models.observed import Observed
from manyeyes.types import ABSTAIN

_SUSPICIOUS = 0.6
"""Kappa from which agreement alone is taken for a sign of dependence, rising to certainty at 1: two independent LFs
over two even classes have it when both are right 89 times out of 100."""
_SIGNIFICANT = 3.0
"""Standard errors by which agreement must exceed what is expected before it counts."""
_PRIOR_ITEMS = 20.0
"""Common votes that the first guess, no dependence, is worth."""
_BEGINNING = 4_096
COPIES_FROM = 20
"""Common votes from which LFs that are known to read different things count as copies of each other."""

Float = npt.NDArray[np.float64]


def copies(
    classes: npt.NDArray[np.integer], scores: npt.NDArray[np.float32] | None, shared: Sequence[Sequence[str]]
) -> npt.NDArray[np.intp]:
    """Return for each LF the first LF whose votes are the same on every item: intp, shape (n_lfs,).

    scores: the votes' scores, or None where all are hard. shared: what each LF reads; where it is known and differs,
    too few common votes do not make two LFs copies.
    """
    m = classes.shape[1]
    first = np.arange(m)
    # What differs mostly differs early: whole columns are compared only where their beginnings are the same.
    beginnings = np.ascontiguousarray(classes[:_BEGINNING].T)
    groups: dict[bytes, list[int]] = {}
    for j in range(m):
        key = beginnings[j].tobytes()
        for other in groups.setdefault(key, []):
            if not np.array_equal(classes[:, j], classes[:, other]):
                continue
            if scores is not None and not np.array_equal(scores[:, j], scores[:, other], equal_nan=True):
                continue
            n_votes = int((classes[:, j] != ABSTAIN).sum())
            apart = bool(shared) and not set(shared[j]) & set(shared[other])
            if not apart or n_votes >= COPIES_FROM:
                first[j] = other
                break
        else:
            groups[key].append(j)
    return first


def prior_dependence(observed: Observed, shared: Sequence[Sequence[str]]) -> Float:
    """Return how dependent each pair of LFs looks from its agreement alone: float64, shape (n_lfs, n_lfs), in [0, 1].

    Source of kappa: J. Cohen, "A coefficient of agreement for nominal scales", 1960.
    """
    both, agree, chance = agreement(observed)
    kappa = (agree - chance) / np.maximum(both - chance, 1e-6)
    excess = np.clip((kappa - _SUSPICIOUS) / (1 - _SUSPICIOUS), 0.0, 1.0) * both / (both + _PRIOR_ITEMS)
    if shared:
        same = share_a_primitive(shared, len(excess))
        excess = np.where(same, np.maximum(excess, np.sqrt(np.clip(kappa, 0.0, 1.0))), excess)
    return _per_vote(excess, both)


def share_a_primitive(shared: Sequence[Sequence[str]], n_lfs: int) -> npt.NDArray[np.bool_]:
    """Return which pairs of LFs read a primitive in common: bool, shape (n_lfs, n_lfs); none where nothing is known."""
    reads = [frozenset(names) for names in shared] or [frozenset()] * n_lfs
    return np.array([[bool(a & b) for b in reads] for a in reads], dtype=bool).reshape(n_lfs, n_lfs)


def agreement(observed: Observed) -> tuple[Float, Float, Float]:
    """Return for each pair of LFs their common votes, how many agree, and how many would by chance.

    Each float64, shape (n_lfs, n_lfs), in items.
    """
    classes, weight = observed.votes.classes, observed.weight
    voted = classes != ABSTAIN
    n_values = observed.votes.n_values
    both = (voted * weight[:, None]).T @ voted
    agree = np.stack([weight @ ((classes == column[:, None]) & voted) for column in classes.T])
    np.fill_diagonal(agree, np.diag(both))
    counts = np.stack(
        [np.bincount(column + 1, weights=weight, minlength=n_values + 1)[1:] for column in classes.T]
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    return both, agree, both * (shares @ shares.T)


def residual_dependence(observed: Observed, posterior: npt.NDArray[Any], counts: Float) -> Float:
    """Return how much each pair of LFs agrees beyond what the posterior explains: float64, (n_lfs, n_lfs), in [0, 1].

    posterior: shape (n_rows, n_classes). counts: expected votes, shape (n_lfs, n_values, n_classes). Given the class,
    independent LFs agree as often as their confusions say; what goes beyond, as a share of what is left to agree on, is
    the dependence, where it is significant.
    """
    both, agree, _ = agreement(observed)
    voted = (observed.votes.classes != ABSTAIN).astype(np.float32)
    given_class = (counts + 0.1) / (counts.sum(axis=1, keepdims=True) + 0.1 * counts.shape[1])
    expected = np.zeros_like(both)
    for c in range(posterior.shape[1]):
        share = (posterior[:, c] * observed.weight).astype(np.float32)
        expected += ((voted * share[:, None]).T @ voted) * (given_class[:, :, c] @ given_class[:, :, c].T)
    return _beyond(agree, expected, both)


def residual_of_accuracies(observed: Observed, accuracy: Float, n_classes: int) -> Float:
    """Return what ``residual_dependence`` does, for LFs whose wrong votes fall on the other classes alike.

    LFs that only ever say the same one thing agree wherever they meet, by habit: that is no dependence.
    """
    both, agree, by_habit = agreement(observed)
    wrong = np.outer(1 - accuracy, 1 - accuracy) / (n_classes - 1)
    expected = both * (np.outer(accuracy, accuracy) + wrong)
    return _beyond(agree, np.maximum(expected, by_habit), both)


def _beyond(agree: Float, expected: Float, both: Float) -> Float:
    excess = agree - expected
    error = np.sqrt(np.maximum(expected * (1 - expected / np.maximum(both, 1.0)), 1e-9))
    share = np.clip(excess / np.maximum(both - expected, 1e-9), 0.0, 1.0)
    return _per_vote(np.where(excess > _SIGNIFICANT * error, share, 0.0), both)


def discounts(dependence: Float) -> Float:
    """Return what a vote of each LF counts for: float64, shape (n_lfs,), in (0, 1]."""
    shares: Float = 1.0 / (1.0 + dependence.sum(axis=1))
    return shares


def _per_vote(dependence: Float, both: Float) -> Float:
    """Scale dependence by how often the other LF votes at all where this one does; nothing on the diagonal."""
    scaled = dependence * both / np.maximum(np.diag(both)[:, None], 1.0)
    np.fill_diagonal(scaled, 0.0)
    return scaled
