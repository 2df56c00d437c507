"""The guarded choice of a label model: what can be learned from these votes, and majority vote where nothing can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from manyeyes.models.base import Gold, LabelModel, Neighbors
from manyeyes.models.calibration import Calibrator
from manyeyes.models.conformal import clone, out_of_fold
from manyeyes.models.dependence import prior_dependence
from manyeyes.models.evidence import Float, each, softmax
from manyeyes.models.expectation import MAX_CLASSES_WITH_CONFUSIONS
from manyeyes.models.majority import MajorityVote
from manyeyes.models.neighbors import EmbeddingAware, restored
from manyeyes.models.observed import Observed, observe
from manyeyes.models.pooled import DependencyAware, OneCoin, Pooled, ScoreAware
from manyeyes.models.selection import compare, rows_to_compare
from manyeyes.types import ABSTAIN, FloatArray, Votes

MIN_LFS = 3
"""Accuracies of fewer LFs cannot be told apart from their agreement alone (Dawid–Skene needs three views)."""
MIN_ITEMS = 50
"""Fewer overlapping items say too little of an LF, and labels would hang on what happens to share a call."""
MIN_GOLD = 20
"""Known labels from which candidates are judged by them."""

_TRIAL_ROWS = 2_048
"""Rows that candidates are tried on; the one chosen then learns from all."""
_OTHER_PRIOR_VOTES = (20.0, 1000.0)
"""For LFs whose confusions differ more between classes than the usual prior lets them, and less."""
_LEAST_GOLD_ERRORS = 1.5
"""Standard errors by which another model must do better on known labels than the one that the votes favour."""
MIN_NEIGHBORHOOD = 1_000
"""Items with votes and embeddings from which the nearest are near enough to lend votes to each other."""

_IN_WORDS = {
    "majority": "majority vote",
    "dependency_aware": "votes weighed by what each was worth, LFs that err together discounted",
    "score_aware": "votes weighed by what each was worth, LFs taken to err independently",
    "one_coin": "votes weighed by one reliability an LF, LFs that err together discounted",
    "embedding_aware": "votes lent to near neighbours",
}


class Auto(LabelModel):
    """Fits several label models, keeps the one that the evidence favours, and says which and why in ``why_``.

    Candidates are judged by how well each foretells votes that it did not see (``manyeyes.models.selection``); the
    dependency-aware model stays unless another is clearly better. With ``MIN_GOLD`` known labels or more, the model so
    chosen stays unless another has clearly less cross-validated log-loss on these, and its probabilities are calibrated
    on them. Where nothing can
    be learned — fewer than ``MIN_LFS`` different LFs, or too few items on which they meet — it is majority vote. With
    embeddings, votes are lent to neighbours (``EmbeddingAware``) where that helps by the same measure.

    class_balance: prior probability of each class; None is uniform where LFs agree, and learned where they do not;
    "estimated" is learned and used throughout.

    >>> from manyeyes.types import Votes
    >>> model = Auto().fit(Votes.hard([[0, 1], [1, 1]], n_classes=2))
    >>> model.choice_.name, model.why_
    ('majority', 'majority vote: 2 LFs voted, and accuracies can be learned from 3 or more')
    """

    name = "auto"

    choice_: LabelModel
    why_: str
    held_out_: tuple[npt.NDArray[Any], FloatArray] | None
    """The known labels of the last fit and the probabilities of these items, each from a fit without its label; what a
    threshold is found on. Not saved."""
    temperature_: Float
    """Shape (1,): what log-odds are divided by; 1 without known labels."""

    def __init__(self, class_balance: Sequence[float] | str | None = None) -> None:
        self.class_balance = class_balance

    def _learn(
        self,
        votes: Votes,
        gold: Gold | None,
        embeddings: FloatArray | None,
        shared: Sequence[Sequence[str]],
    ) -> None:
        self.temperature_ = np.ones(1)
        self.held_out_ = None
        if gold is not None and int((gold != ABSTAIN).sum()) >= MIN_GOLD:
            self._choose_by_gold(votes, gold, embeddings, shared)
        else:
            self._choose_without_gold(votes, embeddings, shared, gold)
        self.log_prior_ = self.choice_.log_prior_

    def _choose_without_gold(
        self,
        votes: Votes,
        embeddings: FloatArray | None,
        shared: Sequence[Sequence[str]],
        gold: Gold | None = None,
    ) -> None:
        observed = observe(votes, gold)
        if refusal := _refusal(observed, self.share_):
            self.choice_ = MajorityVote(self.class_balance).fit(votes, gold, None, shared)
            self.why_ = f"majority vote: {refusal}"
        else:
            self._choose_by_votes(votes, observed, embeddings, shared)

    def _choose_by_votes(
        self,
        votes: Votes,
        observed: Observed,
        embeddings: FloatArray | None,
        shared: Sequence[Sequence[str]],
    ) -> None:
        balance = self.class_balance
        candidates: list[LabelModel] = [
            DependencyAware(balance),
            ScoreAware(balance),
            MajorityVote(balance),
        ]
        if votes.n_classes <= MAX_CLASSES_WITH_CONFUSIONS:  # with more, they would be the first one again
            candidates += [DependencyAware(balance, prior_votes=worth) for worth in _OTHER_PRIOR_VOTES]
            candidates.append(OneCoin(balance, dependence=True))
        trial = observed.thinned(_TRIAL_ROWS)

        def learn(model: LabelModel) -> None:
            model._begin(votes, self.share_)
            if isinstance(model, Pooled):
                model.learn_from(trial, shared, trial=True)
            else:
                model._learn(votes, None, None, shared)

        each(learn, candidates)
        everything = observed
        observed = observed.rows(observed.covered).thinned(rows_to_compare(votes.n_lfs, votes.n_classes))
        dependence = prior_dependence(observed, shared)
        verdict = compare(candidates, observed, dependence)
        self.choice_ = candidates[verdict.best]
        if isinstance(self.choice_, Pooled):
            self.choice_.learn_from(everything, shared)
        if isinstance(self.choice_, ScoreAware):
            self.temperature_ = _as_modest(self.choice_, candidates[0], observed)
        if verdict.best:
            reason = (
                "it foretells votes that it was not shown better than the dependency-aware model, by"
                f" {verdict.gain:.0f} nats (standard error {verdict.error:.0f}) on {observed.votes.n_items} rows"
            )
        else:
            reason = "no other foretells votes that it was not shown clearly better"
        self.why_ = f"{_IN_WORDS[self.choice_.name]}: {reason}"
        if embeddings is not None:
            self._reach_out(votes, embeddings, dependence)

    def _reach_out(self, votes: Votes, embeddings: FloatArray, dependence: Float) -> None:
        """Lend votes to neighbours where that makes other votes easier to foretell."""
        lending = EmbeddingAware(self.class_balance, base=self.choice_.name)
        lending.build_on(self.choice_, votes, embeddings)
        reach = int((lending.radius_ <= 1.0).sum())
        if len(lending.index_) < MIN_NEIGHBORHOOD or not reach:
            self.why_ += (
                f"; no vote is lent to neighbours: {len(lending.index_)} items with votes and embeddings, of"
                f" {MIN_NEIGHBORHOOD} needed, {reach} LFs that neighbours agree with"
            )
            return
        rows = np.flatnonzero((votes.classes != ABSTAIN).any(axis=1))
        step = max(1, -(-rows.size // rows_to_compare(votes.n_lfs, votes.n_classes)))
        rows = rows[::step]
        sample = Observed(
            votes.rows(rows), np.ones(rows.size), np.full(rows.size, ABSTAIN, dtype=np.int64), rows
        )
        verdict = compare([self.choice_, lending], sample, dependence, embeddings[rows])
        if verdict.best:
            self.choice_ = lending
            self.why_ += (
                f"; {_IN_WORDS[lending.name]} by {reach} of {votes.n_lfs} LFs, which makes others easier to foretell by"
                f" {verdict.gain:.0f} nats (standard error {verdict.error:.0f})"
            )
        else:
            self.why_ += "; votes lent to neighbours would not make others clearly easier to foretell"

    def _choose_by_gold(
        self,
        votes: Votes,
        gold: npt.NDArray[np.signedinteger[Any]],
        embeddings: FloatArray | None,
        shared: Sequence[Sequence[str]],
    ) -> None:
        self._choose_without_gold(votes, embeddings, shared)
        usual, usual_reason = self.choice_, self.why_
        balance = self.class_balance
        others = (MajorityVote(balance), DependencyAware(balance), ScoreAware(balance), OneCoin(balance))
        candidates: list[LabelModel] = [clone(usual), *(m for m in others if m.name != usual.name)]
        if embeddings is not None and not isinstance(usual, EmbeddingAware):
            candidates.append(EmbeddingAware(balance, base=usual.name))
        known = gold[gold != ABSTAIN]
        losses, calibrators, held_out = [], [], []
        for model in candidates:
            logits = np.log(np.maximum(out_of_fold(model, votes, gold, embeddings, shared=shared), 1e-7))
            calibrator = Calibrator().fit(logits, known)
            probs = softmax(calibrator.transform(logits))
            losses.append(-np.log(np.maximum(probs[np.arange(known.size), known], 1e-7)))
            calibrators.append(calibrator)
            held_out.append(probs.astype(np.float32))
        best = 0
        for place in range(1, len(candidates)):
            better = losses[0] - losses[place]
            clearly = better.mean() > _LEAST_GOLD_ERRORS * better.std(ddof=1) / np.sqrt(known.size)
            if clearly and losses[place].mean() < losses[best].mean():
                best = place
        self.choice_ = candidates[best].fit(votes, gold, embeddings, shared)
        self.temperature_ = np.array([calibrators[best].temperature])
        self.held_out_ = (gold.copy(), held_out[best])
        told = ", ".join(
            f"{model.name} {loss.mean():.3f}" for model, loss in zip(candidates, losses, strict=True)
        )
        reason = (
            f"{_IN_WORDS[self.choice_.name]}: clearly the least log-loss on {known.size} known labels"
            if best
            else f"{usual_reason}; no other has clearly less log-loss on {known.size} known labels"
        )
        self.why_ = f"{reason}, cross-validated ({told}); temperature {self.temperature_[0]:.2f}"

    # The choice's own words, at the temperature learned

    def _state(self, votes: Votes, embeddings: FloatArray | None) -> Any:
        return self.choice_._state(votes, embeddings)

    def _row_prior(self, votes: Votes, state: Any) -> Float:
        start = self.choice_._row_prior(votes, state)
        found = state.found if isinstance(self.choice_, EmbeddingAware) else None
        reached = None if found is None else np.asarray(found.weight.any(axis=1))
        return self._tempered(start, votes, reached)

    def _tempered(self, logits: Float, votes: Votes, reached: npt.NDArray[np.bool_] | None) -> Float:
        """Divide by the temperature, but for items that nobody speaks of: these stay at the prior."""
        if self.temperature_[0] == 1.0:
            return logits
        spoken = (votes.classes != ABSTAIN).any(axis=1)
        if reached is not None:
            spoken |= reached
        return logits / np.where(spoken, self.temperature_, 1.0)[:, None]

    def _evidence(self, votes: Votes, lf: int, state: Any) -> Float:
        evidence: Float = self.choice_._evidence(votes, lf, state) / self.temperature_
        return evidence

    def _moved(
        self, votes: Votes, lf: int, state: Any, top: npt.NDArray[Any], runner_up: npt.NDArray[Any]
    ) -> Float:
        lead: Float = self.choice_._moved(votes, lf, state, top, runner_up) / self.temperature_
        return lead

    def _log_posterior(self, votes: Votes, embeddings: FloatArray | None) -> Float:
        total = self.choice_._log_posterior(votes, embeddings)
        reached = None
        if isinstance(self.choice_, EmbeddingAware) and embeddings is not None:
            found = self.choice_._found(votes.n_items, embeddings) if self.temperature_[0] != 1.0 else None
            reached = None if found is None else np.asarray(found.weight.any(axis=1))
        return self._tempered(total, votes, reached)

    def _neighbors(self, state: Any) -> Neighbors | None:
        return self.choice_._neighbors(state)

    # Saved with its choice

    def _header(self) -> dict[str, Any]:
        header = super()._header()
        return header | {"why": self.why_, "choice": self.choice_._header()}

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays = super()._arrays() | {"temperature_": self.temperature_}
        return arrays | {f"choice.{key}": array for key, array in self.choice_._arrays().items()}

    def _restore(self, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        super()._restore(header, arrays)
        self.temperature_ = arrays["temperature_"]
        self.held_out_ = None
        self.choice_ = restored(header["choice"], arrays, "choice.")
        self.why_ = header["why"]


def _as_modest(bold: LabelModel, modest: LabelModel, observed: Observed) -> Float:
    """Return the temperature at which one model is no surer, on average, than another: shape (1,), 1 or more.

    A model that takes LFs to be independent may rank classes better and still be far too sure of them.
    """

    def confidence(logits: Float, temperature: float) -> float:
        return float(np.average(softmax(logits / temperature).max(axis=1), weights=observed.weight))

    logits = bold.log_posterior(observed.votes)
    wanted = confidence(modest.log_posterior(observed.votes), 1.0)
    low, high = 0.0, np.log(20.0)
    if confidence(logits, 1.0) <= wanted:
        return np.ones(1)
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if confidence(logits, np.exp(middle)) > wanted else (low, middle)
    return np.array([np.exp(high)])


def _refusal(observed: Observed, share: Float) -> str:
    """Return why nothing can be learned from these votes alone, or an empty string."""
    voted = observed.votes.classes != ABSTAIN
    active = voted.any(axis=0)
    n_active = int(active.sum())
    if n_active < MIN_LFS:
        return f"{n_active} LFs voted, and accuracies can be learned from {MIN_LFS} or more"
    different = round(float(share[active].sum()))
    if different < MIN_LFS:
        return f"{different} of {n_active} LFs are not copies, and accuracies can be learned from {MIN_LFS} or more"
    n_overlapping = round(float(observed.weight[voted.sum(axis=1) >= 2].sum()))
    if n_overlapping < MIN_ITEMS:
        return f"LFs overlap on {n_overlapping} items, and accuracies can be learned from {MIN_ITEMS} or more"
    return ""
