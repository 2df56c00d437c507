"""From which confidence on labels can be kept, with what promise; and honest confidences to find that out with.

``threshold_for_precision`` turns a few known labels into the threshold below which to abstain. The
confidences must come from a model that has not seen these labels: ``out_of_fold``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidVotes
from manyeyes.models.base import LabelModel
from manyeyes.models.calibration import Calibrator
from manyeyes.models.evidence import softmax
from manyeyes.types import ABSTAIN, FloatArray, Votes

MAX_UNLABELED = 20_000
"""Items without a label that each fold is fitted on at most."""
_PRIOR_LABELS = 20.0
"""Labels that the confidences' own word is worth, once it has been held against the known ones."""

Model = TypeVar("Model", bound=LabelModel)
Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """The least confidence to keep a label at. ``float(threshold)`` is its value.

    value: in [0, 1]; infinity where no threshold reaches the precision. guaranteed: whether the precision
    holds for new items like these in all but ``1 - confidence_level`` of draws of the known labels; else it
    is the best estimate. coverage: the share of the known items that it keeps.
    """

    value: float
    guaranteed: bool
    coverage: float

    def __float__(self) -> float:
        return self.value


def threshold_for_precision(
    confidence: npt.NDArray[np.floating[Any]],
    correct: npt.NDArray[np.bool_],
    precision: float,
    *,
    confidence_level: float = 0.9,
) -> Threshold:
    """Return the least confidence from which on at least ``precision`` of the labels are right.

    confidence: float, shape (n_gold,), in [0, 1]; the probability of the label of each item whose gold label
    is known. correct: bool, same shape; whether that label is right. The items must be a random sample of
    those to be labeled.

    Where the labels suffice, thresholds are tested one after the other from the highest down, each by the
    exact binomial (Clopper–Pearson) test that its precision is too low, up to the first that cannot be ruled
    out; testing in an order fixed beforehand keeps the chance that any accepted one is wrong below ``1 -
    confidence_level``. No test can succeed on fewer than ``log(1 - confidence_level) / log(precision)``
    labels, which is 45 for 0.95 at 0.9, all of them right.

    Otherwise the threshold is the lowest whose estimated precision suffices: of the e wrong among the n it
    keeps, one more wrong one as in conformal risk control, and 20 imagined labels as sure as the confidences
    say after a temperature was fitted to these items: ``(e + 1 + 20 · doubt) / (n + 1 + 20) <= 1 -
    precision``. Without the imagined labels, fifty known ones would leave most models of middling accuracy to
    abstain on everything, and one lucky run would decide the others.

    Raises InvalidVotes if shapes differ, or a confidence, the precision or the level is out of range.

    Source: Bates et al. 2021, "Distribution-free, risk-controlling prediction sets", and Angelopoulos et al.
    2021, "Learn then test" (fixed-sequence testing); Angelopoulos et al. 2022, "Conformal risk control" (the
    +1).

    >>> sure = np.linspace(1.0, 0.5, 200)
    >>> threshold_for_precision(sure, sure > 0.7, 0.95)  # doctest: +ELLIPSIS
    Threshold(value=0.69..., guaranteed=True, coverage=0.6...)
    >>> float(threshold_for_precision(sure[:9], sure[:9] < 0, 0.95))
    inf
    """
    confidence, correct = np.asarray(confidence), np.asarray(correct, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise InvalidVotes(
            f"confidences and whether they were right must be two arrays of one shape (n_gold,), got"
            f" {confidence.shape} and {correct.shape}"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise InvalidVotes("a confidence is a probability in [0, 1], and not NaN")
    if not (0 < precision <= 1 and 0 < confidence_level < 1):
        raise InvalidVotes(
            f"a precision is in (0, 1] and a confidence level in (0, 1), got {precision} and {confidence_level}"
        )
    n = len(confidence)
    if not n:
        return Threshold(math.inf, guaranteed=False, coverage=0.0)
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    kept = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1
    wrong = np.cumsum(~correct[order])[kept - 1]

    found = _last_proven(kept, wrong, n, precision, 1 - confidence_level)
    if guaranteed := found is not None:
        last = found
    else:
        doubt = np.cumsum(1 - _tempered(confidence, correct)[order])[kept - 1] / kept
        error = (wrong + 1 + _PRIOR_LABELS * doubt) / (kept + 1 + _PRIOR_LABELS)
        enough = np.flatnonzero(error <= 1 - precision)
        if not enough.size:
            return Threshold(math.inf, guaranteed=False, coverage=0.0)
        last = int(enough[-1])
    return Threshold(
        float(ordered[kept[last] - 1]), guaranteed=bool(guaranteed), coverage=float(kept[last] / n)
    )


def _last_proven(
    kept: npt.NDArray[np.intp], wrong: npt.NDArray[Any], n: int, precision: float, risk: float
) -> int | None:
    """Return the last of a run of thresholds, from the first with enough labels on, that pass the test."""
    if precision >= 1:
        return None
    # A start at a quarter of the labels lets one early mistake pass where there are many.
    least = max(math.ceil(math.log(risk) / math.log(precision)), n // 4)
    found = None
    for i in np.flatnonzero(kept >= least).tolist():
        if _binomial_cdf(int(wrong[i]), int(kept[i]), 1 - precision) > risk:
            break
        found = i
    return found


def _binomial_cdf(most: int, n: int, p: float) -> float:
    """Return the probability of at most so many hits in n draws."""
    terms = (
        math.lgamma(n + 1)
        - math.lgamma(i + 1)
        - math.lgamma(n - i + 1)
        + i * math.log(p)
        + (n - i) * math.log1p(-p)
        for i in range(most + 1)
    )
    return math.fsum(map(math.exp, terms))


def _tempered(confidence: npt.NDArray[np.floating[Any]], correct: npt.NDArray[np.bool_]) -> Float:
    """Return the confidences after a temperature that fits these labels: float64, same shape."""
    sure = np.clip(confidence.astype(np.float64), 1e-4, 1 - 1e-4)
    logits = np.stack([np.log(sure), np.log1p(-sure)], axis=1)
    calibrator = Calibrator().fit(logits, np.where(correct, 0, 1))
    return softmax(calibrator.transform(logits))[:, 0]


def out_of_fold(
    model: LabelModel,
    votes: Votes,
    gold: npt.NDArray[np.signedinteger[Any]],
    embeddings: FloatArray | None = None,
    folds: int = 5,
    *,
    shared: Sequence[Sequence[str]] | None = None,
) -> FloatArray:
    """Return probabilities of the items with a gold label, each from a model fitted without that label.

    model: a label model, fitted or not; it is left as it is, and each fold fits another with the same
    hyperparameters. gold: int, shape (n_items,); ABSTAIN where unknown. embeddings, shared: as in
    ``LabelModel.fit``. folds: how many parts the labels are hidden in, one after the other; classes are
    spread evenly over them, always in the same way. Each fit sees all items with a gold label, and every
    so-manieth of the others, 20,000 at most.

    Returns float32, shape (n_gold, n_classes), in the order of the items.
    """
    gold = np.asarray(gold)
    judged = np.flatnonzero(gold != ABSTAIN)
    if (kept := held_out(model, gold)) is not None:
        return kept
    rest = np.flatnonzero(gold == ABSTAIN)
    if len(rest) > MAX_UNLABELED:
        rest = rest[(np.arange(MAX_UNLABELED) * (len(rest) / MAX_UNLABELED)).astype(np.intp)]
    probs = np.zeros((len(judged), votes.n_classes), dtype=np.float32)
    if not len(judged):
        return probs
    rows = np.concatenate([judged, rest])
    some = votes.rows(rows)
    known, vectors = gold[rows], None if embeddings is None else embeddings[rows]
    fold = np.empty(len(judged), dtype=np.intp)
    fold[np.argsort(gold[judged], kind="stable")] = np.arange(len(judged)) % max(folds, 1)
    for part in np.unique(fold):
        asked = np.flatnonzero(fold == part)
        hidden = known.copy()
        hidden[asked] = ABSTAIN
        fitted = clone(model).fit(some, hidden, vectors, shared)
        probs[asked] = fitted.predict_proba(some.rows(asked), None if vectors is None else vectors[asked])
    return probs


def held_out(model: LabelModel, gold: npt.NDArray[np.signedinteger[Any]]) -> FloatArray | None:
    """Return the out-of-fold probabilities that a model kept from its own fit on this gold, or None."""
    kept: tuple[npt.NDArray[Any], FloatArray] | None = getattr(model, "held_out_", None)
    return kept[1] if kept is not None and np.array_equal(kept[0], gold) else None


def clone(model: Model) -> Model:
    """Return an unfitted label model with the same hyperparameters."""
    return type(model)(**{name: getattr(model, name) for name in model.hyperparameters})
