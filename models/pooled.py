"""Log-odds pooling: what each vote says of every class, discounted where labeling functions (LFs) err together.

One model in three parts, each of which can be left out: class-conditional confusions, scores, and dependence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from manyeyes.models.base import Gold, LabelModel, with_ties_broken
from manyeyes.models.evidence import Float, JointTables, members, score_logits
from manyeyes.models.expectation import MAX_CLASSES_WITH_CONFUSIONS, Learner, balance_of_gold
from manyeyes.models.observed import Observed, observe
from manyeyes.types import ABSTAIN, FloatArray, VoteArray, Votes

_LEAST = 1e-3
"""Nats by which any vote speaks for its class where nobody speaks against it."""
_TRIAL = (12, 2e-3)
"""Iterations and tolerance of a trial. On the 24 tasks of the benchmarks' suite, no choice hung on more of them."""


class Pooled(LabelModel):
    """Learns from votes alone how far each vote can be trusted, and pools them in log-odds.

    A vote v of LF j with score s adds to the log-odds of v against class c

        d_j · ( log P_j(v | v) − log P_j(v | c) + t_j · (logit s − mean logit of j's votes for v) )

    with P_j(v | c) how often j votes v where the class is c, t_j how much its scores can be trusted (0: not at all),
    and d_j what a vote of it counts for beside LFs that err alike (see ``manyeyes.models.dependence``). These are
    learned by expectation–maximisation with priors that keep it from the two ways in which Dawid–Skene fails: LFs are
    better than chance a priori, and the class balance is held to where the majority of votes puts it, so that it
    cannot collapse. The prior on confusions is the LF's own overall reliability, whose prior in turn is 7 right in 10
    were the classes even: few votes move it little, and a vote for a rare class is trusted less.

    Where all votes on an item name the same class, that class is never made less probable than another: each vote then
    counts at least a little for its class, and the class balance, unless it was given, may add to the class but not
    speak against it.

    class_balance: prior probability of each class; None learns one to arbitrate where LFs disagree, and is uniform
    elsewhere; "estimated" learns one and uses it throughout. confusions, use_scores, dependence: which parts to
    learn. prior_votes: what the prior on each row of confusions is worth. abstentions: whether an abstention tells of
    the class; "auto" does so where that is all there is to tell it by: a class balance is known, and some class has
    no LF that votes for it. gold_weight: how many items one item with a known label counts for.

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
    """Shape (n_lfs, n_values, n_classes): evidence of a vote at its mean score before discount, in nats; 0 for the
    class that it speaks for most. Shape (n_lfs, n_values, 1) without confusions: that against each class it does not
    name."""
    slope_: Float
    """Shape (n_lfs,): nats of evidence per nat of a score's log-odds."""
    centre_: Float
    """Shape (n_lfs, n_values): mean log-odds of the scores of these votes."""
    discount_: Float
    """Shape (n_lfs,): what a vote counts for beside dependent LFs."""
    log_balance_: Float
    """Shape (n_classes,): log of the class balance that arbitrates where LFs disagree."""
    abstention_: Float
    """Shape (n_lfs, n_classes): evidence of an abstention after discount, in nats; zeros where they are ignored."""

    def __init__(
        self,
        class_balance: Sequence[float] | str | None = None,
        *,
        confusions: bool = True,
        use_scores: bool = True,
        dependence: bool = True,
        prior_votes: float = 200.0,
        abstentions: bool | Literal["auto"] = "auto",
        gold_weight: float = 10.0,
        max_iterations: int = 60,
        tolerance: float = 5e-4,
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
        self.learn_from(observe(votes, gold), shared)

    def learn_from(self, observed: Observed, shared: Sequence[Sequence[str]], *, trial: bool = False) -> None:
        """Learn from rows that were observed before, so that several models share the work.

        trial: stop early, where it shows what such a model is worth beside others.
        """
        votes, gold = observed.votes, observed.gold
        learner = Learner(self, observed, share=self.share_, telling=self._abstentions_tell(observed))
        iterations, tolerance = _TRIAL if trial else (self.max_iterations, self.tolerance)
        learner.run(shared, iterations, tolerance)
        self.table_, self.slope_, self.centre_ = learner.table, learner.slope, learner.centre
        self.discount_, self.log_balance_ = learner.discount, np.log(learner.settled_balance)
        # The silence of LFs that err alike counts for no more than their votes do.
        self.abstention_ = learner.abstention * self._weight[:, None]
        if self.class_balance == "estimated":
            self.log_prior_ = self.log_balance_
        elif self.class_balance is None and (gold != ABSTAIN).any():
            self.log_prior_ = np.log(balance_of_gold(gold, votes.n_classes))

    @property
    def guarded(self) -> bool:
        """Whether votes that agree always win: unless a class balance was given, which may say otherwise."""
        return self.class_balance is None

    def _abstentions_tell(self, observed: Observed) -> bool:
        if self.abstentions != "auto":
            return bool(self.abstentions)
        votes = observed.votes
        voted = np.bincount(votes.classes.ravel().astype(np.intp) + 1, minlength=votes.n_values + 1)[1:]
        return self.given_balance is not None and not votes.sets and bool((voted == 0).any())

    # What a vote adds

    def _state(self, votes: Votes, embeddings: FloatArray | None) -> _State:
        columns = np.ascontiguousarray(votes.classes.T)
        some = columns.max(axis=0, initial=ABSTAIN) != ABSTAIN
        agreed = self._agreed(votes, columns) & some if self.guarded else np.zeros(votes.n_items, dtype=bool)
        shift = None
        if self.slope_.any() and not votes.is_hard:
            logit = score_logits(votes.scores)
            lf = np.arange(votes.n_lfs)
            centre = np.concatenate([self.centre_, np.zeros((votes.n_lfs, 1))], axis=1)[lf, votes.classes]
            silent = np.isnan(votes.scores) | (votes.classes == ABSTAIN)
            shift = np.where(silent, 0.0, (logit - centre) * self.slope_)
        return _State(columns=columns, some=some, agreed=agreed, shift=shift, named=members(votes))

    def _agreed(self, votes: Votes, columns: VoteArray) -> npt.NDArray[np.bool_]:
        """Return where some class is consistent with every vote: bool, shape (n_items,)."""
        if votes.sets:
            named = members(votes)
            named[ABSTAIN] = 1.0
            consistent = np.ones((votes.n_items, votes.n_classes), dtype=bool)
            for column in columns:
                consistent &= named[column] > 0
            return np.asarray(consistent.any(axis=1))
        # An abstention is the lowest value, so as an unsigned number it is the highest.
        unsigned = columns.view(np.dtype(f"u{columns.dtype.itemsize}"))
        highest = np.iinfo(unsigned.dtype).max
        return np.asarray(unsigned.min(axis=0, initial=highest) == columns.max(axis=0, initial=ABSTAIN))

    def _row_prior(self, votes: Votes, state: _State) -> Float:
        # Where votes agree, the class balance may add to what they say, but not speak against it.
        ahead = np.minimum(self.log_balance_ - self.log_balance_[:, None], 0.0)
        starts = np.concatenate([ahead, self.log_balance_[None], self.log_prior_[None]])
        k = votes.n_classes
        if votes.sets:
            plain = np.where(state.columns < k, state.columns, ABSTAIN)
            said = plain.max(axis=0, initial=ABSTAIN).astype(np.intp)
        else:
            said = state.columns.max(axis=0, initial=ABSTAIN).astype(np.intp)
        at = np.where(state.some, np.where(state.agreed, np.where(said == ABSTAIN, k + 1, said), k), k + 1)
        return starts[at]

    @property
    def _weight(self) -> Float:
        return self.discount_ * with_ties_broken(self.share_)

    def _evidence(self, votes: Votes, lf: int, state: _State) -> Float:
        vote = votes.classes[:, lf].astype(np.intp)
        if state.shift is None:
            evidence: Float = self._tables(state.named)[state.agreed.astype(np.intp), lf, vote + 1]
            if self.abstention_.any():
                evidence[~state.some] = 0.0
            return evidence
        table = np.concatenate([self._whole_table(lf, state.named[:-1]), np.zeros((1, votes.n_classes))])
        evidence = table[vote] + state.shift[:, lf, None] * state.named[vote]
        evidence *= self._weight[lf]
        if self.guarded:
            evidence = np.where(
                state.agreed[:, None], _for_what_it_names(evidence, state.named[vote]), evidence
            )
        if self.abstention_.any():
            evidence = (
                evidence + np.where((vote == ABSTAIN) & state.some, 1.0, 0.0)[:, None] * self.abstention_[lf]
            )
        return evidence

    def _moved(
        self, votes: Votes, lf: int, state: _State, top: npt.NDArray[Any], runner_up: npt.NDArray[Any]
    ) -> Float:
        if votes.sets:
            return super()._moved(votes, lf, state, top, runner_up)
        # As `_evidence` does, of two classes instead of all.
        vote = votes.classes[:, lf].astype(np.intp)
        silent = vote == ABSTAIN
        table = np.concatenate([self._whole_table(lf, state.named[:-1]), np.zeros((1, votes.n_classes))])
        shift = 0.0 if state.shift is None else state.shift[:, lf]

        def of(classes: npt.NDArray[Any]) -> Float:
            own = vote == classes
            evidence = (table[vote, classes] + shift * own) * self._weight[lf]
            if self.guarded:
                said = (table[vote, np.where(silent, 0, vote)] + shift) * self._weight[lf]
                against = np.where(own | silent, 0.0, np.minimum(evidence - said, -_LEAST))
                evidence = np.where(state.agreed, against, evidence)
            if self.abstention_.any():
                evidence = evidence + np.where(silent & state.some, self.abstention_[lf][classes], 0.0)
            return np.asarray(evidence)

        return of(top) - of(runner_up)

    def _whole_table(self, lf: int, named: Float) -> Float:
        """Return one LF's evidence of each value for each class: float64, shape (n_values, n_classes)."""
        table: Float = self.table_[lf]
        return table if table.shape[1] == named.shape[1] else np.asarray(table * (1.0 - named))

    def _log_posterior(self, votes: Votes, embeddings: FloatArray | None) -> Float:
        state = self._state(votes, embeddings)
        total = self._row_prior(votes, state)
        if state.shift is not None or votes.n_classes > MAX_CLASSES_WITH_CONFUSIONS:
            for j in range(votes.n_lfs):
                total += self._evidence(votes, j, state)
            return total
        self._joint(state.named).add_to(total, state.columns, state.agreed)
        if self.abstention_.any():
            total[~state.some] = self.log_prior_
        return total

    def _joint(self, named: Float) -> JointTables:
        """Return the tables of hard votes, those of several LFs at a time, made once for each fit."""
        made: tuple[Float, JointTables] | None = self.__dict__.get("_joint_tables")
        if made is None or made[0] is not self.table_:
            made = self.__dict__["_joint_tables"] = (self.table_, JointTables(self._tables(named)))
        return made[1]

    def _tables(self, named: Float) -> Float:
        """Return what hard votes add, where LFs disagree and where they agree, made once for each fit.

        Float64, shape (2, n_lfs, n_values + 1, n_classes); row 0 is an abstention, row v + 1 vote v.
        """
        made: tuple[Float, Float] | None = self.__dict__.get("_vote_tables")
        if made is None or made[0] is not self.table_:
            whole = np.stack([self._whole_table(j, named[:-1]) for j in range(len(self.table_))])
            evidence = whole * self._weight[:, None, None]
            guarded = _for_what_it_names(evidence, named[:-1]) if self.guarded else evidence
            silent = self.abstention_[:, None, :]
            tables = [np.concatenate([silent, part], axis=1) for part in (evidence, guarded)]
            made = self.__dict__["_vote_tables"] = (self.table_, np.stack(tables))
        return made[1]


@dataclass(frozen=True, eq=False)
class _State:
    """columns: votes, one row an LF. some: rows with a vote. agreed: rows whose votes all fit one class. shift: what
    each score adds before discount, or None for hard votes. named: ``members(votes)``."""

    columns: VoteArray
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
        class_balance: Sequence[float] | str | None = None,
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
        class_balance: Sequence[float] | str | None = None,
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
        class_balance: Sequence[float] | str | None = None,
        *,
        dependence: bool = False,
        confusions: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(class_balance, dependence=dependence, confusions=confusions, **others)
