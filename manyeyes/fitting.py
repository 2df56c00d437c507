"""What a Labeler fits: the label model of a recipe, and the confidence below which it withholds a label.

With ``abstain_below: {precision: 0.95}`` that confidence is found on items whose label is known, and lies beside the
label model in ``thresholds.json``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRecipe, InvalidRequest, ItemError, WeightsMismatch
from manyeyes.models.base import LabelModel
from manyeyes.recipe import Recipe
from manyeyes.recipe_label_model import TargetPrecision
from manyeyes.registry import load
from manyeyes.types import ABSTAIN, FloatArray, LentVotes, Votes

FILE: Final = "thresholds.json"
_FORMAT: Final = 1
_LENDING_CELLS: Final = 2_000_000

Gold = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Collected:
    """What labeling functions said of some items: all that fitting and labeling need.

    votes: the label matrix. errors: row → what is wrong with that item. ids: one a row.
    embeddings: float32, shape (n_items, dim), NaN rows where an item has none; None where the recipe names none.
    """

    votes: Votes
    errors: Mapping[int, ItemError]
    ids: tuple[str, ...]
    embeddings: FloatArray | None = None

    def sound(self) -> npt.NDArray[np.bool_]:
        """Return which rows have no error: bool, shape (n_items,)."""
        sound = np.ones(self.votes.n_items, dtype=bool)
        sound[sorted(self.errors)] = False
        return sound


@dataclass(frozen=True, slots=True)
class Threshold:
    """Labels below this confidence are withheld, so that ``precision`` of the others are right.

    value: infinity where the known labels support no threshold. n_gold: how many known labels that rests on.
    guaranteed: whether it holds for new items in nine of ten draws of the known labels; else it is the best estimate.
    held_out_accuracy: how often the label model was right on known labels that it had not seen.
    """

    value: float
    precision: float
    n_gold: int
    guaranteed: bool
    held_out_accuracy: float


def fit_label_model(recipe: Recipe, collected: Collected, gold: Gold | None) -> LabelModel:
    """Return the recipe's label model, fitted on the rows without an error.

    gold: known labels, shape (n_items,), ABSTAIN where unknown.
    """
    balance = recipe.class_balance
    said = recipe.label_model
    model: LabelModel = load("manyeyes.label_models", said.name)(
        class_balance=[balance[name] for name in recipe.classes] if isinstance(balance, Mapping) else balance,
        **said.hyperparameters,
    )
    sound = collected.sound()
    embeddings = collected.embeddings
    return model.fit(
        collected.votes.rows(sound),
        None if gold is None else gold[sound],
        None if embeddings is None else embeddings[sound],
        shared=collected.votes.shared,
    )


def find_threshold(
    recipe: Recipe, model: LabelModel, collected: Collected, gold: Gold | None
) -> Threshold | None:
    """Return the threshold for the precision that a recipe wants, or None where it wants none.

    Every known label is judged by a label model that was fitted without it. Items of which nothing is said do not
    count, since they get no label. Raises InvalidRequest if no label is known.
    """
    if not isinstance(recipe.abstain_below, TargetPrecision):
        return None
    sound = collected.sound()
    if gold is None or not (gold[sound] != ABSTAIN).any():
        raise no_gold(recipe)
    from manyeyes.models.conformal import out_of_fold, threshold_for_precision

    votes, known = collected.votes.rows(sound), gold[sound]
    embeddings = None if collected.embeddings is None else collected.embeddings[sound]
    judged = np.flatnonzero(known != ABSTAIN)
    probs = out_of_fold(model, votes, known, embeddings)
    spoken = ~nothing_said(
        model, votes.rows(judged), None if embeddings is None else embeddings[judged], probs
    )
    right = probs.argmax(axis=1) == known[judged]
    found = threshold_for_precision(probs.max(axis=1)[spoken], right[spoken], recipe.abstain_below.precision)
    return Threshold(
        value=float(found),
        precision=recipe.abstain_below.precision,
        n_gold=int(spoken.sum()),
        guaranteed=bool(found.guaranteed),
        held_out_accuracy=float(right[spoken].mean()) if spoken.any() else 0.0,
    )


def no_gold(recipe: Recipe) -> InvalidRequest:
    """Return the error of a recipe that wants a precision where no label is known."""
    return InvalidRequest(
        f"recipe {recipe.name!r} says abstain_below: {recipe.abstain_below_text}, and which confidence that takes is"
        " found on items whose label is known: give gold labels (manyeyes label … --gold gold.csv, or fit(items,"
        " gold=…)) and keep the label model that was fitted with them (--save-label-model), or write a number"
    )


def nothing_said(
    model: LabelModel, votes: Votes, embeddings: FloatArray | None, probs: FloatArray
) -> npt.NDArray[np.bool_]:
    """Return the items on which no LF voted and to which no vote was lent: bool, shape (n_items,)."""
    silent: npt.NDArray[np.bool_] = (votes.classes == ABSTAIN).all(axis=1)
    if embeddings is not None and silent.any():
        rows = np.flatnonzero(silent)
        top, second = top_two(probs[rows])
        _, moved = model.reasons(votes.rows(rows), top=top, runner_up=second, embeddings=embeddings[rows])
        silent[rows[moved.any(axis=1)]] = False
    return silent


def lent_votes(model: LabelModel, votes: Votes, embeddings: FloatArray | None) -> LentVotes | None:
    """Return what similar items lent to each, or None where the label model lends nothing."""
    if embeddings is None or not votes.n_items:
        return None
    if model.explain(votes.rows(slice(0, 1)), embeddings[:1]).neighbors is None:
        return None
    lent = LentVotes(
        neighbors=np.zeros(votes.classes.shape, dtype=np.int32),
        nearest=np.zeros(votes.classes.shape, dtype=np.float32),
        votes=np.zeros(votes.classes.shape, dtype=np.float32),
    )
    # An explanation holds items × LFs × classes numbers.
    size = max(1, _LENDING_CELLS // max(1, votes.n_lfs * votes.n_classes))
    for start in range(0, votes.n_items, size):
        rows = slice(start, start + size)
        found = model.explain(votes.rows(rows), embeddings[rows]).neighbors
        assert found is not None
        here = found.item >= 0
        lent.neighbors[rows] = here.sum(axis=2)
        lent.nearest[rows] = np.where(here, found.similarity, -1.0).max(axis=2, initial=-1.0)
        lent.votes[rows] = found.lent
    return lent


def familiarity(votes: Votes) -> FloatArray:
    """Return how sure LFs are, on average, of what they say of each item: float32, shape (n_items,), in [0, 1].

    The mean score of its votes, where at least half of them have one; 1 elsewhere, since hard votes tell nothing. An
    item of none of the classes still gets votes, but hesitant ones: softmax over prompts must name something.
    """
    if votes.is_hard:
        return np.ones(votes.n_items, dtype=np.float32)
    scored = ~np.isnan(votes.scores)
    n_scored, n_votes = scored.sum(axis=1), (votes.classes != ABSTAIN).sum(axis=1)
    total = np.where(scored, votes.scores, 0.0).sum(axis=1, dtype=np.float64)
    mean = (total / np.maximum(n_scored, 1)).astype(np.float32)
    return np.where((n_votes > 0) & (2 * n_scored >= n_votes), mean, np.float32(1.0))


def top_two(probs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the most and the second most probable class of each row; ties go to the class named first.

    >>> [order.tolist() for order in top_two(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], dtype=np.float32))]
    [[1, 0], [2, 1]]
    """
    top = probs.argmax(axis=1)
    rest = probs.copy()
    np.put_along_axis(rest, top[:, None], -1.0, axis=1)
    return top, rest.argmax(axis=1)


