"""Accuracies in closed form, from how often labeling functions (LFs) agree: the method of moments over triplets.

No iterations and no starting point: the same votes give the same accuracies, and nothing can fail to
converge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from manyeyes.models.base import Gold, LabelModel, sum_by_class
from manyeyes.models.dependence import copies, prior_dependence
from manyeyes.models.evidence import ACCURACY_OF_A_HARD_VOTE, Float
from manyeyes.models.observed import Observed, observe
from manyeyes.types import ABSTAIN, FloatArray, Votes, no_scores

_LEAST_SKILL, _MOST_SKILL = 0.02, 0.98
"""Every LF is better than chance, and none is beyond doubt."""
_LEAST_OVERLAP = 10.0
"""Items on which two LFs must both vote before their agreement is looked at."""
_LEAST_VARIETY = 0.05
"""How far from always saying the same each of two LFs must be, where both vote, for agreement to tell anything."""
_SIGNIFICANT = 2.0
"""Standard errors by which the agreement that is divided by must exceed chance."""
_PRIOR_ITEMS = 20.0
"""Items that the first guess of an LF's skill is worth."""
_GOLD_ITEMS = 50.0
"""Votes on known labels that outweigh what agreement says."""


class Triplet(LabelModel):
    """Method of moments: three LFs that err independently tell each other's accuracy by how often they agree.

    Write b for the skill of an LF, how far it is from chance to certainty: it is right with probability ``1/k
    + b (1 − 1/k)`` of k classes, and wrong votes fall on the other classes alike. Two LFs that err
    independently then agree, beyond what the frequencies of their votes alone would give, by ``b_i b_j (1 − Σ
    π_c²)``, with π the class balance where both vote (taken from the majority of votes). So the excess e
    gives ``b_i = sqrt(e_ij e_il / e_jl)`` for any j and l, and the median over all such pairs is taken, each
    weighted by its overlap and less where its LFs look dependent. Agreement counts only where both LFs vote;
    an LF that always says the same, or that meets no two others, is taken to be right seven times in ten, as
    every LF is before anything is known.

    A vote weighs ``log(a (k − 1) / (1 − a))`` with a the accuracy; scores do not matter. Gold labels count as
    votes seen to be right or wrong. class_balance: prior probability of each class; None is uniform.

    Source: Fu et al. 2020, "Fast and three-rious: speeding up weak supervision with triplet methods"
    (FlyingSquid), here for any number of classes at once and with agreement taken against chance, so that
    rare classes do not look easy.

    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 3, 5000)
    >>> right = rng.random((5000, 3)) < [0.9, 0.7, 0.5]
    >>> votes = Votes.hard(np.where(right, truth[:, None], (truth[:, None] + rng.integers(1, 3, right.shape)) % 3))
    >>> Triplet().fit(votes).accuracy_.round(1).tolist()
    [0.9, 0.7, 0.5]
    """

    name = "triplet"
    learned = ("accuracy_",)

    accuracy_: Float
    """Shape (n_lfs,): how often a vote for one class is right, were the classes even."""

    def __init__(self, class_balance: Sequence[float] | None = None) -> None:
        self.class_balance = class_balance

    def _learn(
        self,
        votes: Votes,
        gold: Gold | None,
        embeddings: FloatArray | None,
        shared: Sequence[Sequence[str]],
    ) -> None:
        k = votes.n_classes
        # Copies of an LF are one LF: together they would vouch for each other.
        first = copies(votes.classes, None if votes.is_hard else votes.scores, shared)
        distinct, stands_for = np.unique(first, return_inverse=True)
        kept = replace(votes.columns(distinct.tolist()), scores=no_scores((votes.n_items, len(distinct))))
        reads = [tuple(shared[j]) for j in distinct] if shared else ()
        observed = observe(kept, gold)
        skill = self._with_gold(_skills(observed, reads), observed)
        skill = np.clip(skill, _LEAST_SKILL, _MOST_SKILL)[stands_for]
        self.accuracy_ = 1 / k + skill * (1 - 1 / k)

    @staticmethod
    def _with_gold(skill: Float, observed: Observed) -> Float:
        """Return skills that also hold against the known labels: float64, same shape."""
        known = observed.rows(observed.gold != ABSTAIN)
        k = observed.votes.n_classes
        voted = (known.votes.classes != ABSTAIN) & (known.votes.classes < k)
        right = (known.votes.classes == known.gold[:, None]) & voted
        seen = voted.sum(axis=0)
        found = (k * right.sum(axis=0) / np.maximum(seen, 1) - 1) / (k - 1)
        mixed: Float = (_GOLD_ITEMS * skill + seen * found) / (_GOLD_ITEMS + seen)
        return mixed

    def _weights(self, votes: Votes) -> Float:
        k = votes.n_classes
        chance = np.array([1 / k] * k + [len(members) / k for members in votes.sets])
        skill = (k * self.accuracy_ - 1) / (k - 1)
        # A vote for several classes is right more often by chance, and by skill as far from there to certainty.
        right = chance + skill[:, None] * (1 - chance)
        table = np.log(right / (1 - right)) - np.log(chance / (1 - chance))
        # An abstention finds the last column, and what it finds is ignored.
        weights: Float = table[np.arange(votes.n_lfs), votes.classes]
        return weights


