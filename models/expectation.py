"""How ``Pooled`` learns: expectation–maximisation over the different rows of a label matrix.

The E-step gives every row a posterior over classes; the M-step reads off what each vote of each labeling function (LF)
meant under these posteriors. See ``manyeyes.models.pooled`` for the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from manyeyes.models.dependence import (
    discounts,
    prior_dependence,
    residual_dependence,
    residual_of_accuracies,
    share_a_primitive,
)
from manyeyes.models.evidence import ACCURACY_OF_A_HARD_VOTE, Float, members, score_logits, softmax
from manyeyes.models.observed import Observed
from manyeyes.types import ABSTAIN

MAX_CLASSES_WITH_CONFUSIONS = 64
"""Above this, wrong votes are taken to fall on the other classes as these are frequent."""
_LIMIT = 7.0
"""No vote moves the log-odds by more nats than this: 1 in 1,100."""
_PRIOR_SLOPE = 0.5
"""How far scores are believed before anything is known: half of what they say."""
_PRIOR_SCORES = 30.0
"""Votes that the prior on the slope of scores is worth."""
_KEPT = 0.25
"""Share of the dependence expected of LFs that share a primitive which no posterior explains away."""
_ROUNDS = 3
"""How often dependence is found anew under better posteriors."""
_MAX_CELLS = 1 << 25
"""Cells of the one-hot votes or of the posteriors: 128 MiB of float32."""
_DRIFT = 0.4
"""Log-odds by which the share of a class may leave what the majority of votes gives it before it is pulled back."""
_SMOOTHING = 10.0
"""Items of every class in equal parts that are added to an estimated class balance."""


class Settings(Protocol):
    """The hyperparameters that matter here; see ``Pooled``."""

    @property
    def given_balance(self) -> Float | None: ...

    confusions: bool
    use_scores: bool
    dependence: bool
    prior_votes: float
    gold_weight: float


class Learner:
    """One fit. After ``run``: table, slope, centre, discount, balance, abstention, as ``Pooled`` keeps them.

    share: what a vote of each LF counts for among its exact copies. telling: whether abstentions tell of the class.
    """

    table: Float
    balance: Float

    def __init__(self, settings: Settings, observed: Observed, *, share: Float, telling: bool) -> None:
        votes = observed.votes
        self.settings, self.telling, self.share = settings, telling, share
        self.k, self.n_values, self.m = votes.n_classes, votes.n_values, votes.n_lfs
        self.confusions = settings.confusions and self.k <= MAX_CLASSES_WITH_CONFUSIONS
        if not telling:
            observed = observed.rows(observed.covered)
        width = self.m * self.n_values if self.confusions else self.k
        observed = observed.thinned(max(1024, _MAX_CELLS // max(width, 1)))
        self.observed = observed
        self.classes, self.weight = observed.votes.classes, observed.weight
        self.known = np.flatnonzero(observed.gold != ABSTAIN)
        self.weight = self.weight.copy()
        self.weight[self.known] *= settings.gold_weight
        self.named = members(observed.votes)
        self.item, self.lf = np.nonzero(self.classes != ABSTAIN)
        self.value = self.classes[self.item, self.lf].astype(np.intp)
        self.cell = self.lf * self.n_values + self.value
        self.vote_weight = self.weight[self.item]
        self.per_value = self._sum_votes(self.vote_weight)
        self.discount = np.ones(self.m)
        self.slope = np.zeros(self.m)
        self.abstention = np.zeros((self.m, self.k))
        self.pull = np.zeros(self.k)
        # Log-odds of a right vote were the classes even; each M-step starts where the last one ended.
        self.reliability = np.full(self.m, 1.0)
        self._read_scores()
        self.one_hot: npt.NDArray[np.float32] | None = None
        if self.confusions:
            self.one_hot = np.zeros((len(self.classes), self.m * self.n_values), dtype=np.float32)
            self.one_hot[self.item, self.cell] = 1.0

    def run(self, shared: Sequence[Sequence[str]], max_iterations: int, tolerance: float) -> None:
        """Learn everything, in each round until no posterior moves by more than ``tolerance``."""
        if self.settings.dependence:
            expected = prior_dependence(self.observed, shared)
            self.discount = self._discounts(expected)
            self.expected_dependence = np.where(share_a_primitive(shared, self.m), expected, 0.0)
        posterior = self._by_majority()
        target = self._share_of(posterior)
        rounds = _ROUNDS if self.settings.dependence else 1
        for turn in range(rounds):
            for _ in range(max_iterations):
                counts = self._maximise(posterior, target)
                previous, posterior = posterior, self._expect()
                if np.abs(posterior - previous).max(initial=0.0) < tolerance:
                    break
            if self.settings.dependence and turn < rounds - 1:
                self.discount = self._discounts(self._residual(posterior, counts))

    @property
    def settled_balance(self) -> Float:
        """The class balance that was given or learned; even where some class has no LF voting for it: nothing tells."""
        if self.settings.given_balance is not None:
            return self.settings.given_balance
        unheard = (self.per_value.sum(axis=0)[: self.k] == 0).any()
        return np.full(self.k, 1.0 / self.k) if unheard else self.balance

    # Expectation

    def _by_majority(self) -> npt.NDArray[np.float32]:
        """Return the votes' majority, ties shared, a tenth of doubt: float32, shape (n_rows, n_classes)."""
        size = self.named.sum(axis=1)
        weight = (self.discount * self.share)[self.lf] / size[self.value]
        total = self._sum_evidence(weight)
        most = total >= total.max(axis=1, keepdims=True) - 1e-9
        posterior = 0.9 * most / np.maximum(most.sum(axis=1, keepdims=True), 1) + 0.1 / self.k
        return self._with_gold(posterior.astype(np.float32))

    def _expect(self) -> npt.NDArray[np.float32]:
        weight = self.discount * self.share
        if self.one_hot is not None:
            table = (self.table * weight[:, None, None]).reshape(-1, self.k).astype(np.float32)
            logits = (self.one_hot @ table).astype(np.float64)
        else:
            logits = self._sum_evidence(-self.table[self.lf, self.value, 0] * weight[self.lf])
        if self.shift.any():
            logits += self._sum_evidence(self.shift * weight[self.lf])
        if self.telling:
            logits += (self.classes == ABSTAIN) @ (self.abstention * weight[:, None])
        return self._with_gold(softmax(logits + np.log(self.balance)).astype(np.float32))

    def _with_gold(self, posterior: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        posterior[self.known] = 0.0
        posterior[self.known, self.observed.gold[self.known]] = 1.0
        return posterior

    # Maximisation

    def _maximise(self, posterior: npt.NDArray[np.float32], target: Float) -> Float:
        """Set table, balance and slopes from posteriors; return expected votes, (n_lfs, n_values, n_classes or 1)."""
        mass = self._share_of(posterior)
        given = self.settings.given_balance
        if given is not None:
            # Told that a class is rare, the posterior must not lose it altogether: its share is held to what is given.
            excess = _log_odds(mass) - _log_odds(given)
            self.pull = np.clip(0.98 * self.pull - excess, -5.0, 5.0)
            self.balance = given * np.exp(self.pull)
            self.balance /= self.balance.sum()
        else:
            # A balance that leads the posterior away from the majority's is pulled back, a step an iteration.
            odds, held = _log_odds(mass), _log_odds(target)
            excess = odds - np.clip(odds, held - _DRIFT, held + _DRIFT)
            self.pull = np.clip(0.98 * self.pull - excess, -5.0, 5.0)
            self.balance = (mass + target) / 2 * np.exp(self.pull)
            self.balance /= self.balance.sum()
        balance = (mass + 0.02 / self.k) / 1.02
        right_vote = self._right(posterior)
        right = self._sum_votes(self.vote_weight * right_vote)
        expected = self._reliability(right, balance)
        prior = self.settings.prior_votes
        precision = (right + prior * expected) / (self.per_value + prior)
        self._fit_slopes(right_vote, precision)
        if self.one_hot is None:
            inside = self._inside(balance)
            gap = np.log(precision / inside) - np.log((1 - precision) / (1 - inside))
            self.table = -np.clip(gap, -_LIMIT, _LIMIT)[:, :, None]
            if self.telling:
                self._learn_abstentions(posterior)
            return right[:, :, None]
        counts = (self.one_hot.T @ (posterior * self.weight[:, None].astype(np.float32))).astype(np.float64)
        counts = counts.reshape(self.m, self.n_values, self.k)
        given_vote = self._spread(counts, precision, balance)
        table = np.log(given_vote / balance)
        self.table = np.clip(table - table.max(axis=2, keepdims=True), -_LIMIT, 0.0)
        if self.telling:
            self._learn_abstentions(posterior)
        return counts

    def _reliability(self, right: Float, balance: Float) -> Float:
        """Return what each LF's votes are worth by its reliability alone: P(right | value), (n_lfs, n_values).

        One number e an LF, the log-odds of a right vote were the classes even, such that as many of its votes are right
        as the posterior says, with prior votes that are right as ACCURACY_OF_A_HARD_VOTE says.
        """
        inside = self._inside(balance)
        chance = inside / (1 - inside)
        start = np.log(ACCURACY_OF_A_HARD_VOTE) - np.log(1 - ACCURACY_OF_A_HARD_VOTE)
        even = 1.0 / (self.k - 1)
        total = self.per_value.sum(axis=1, keepdims=True)
        habit = np.where(total > 0, self.per_value / np.maximum(total, 1e-9), 1.0 / self.n_values)
        pseudo = habit * self.settings.prior_votes
        votes = self.per_value + pseudo
        odds = chance / even
        at_start = odds * np.exp(start)
        wanted = right.sum(axis=1) + (pseudo * at_start / (1 + at_start)).sum(axis=1)
        log_odds = np.log(odds)
        for _ in range(25):
            found: Float = 1.0 / (1.0 + np.exp(-(log_odds + self.reliability[:, None])))
            missing = wanted - (votes * found).sum(axis=1)
            step = missing / np.maximum((votes * found * (1 - found)).sum(axis=1), 1e-9)
            self.reliability = np.clip(self.reliability + np.clip(step, -1.0, 1.0), -4.0, 12.0)
            if np.abs(step).max(initial=0.0) < 1e-6:
                break
        return found

    def _inside(self, balance: Float) -> Float:
        """Return the balance of what each value names: shape (n_values,), short of 1."""
        return np.clip(self.named[:-1] @ balance, 1e-9, 1 - 1e-9)

    def _spread(self, counts: Float, precision: Float, balance: Float) -> Float:
        """Return P(class | LF, value): right by ``precision``, wrong as counted, with a prior in proportion to the
        balance; float64, shape (n_lfs, n_values, n_classes)."""
        inside, outside = self.named[:-1] > 0, self.named[:-1] == 0
        prior = self.settings.prior_votes
        result = np.zeros_like(counts)
        for part, share in ((inside, precision), (outside, 1 - precision)):
            usual = np.where(part, balance, 0.0)
            usual /= usual.sum(axis=1, keepdims=True)
            counted = np.where(part, counts, 0.0)
            spread = (counted + prior * usual) / (counted.sum(axis=2, keepdims=True) + prior)
            result += share[:, :, None] * spread
        return result

    def _learn_abstentions(self, posterior: npt.NDArray[np.float32]) -> None:
        """Set log P(abstain | class), up to a constant an LF."""
        mass = posterior.T.astype(np.float64) @ self.weight
        silent = (self.classes == ABSTAIN).astype(np.float64).T @ (posterior * self.weight[:, None])
        share = (silent + 0.5) / (mass + 1.0)
        evidence = np.log(share)
        self.abstention = np.clip(evidence - evidence.max(axis=1, keepdims=True), -_LIMIT, 0.0)

    # Scores

    def _read_scores(self) -> None:
        self.shift = np.zeros(len(self.item))
        self.centre = np.zeros((self.m, self.n_values))
        self.scored = np.zeros(len(self.item), dtype=bool)
        self.spread_of_score = np.zeros(len(self.item))
        if not self.settings.use_scores or self.observed.votes.is_hard:
            return
        scores = self.observed.votes.scores[self.item, self.lf]
        self.scored = ~np.isnan(scores)
        logit = score_logits(scores)
        weight = self.vote_weight * self.scored
        self.centre = self._sum_votes(weight * logit) / np.maximum(self._sum_votes(weight), 1e-9)
        self.spread_of_score = np.where(self.scored, logit - self.centre[self.lf, self.value], 0.0)
        self.slope = np.where(np.bincount(self.lf, self.scored, self.m) > 0, _PRIOR_SLOPE, 0.0)
        self.shift = self.slope[self.lf] * self.spread_of_score

    def _fit_slopes(self, right: Float, precision: Float) -> None:
        """One Newton step on how much the log-odds of a right vote rise with the score's log-odds, an LF at a time."""
        if not self.scored.any():
            return
        x, weight = self.spread_of_score, self.vote_weight * self.scored
        at_mean = np.log(precision) - np.log1p(-precision)
        guess = 1.0 / (1.0 + np.exp(-(at_mean[self.lf, self.value] + self.slope[self.lf] * x)))
        variance = np.bincount(self.lf, weight * x * x, self.m) / np.maximum(
            np.bincount(self.lf, weight, self.m), 1e-9
        )
        stiff = _PRIOR_SCORES * 0.2 * np.maximum(variance, 0.1)
        gradient = np.bincount(self.lf, weight * (right - guess) * x, self.m) - stiff * (
            self.slope - _PRIOR_SLOPE
        )
        curvature = np.bincount(self.lf, weight * guess * (1 - guess) * x * x, self.m) + stiff
        has_scores = np.bincount(self.lf, self.scored, self.m) > 0
        step = np.clip(gradient / curvature, -0.5, 0.5)
        self.slope = np.where(has_scores, np.clip(self.slope + step, 0.0, 3.0), 0.0)
        self.shift = self.slope[self.lf] * x

    # Dependence

    def _discounts(self, dependence: Float) -> Float:
        """Return what a vote of each LF counts for beside the others; exact copies already share one vote."""
        copied = self.share < 1
        if copied.any():
            columns = np.ascontiguousarray(self.classes.T)
            equal = np.array([[np.array_equal(a, b) for b in columns] for a in columns])
            dependence = np.where(np.outer(copied, copied) & equal, 0.0, dependence)
        return discounts(dependence * self.share[None, :])

    def _residual(self, posterior: npt.NDArray[np.float32], counts: Float) -> Float:
        """Return dependence given the posterior; at least a part of what was expected of LFs that share one,
        since what they all get wrong together, the posterior gets wrong with them."""
        return np.maximum(self._unexplained(posterior, counts), _KEPT * self.expected_dependence)

    def _unexplained(self, posterior: npt.NDArray[np.float32], counts: Float) -> Float:
        if counts.shape[2] == self.k:
            return residual_dependence(self.observed, posterior, counts)
        accuracy = counts.sum(axis=(1, 2)) / np.maximum(self.per_value.sum(axis=1), 1e-9)
        return residual_of_accuracies(self.observed, np.clip(accuracy, 0.0, 1.0), self.k)

    # Sums

    def _share_of(self, posterior: npt.NDArray[np.float32]) -> Float:
        mass = posterior.T.astype(np.float64) @ self.weight + _SMOOTHING / self.k
        share: Float = mass / mass.sum()
        return share

    def _right(self, posterior: npt.NDArray[np.float32]) -> Float:
        """Return how probably each vote is right: shape (n_votes,)."""
        plain = self.value < self.k
        right = posterior[self.item, np.where(plain, self.value, 0)].astype(np.float64)
        if not plain.all():
            partial = ~plain
            right[partial] = (posterior[self.item[partial]] * self.named[self.value[partial]]).sum(axis=1)
        return right

    def _sum_votes(self, amount: Float) -> Float:
        """Return the amounts of votes summed by LF and value: shape (n_lfs, n_values)."""
        summed = np.bincount(self.cell, weights=amount, minlength=self.m * self.n_values)
        return summed.astype(np.float64, copy=False).reshape(self.m, self.n_values)

    def _sum_evidence(self, amount: Float) -> Float:
        """Return the amounts of votes summed by row and the classes they name: shape (n_rows, n_classes)."""
        n = len(self.classes)
        plain = self.value < self.k
        cell = self.item[plain] * self.k + self.value[plain]
        total = np.bincount(cell, weights=amount[plain], minlength=n * self.k).astype(np.float64, copy=False)
        total = total.reshape(n, self.k)
        if not plain.all():
            partial = np.flatnonzero(~plain)
            np.add.at(total, self.item[partial], amount[partial, None] * self.named[self.value[partial]])
        return total


def balance_of_gold(gold: npt.NDArray[np.signedinteger[Any]], n_classes: int) -> Float:
    """Return the class balance of known labels, one more of each class added: float64, shape (n_classes,)."""
    counts = np.bincount(gold[gold != ABSTAIN], minlength=n_classes) + 1.0
    balance: Float = counts / counts.sum()
    return balance


def _log_odds(share: Float) -> Float:
    odds: Float = np.log(share) - np.log1p(-share)
    return odds