def save_threshold(
    folder: str | os.PathLike[str], threshold: Threshold | None, *, recipe: Recipe, model: LabelModel
) -> None:
    """Write a threshold beside the label model that was saved in a folder; without one, none stays there."""
    path = Path(folder) / FILE
    if threshold is None:
        path.unlink(missing_ok=True)
        return
    told = {
        "format": _FORMAT,
        "recipe": recipe.version,
        "label_model": model.version,
        "precision": threshold.precision,
        "threshold": None if math.isinf(threshold.value) else threshold.value,
        "n_gold": threshold.n_gold,
        "guaranteed": threshold.guaranteed,
        "held_out_accuracy": threshold.held_out_accuracy,
    }
    partial = path.with_name(f".{FILE}.{os.getpid()}")
    partial.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def load_threshold(folder: str | os.PathLike[str], *, recipe: Recipe, model: LabelModel) -> Threshold | None:
    """Return the threshold beside a label model, or None where the recipe wants no precision.

    Raises InvalidRecipe if there is none, or it was found for another recipe or precision; WeightsMismatch if it does
    not belong to this label model.
    """
    if not isinstance(recipe.abstain_below, TargetPrecision):
        return None
    path = Path(folder) / FILE
    try:
        told = json.loads(path.read_text("utf-8"))
        if told["format"] != _FORMAT:
            raise ValueError(f"format {told['format']!r}")
        value = math.inf if told["threshold"] is None else float(told["threshold"])
        threshold = Threshold(
            value, told["precision"], told["n_gold"], told["guaranteed"], told["held_out_accuracy"]
        )
        found_for, found_with = told["recipe"], told["label_model"]
    except FileNotFoundError:
        raise InvalidRecipe(
            f"recipe {recipe.name!r} says abstain_below: {recipe.abstain_below_text}, but the label model in"
            f" {os.fspath(folder)!r} was fitted without gold labels and has no {FILE}; fit it with some (--gold)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsMismatch(
            f"{os.fspath(path)!r} is damaged ({type(error).__name__}: {error}); save the label model again"
        ) from error
    if found_with != model.version:
        raise WeightsMismatch(
            f"{os.fspath(path)!r} belongs to label model {found_with}, not to {model.version} beside it; save both"
        )
    if (threshold.precision, found_for) != (recipe.abstain_below.precision, recipe.version):
        raise InvalidRecipe(
            f"the threshold in {os.fspath(path)!r} was found for precision {threshold.precision:g} and recipe version"
            f" {found_for}, but recipe {recipe.name!r} wants {recipe.abstain_below.precision:g} and is version"
            f" {recipe.version}; fit again with gold labels (--gold)"
        )
    return threshold
