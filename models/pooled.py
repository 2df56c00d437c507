"""Log-odds pooling: what each vote says of every class, discounted where labeling functions (LFs) err together.

One model in three parts, each of which can be left out: class-conditional confusions, scores, and dependence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from manyeyes.models.base import Gold, LabelModel
from manyeyes.models.evidence import Float, JointTables, members, score_logits
from manyeyes.models.expectation import Learner, balance_of_gold
from manyeyes.types import ABSTAIN, FloatArray, Votes

_LEAST = 1e-3
"""Nats by which any vote speaks for its class where nobody speaks against it."""


class Pooled(LabelModel):
    """Learns from votes alone how far each vote can be trusted, and pools them in log-odds.

    A vote v of LF j with score s adds to the log-odds of v against class c

        d_j · ( log P_j(v | v) − log P_j(v | c) + t_j · (logit s − mean logit of j's votes for v) )

    with P_j(v | c) how often j votes v where the class is c, t_j how much its scores can be trusted (0: not at all), and
    d_j what a vote of it counts for beside LFs that err alike (see ``manyeyes.models.dependence``). These are learned by
    expectation–maximisation with priors that keep it from the two ways in which Dawid–Skene fails: LFs are better than
    chance a priori, and the class balance is held to where the majority of votes puts it, so that it cannot collapse.
    The prior on confusions is the LF's own overall reliability, whose prior in turn is 7 right in 10 were the classes
    even: few votes move it little, and a vote for a rare class is trusted less.

    Where all votes on an item name the same class, that class is never made less probable than another: each vote then
    counts at least a little for its class, and the class balance, unless it was given, stays out of it.

    class_balance: prior probability of each class; None learns one to arbitrate where LFs disagree, and is uniform
    elsewhere. confusions, use_scores, dependence: which parts to learn. prior_votes: what the prior on each row of
    confusions is worth. abstentions: whether an abstention tells of the class; "auto" does so where that is all there
    is to tell it by: a class balance is known, and some class has no LF that votes for it. gold_weight: how many items
    one item with a known label counts for.

    Source: Dawid & Skene 1979 (the EM); Kim & Ghahramani 2012, "Bayesian classifier combination" (priors).
    """

    name = "pooled"
    hyperparameters = (
        "class_balance",
        "confusions",
        "use_scores",
        "dependence",
        "prior_votes",
        "abstentions",
        "gold_weight",
        "max_iterations",
        "tolerance",
    )
    learned = ("table_", "slope_", "centre_", "discount_", "log_balance_", "abstention_")

    table_: Float
    """Shape (n_lfs, n_values, n_classes): evidence of a vote at its mean score before discount, in nats; 0 for the class
    that it speaks for most. Shape (n_lfs, n_values, 1) without confusions: that against each class it does not name."""
    slope_: Float
    """Shape (n_lfs,): nats of evidence per nat of a score's log-odds."""
    centre_: Float
    """Shape (n_lfs, n_values): mean log-odds of the scores of these votes."""
    discount_: Float
    """Shape (n_lfs,): what a vote counts for beside dependent LFs."""
    log_balance_: Float
    """Shape (n_classes,): log of the class balance that arbitrates where LFs disagree."""
    abstention_: Float
    """Shape (n_lfs, n_classes): evidence of an abstention, in nats; zeros where abstentions are ignored."""

    def __init__(
        self,
        class_balance: Sequence[float] | None = None,
        *,
        confusions: bool = True,
        use_scores: bool = True,
        dependence: bool = True,
        prior_votes: float = 100.0,
        abstentions: bool | Literal["auto"] = "auto",
        gold_weight: float = 10.0,
        max_iterations: int = 60,
        tolerance: float = 1e-4,
    ) -> None:
        self.class_balance = class_balance
        self.confusions = confusions
        self.use_scores = use_scores
        self.dependence = dependence
        self.prior_votes = prior_votes
        self.abstentions = abstentions
        self.gold_weight = gold_weight
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def _learn(
        self,
        votes: Votes,
        gold: Gold | None,
        embeddings: FloatArray | None,
        shared: Sequence[Sequence[str]],
    ) -> None:
        telling = self._abstentions_tell(votes)
        learner = Learner(self, votes, gold, share=self.share_, telling=telling)
        learner.run(shared)
        self.table_, self.slope_, self.centre_ = learner.table, learner.slope, learner.centre
        self.discount_, self.log_balance_ = learner.discount, np.log(learner.balance)
        self.abstention_ = learner.abstention
        if gold is not None and self.class_balance is None:
            self.log_prior_ = np.log(balance_of_gold(gold, votes.n_classes))

    @property
    def guarded(self) -> bool:
        """Whether votes that agree always win: unless a class balance was given, which may say otherwise."""
        return self.class_balance is None

    def _abstentions_tell(self, votes: Votes) -> bool:
        if self.abstentions != "auto":
            return bool(self.abstentions)
        voted = np.bincount(votes.classes.ravel().astype(np.int64) + 1, minlength=votes.n_values + 1)[1:]
        return self.class_balance is not None and bool((voted[: votes.n_classes] == 0).any()) and not votes.sets

    # What a vote adds

    def _state(self, votes: Votes, embeddings: FloatArray | None) -> _State:
        voted = votes.classes != ABSTAIN
        some = voted.any(axis=1)
        agreed = self._agreed(votes, some) if self.guarded else np.zeros(votes.n_items, dtype=bool)
        scored = self.slope_.any() and not votes.is_hard
        shift = None
        if scored:
            logit = score_logits(votes.scores)
            lf = np.arange(votes.n_lfs)
            centre = np.concatenate([self.centre_, np.zeros((votes.n_lfs, 1))], axis=1)[lf, votes.classes]
            shift = np.where(np.isnan(votes.scores) | ~voted, 0.0, (logit - centre) * self.slope_)
        return _State(some=some, agreed=agreed, shift=shift, named=members(votes))

    def _agreed(self, votes: Votes, some: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return where some class is consistent with every vote: bool, shape (n_items,)."""
        classes = votes.classes
        if votes.sets:
            named = members(votes)
            named[ABSTAIN] = 1.0
            consistent = named[classes].all(axis=1) if votes.n_items else np.zeros((0, votes.n_classes))
            return some & consistent.any(axis=1)
        # An abstention is the lowest value, so as an unsigned number it is the highest.
        unsigned = classes.view(np.dtype(f"u{classes.dtype.itemsize}"))
        return some & (unsigned.min(axis=1, initial=np.iinfo(unsigned.dtype).max) == classes.max(axis=1, initial=-1))

    def _row_prior(self, votes: Votes, state: _State) -> Float:
        arbitrated = state.some & ~state.agreed
        return np.where(arbitrated[:, None], self.log_balance_, self.log_prior_)

    @property
    def _weight(self) -> Float:
        return self.discount_ * self.share_

    def _evidence(self, votes: Votes, lf: int, state: _State) -> Float:
        vote = votes.classes[:, lf].astype(np.intp)
        table = np.concatenate([self._whole_table(lf, state.named[:-1]), np.zeros((1, votes.n_classes))])
        evidence = table[vote]
        if state.shift is not None:
            evidence = evidence + state.shift[:, lf, None] * state.named[vote]
        evidence *= self._weight[lf]
        if self.guarded:
            evidence = np.where(state.agreed[:, None], _for_what_it_names(evidence, state.named[vote]), evidence)
        if self.abstention_.any():
            evidence = evidence + np.where((vote == ABSTAIN) & state.some, 1.0, 0.0)[:, None] * self.abstention_[lf]
        return evidence

    def _whole_table(self, lf: int, named: Float) -> Float:
        """Return one LF's evidence of each value for each class: float64, shape (n_values, n_classes)."""
        table = self.table_[lf]
        return table if table.shape[1] == named.shape[1] else table * (1.0 - named)

    def _log_posterior(self, votes: Votes, embeddings: FloatArray | None) -> Float:
        state = self._state(votes, embeddings)
        total = self._row_prior(votes, state)
        if state.shift is not None or self.table_.shape[2] != votes.n_classes:
            for j in range(votes.n_lfs):
                total += self._evidence(votes, j, state)
            return total
        raw, guarded = self._joint(state.named)
        apart = np.flatnonzero(~state.agreed & state.some)
        for tables, rows in ((raw, apart), (guarded, np.flatnonzero(state.agreed))):
            if tables is not None and rows.size == votes.n_items:
                tables.add_to(total, votes.classes)
            elif tables is not None and rows.size:
                part = total[rows]
                tables.add_to(part, votes.classes[rows])
                total[rows] = part
        return total

    def _joint(self, named: Float) -> tuple[JointTables, JointTables | None]:
        """Return the tables of hard votes where LFs disagree and where they agree, made once for each fit."""
        made = self.__dict__.get("_joint_tables")
        if made is None or made[0] is not self.table_:
            evidence = self.table_ * self._weight[:, None, None]
            raw = np.concatenate([self.abstention_[:, None, :], evidence], axis=1)
            guarded = None
            if self.guarded:
                clear = _for_what_it_names(evidence, named[:-1])
                guarded = JointTables(np.concatenate([self.abstention_[:, None, :], clear], axis=1))
            made = (self.table_, JointTables(raw), guarded)
            self.__dict__["_joint_tables"] = made
        return made[1], made[2]


@dataclass(frozen=True, eq=False)
class _State:
    """some: rows with a vote. agreed: rows whose votes all fit one class. shift: what each score adds before discount,
    or None for hard votes. named: ``members(votes)``."""

    some: npt.NDArray[np.bool_]
    agreed: npt.NDArray[np.bool_]
    shift: Float | None
    named: Float


def _for_what_it_names(evidence: Float, named: Float) -> Float:
    """Return evidence that never speaks against a vote's own classes, and at least a little against the others.

    evidence, named: shape (…, n_classes); named is 1 for the classes of the vote, 0 throughout for an abstention.
    """
    own = np.where(named > 0, evidence, -np.inf).max(axis=-1, keepdims=True, initial=-np.inf)
    against = np.minimum(evidence - np.where(np.isfinite(own), own, 0.0), -_LEAST)
    return np.where((named > 0) | ~np.isfinite(own), 0.0, against)


class DependencyAware(Pooled):
    """``Pooled`` with all of its parts: confusions, scores and dependence."""

    name = "dependency_aware"


class ScoreAware(Pooled):
    """``Pooled`` that takes LFs to err independently of each other: calibrated pooling of votes and their scores."""

    name = "score_aware"

    def __init__(
        self,
        class_balance: Sequence[float] | None = None,
        *,
        dependence: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(class_balance, dependence=dependence, **others)


class DawidSkene(Pooled):
    """The model of Dawid and Skene with priors: confusions of hard votes, whatever their scores, LFs independent."""

    name = "dawid_skene"

    def __init__(
        self,
        class_balance: Sequence[float] | None = None,
        *,
        dependence: bool = False,
        use_scores: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(class_balance, dependence=dependence, use_scores=use_scores, **others)


class OneCoin(Pooled):
    """``ScoreAware`` with one reliability an LF in place of confusions: for many classes and few votes."""

    name = "one_coin"

    def __init__(
        self,
        class_balance: Sequence[float] | None = None,
        *,
        dependence: bool = False,
        confusions: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(class_balance, dependence=dependence, confusions=confusions, **others)