def _skills(observed: Observed, shared: Sequence[Sequence[str]]) -> Float:
    """Return how far each LF is from chance to certainty: float64, shape (n_lfs,), in [-1, 1]."""
    m, k = observed.votes.n_lfs, observed.votes.n_classes
    guess = (k * ACCURACY_OF_A_HARD_VOTE - 1) / (k - 1)
    skill = np.full(m, guess)
    if m < 3 or not observed.votes.n_items:
        return skill
    excess, error, both = _excess_agreement(observed)
    independent = 1 - prior_dependence(observed, shared)
    independent = np.minimum(independent, independent.T)
    met = both * (error < np.inf)
    np.fill_diagonal(met, 0.0)
    divisor = np.where((met > 0) & (excess > _SIGNIFICANT * error), excess, np.inf)
    upper = np.triu(np.ones((m, m), dtype=bool), 1)
    for i in range(m):
        others = np.flatnonzero(met[i] > 0)
        pairs = np.ix_(others, others)
        usable = upper[pairs] & np.isfinite(divisor[pairs])
        if not usable.any():
            continue
        one, other = excess[i, others][:, None], excess[i, others][None, :]
        # An LF that agrees less often than by chance has no skill, and two of these do not make one.
        sign = np.where((one > 0) & (other > 0), 1.0, -1.0)
        found = np.clip(sign * np.sqrt(np.abs(one * other) / divisor[pairs]), -1.0, 1.0)
        overlap = np.minimum(np.minimum.outer(met[i, others], met[i, others]), met[pairs])
        apart = independent[i, others][:, None] * independent[i, others][None, :] * independent[pairs]
        weight = np.where(usable, overlap * apart * np.where(usable, divisor[pairs], 0.0), 0.0)
        seen = float((overlap * apart)[usable].max())
        if seen > 0:
            middle = _weighted_median(found[usable], weight[usable])
            skill[i] = (seen * middle + _PRIOR_ITEMS * guess) / (seen + _PRIOR_ITEMS)
    return skill


def _excess_agreement(observed: Observed) -> tuple[Float, Float, Float]:
    """Return for each pair of LFs b_i b_j, its standard error, and the items on which both vote.

    Each float64, shape (n_lfs, n_lfs). The error is infinite where the votes of a pair cannot tell: too few
    in common, or one of the two always says the same there. Votes for several classes are left out.
    """
    classes, k = observed.votes.classes, observed.votes.n_classes
    m = classes.shape[1]
    single = (classes != ABSTAIN) & (classes < k)
    weight = np.sqrt(observed.weight)[:, None].astype(np.float32)
    voted = single * weight
    both = (voted.T @ voted).astype(np.float64)
    named = sum_by_class(
        replace(observed.votes, classes=np.where(single, classes, ABSTAIN), sets=()), single + 0.0
    )
    most = named >= np.maximum(named.max(axis=1, keepdims=True), 1)
    majority = most / np.maximum(most.sum(axis=1, keepdims=True), 1)
    agree, chance, balance = np.zeros((m, m)), np.zeros((m, m)), np.zeros((m, m))
    repeats = np.zeros((m, m))
    for c in np.flatnonzero(named.any(axis=0)).tolist():
        rows = (
            named[:, c] > 0
        )  # few where classes are many, so that all classes together cost but a few passes
        said = (classes[rows] == c) * weight[rows]
        of_c = voted[rows]
        agree += said.T @ said
        hits = (said.T @ of_c).astype(np.float64)
        chance += hits * hits.T
        repeats += hits**2
        balance += ((of_c * majority[rows, c, None].astype(np.float32)).T @ of_c).astype(np.float64) ** 2
    total = np.maximum(both, 1e-9)
    variety = 1 - repeats / total**2
    scale = np.maximum(1 - balance / total**2, _LEAST_VARIETY)
    excess = np.clip((agree - chance / total) / total / scale, -1.0, 1.0)
    tells = (both >= _LEAST_OVERLAP) & (np.minimum(variety, variety.T) >= _LEAST_VARIETY)
    error = np.where(
        tells, np.sqrt(np.maximum(chance, 0.0) / total**2 * (1 - chance / total**2) / total), np.inf
    )
    return excess, np.where(tells, np.maximum(error, 1e-9) / scale, np.inf), both


def _weighted_median(values: Float, weight: Float) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
