"""Choosing a label model without knowing a single label: how well do fused votes foretell a vote that they left out?

A labeling function (LF) that errs independently of the others tells of the label as a gold label would, only more
faintly. So each LF is left out in turn, together with those it seems to depend on; a candidate's posterior from the
rest is held against the LF's votes; and what counts is how many nats these votes become likelier than by their own
habits. How votes follow from the posterior is read off the posterior itself, so that neither a boastful candidate nor
a modest one is favoured: each is judged at the sharpness that suits it best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manyeyes.models.base import LabelModel
from manyeyes.models.evidence import Float, each
from manyeyes.models.observed import Observed
from manyeyes.types import ABSTAIN, FloatArray

MAX_ROWS = 2_000
_MAX_CELLS = 8_000_000
"""Rows × LFs × classes that are laid out at once."""
_N_SHARPNESSES = 3
"""A posterior is judged as it is, with its odds to the third power, and to the ninth: the best of these counts."""
_DEPENDENT = 0.1
"""Dependence from which two LFs do not foretell each other honestly."""
_HABIT = 20.0
"""Votes of an LF's own habits that are added for each class."""
_ONE_VALUED = 0.99
"""LFs that say one thing this often cannot be foretold better than by that."""
_LEAST_NATS = 20.0
_LEAST_ERRORS = 3.0


@dataclass(frozen=True)
class Comparison:
    """gain: nats by which the best candidate foretells votes better than the first; error: its standard error.

    best: its place in the list, 0 where no other is clearly better.
    """

    best: int
    gain: float
    error: float


def rows_to_compare(n_lfs: int, n_classes: int) -> int:
    """Return how many rows a comparison can hold."""
    return max(256, min(MAX_ROWS, _MAX_CELLS // max(n_lfs * n_classes, 1)))


def compare(
    candidates: Sequence[LabelModel],
    observed: Observed,
    dependence: Float,
    embeddings: FloatArray | None = None,
) -> Comparison:
    """Return which fitted candidate foretells left-out votes best.

    The first candidate stays unless another gains ``_LEAST_NATS`` nats and ``_LEAST_ERRORS`` standard errors on it.
    dependence: shape (n_lfs, n_lfs); see ``manyeyes.models.dependence.prior_dependence``. embeddings: of the observed
    rows, for candidates that use them.
    """
    several = _several_valued(observed)
    told = each(lambda model: foretold(model, observed, dependence, embeddings, several=several), candidates)
    weight = observed.weight
    best, gain, error = 0, 0.0, 0.0
    for place in range(1, len(told)):
        ahead = told[place] - told[0]
        total = float(weight @ ahead)
        spread = float(np.sqrt(weight @ (ahead * ahead)))
        if total > max(gain, _LEAST_NATS, _LEAST_ERRORS * spread):
            best, gain, error = place, total, spread
    return Comparison(best, gain, error)


def foretold(
    model: LabelModel,
    observed: Observed,
    dependence: Float,
    embeddings: FloatArray | None = None,
    *,
    several: npt.NDArray[np.bool_] | None = None,
) -> Float:
    """Return by how many nats each row's votes are foretold better than by habit: float64, shape (n_rows,).

    What an LF says is foretold where it votes, for LFs that say several things (``several``, shape (n_lfs,)). Where no
    LF does, whether each votes is foretold instead.
    """
    votes, weight = observed.votes, observed.weight
    told = model.explain(votes, embeddings)
    # Classes first from here on: sums over the items of a class are over neighbours in memory.
    evidence = np.ascontiguousarray(told.evidence.transpose(1, 2, 0))
    whole = told.log_prior.T + evidence.sum(axis=0)
    voted = np.ascontiguousarray(votes.classes.T) != ABSTAIN
    several = _several_valued(observed) if several is None else several
    presence = not several.any()
    gains = np.zeros((_N_SHARPNESSES, votes.n_items))
    for j in range(votes.n_lfs):
        if not (presence or several[j]):
            continue
        left_out = dependence[j] > _DEPENDENT
        left_out[j] = True
        others = voted[~left_out].any(axis=0)
        rows = np.flatnonzero(others | (embeddings is not None) if presence else others & voted[j])
        rest = whole[:, rows]
        for lf in np.flatnonzero(left_out):
            rest -= evidence[lf][:, rows]
        column = votes.classes[rows, j].astype(np.intp)
        value = np.where(column == ABSTAIN, votes.n_values, column)
        gains[:, rows] += _gains(rest, value, weight[rows], votes.n_values + 1)
    best: Float = gains[int(np.argmax(gains @ weight))]
    return best


def _several_valued(observed: Observed) -> npt.NDArray[np.bool_]:
    """Return which LFs say more than one thing now and then: bool, shape (n_lfs,)."""
    classes, n_values = observed.votes.classes, observed.votes.n_values
    counts = np.stack(
        [np.bincount(column + 1, weights=observed.weight, minlength=n_values + 1)[1:] for column in classes.T]
    )
    several: npt.NDArray[np.bool_] = counts.max(axis=1) < _ONE_VALUED * counts.sum(axis=1)
    return several


def _gains(logits: Float, vote: npt.NDArray[np.integer], weight: Float, n_values: int) -> Float:
    """Return log P(vote | posterior) − log P(vote) at each sharpness: shape (_N_SHARPNESSES, n_rows).

    logits: of the posterior, shape (n_classes, n_rows).
    """
    one_hot = np.zeros((len(vote), n_values))
    one_hot[np.arange(len(vote)), vote] = weight
    habit = np.bincount(vote, weights=weight, minlength=n_values) + 1.0
    habit /= habit.sum()
    usual = np.log(habit)[vote]
    logits = logits - logits.max(axis=0, initial=-np.inf)
    gains = np.empty((_N_SHARPNESSES, len(vote)))
    odds = np.exp(logits)
    for i in range(_N_SHARPNESSES):
        posterior = odds / odds.sum(axis=0)
        odds = odds * odds * odds
        counts = posterior @ one_hot
        given_class = (counts + _HABIT * habit) / (counts.sum(axis=1, keepdims=True) + _HABIT)
        likelihood = np.einsum("cn,cn->n", posterior, given_class[:, vote])
        gains[i] = np.log(likelihood) - usual
    return gains
