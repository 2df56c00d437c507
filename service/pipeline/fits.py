"""Fits label models on what was labeled before, and holds several beside each other.

Fitting is numbers alone: the votes of the batches are in the store, so that no image is read and no model asked.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest, InvalidVotes, Overloaded, RecipeNotFound, RequestTooLarge, nearest
from manyeyes.fitting import (
    Collected,
    familiarity,
    find_threshold,
    fit_label_model,
    load_threshold,
    nothing_said,
    save_threshold,
)
from manyeyes.labeler import gold_indices
from manyeyes.models.base import LabelModel, load_label_model
from manyeyes.recipe import Recipe
from manyeyes.recipe_label_model import TargetPrecision
from manyeyes.service.errors import Refusal
from manyeyes.service.recipes import RecipeStore, ServedRecipe
from manyeyes.service.store.records import LabelModelRecord
from manyeyes.service.store.store import Store
from manyeyes.types import ABSTAIN, FloatArray, Votes

R = TypeVar("R")

_LABEL_ID: Final = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,8})")
_MAX_WAITING: Final = 4
_RETRY_AFTER_S: Final = 10
_LEAST_PROB: Final = 1e-7


class Fits:
    """Runs one fit at a time beside the labeling, and lets few wait: fitting takes processors away from answers."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(1)
        self._n_waiting = 0

    async def run(self, work: Callable[[], R]) -> R:
        """Return what some work returns, off the event loop. Raises Overloaded if too much of it waits already."""
        if self._n_waiting >= _MAX_WAITING:
            raise Refusal(
                Overloaded(
                    f"{self._n_waiting} label models are being fitted or compared, or wait for it already"
                ),
                retry_after_s=_RETRY_AFTER_S,
            )
        self._n_waiting += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._n_waiting -= 1


@dataclass(frozen=True)
class Gathered:
    """What the LFs said of the items of some batches. gold: int16, shape (n_items,), ABSTAIN where unknown; or None."""

    collected: Collected
    gold: npt.NDArray[np.int16] | None

    @property
    def sound(self) -> tuple[Votes, FloatArray | None, npt.NDArray[np.int16] | None]:
        """Votes, embeddings and gold labels of the rows without an error."""
        rows = self.collected.sound()
        embeddings = self.collected.embeddings
        return (
            self.collected.votes.rows(rows),
            None if embeddings is None else embeddings[rows],
            None if self.gold is None else self.gold[rows],
        )


def gather(
    store: Store,
    batches: Sequence[str],
    gold: Mapping[str, str] | None,
    *,
    recipe: Recipe,
    max_items: int,
) -> Gathered:
    """Return the votes of some batches, and the gold labels in their order.

    gold: id of a label, or of an item → name of its class.
    Raises NotFound if a batch is not there, InvalidRequest if its votes are not those of the recipe or a gold label
    names nothing, RequestTooLarge if there are too many items.
    """
    ids = list(dict.fromkeys(batches))
    found = [store.batches.get(id) for id in ids]
    n_items = sum(batch.n_items for batch in found)
    if n_items > max_items:
        raise RequestTooLarge(
            f"the batches hold {n_items:,} items; a label model is fitted on {max_items:,} here. Name fewer of them"
        )
    for name, version in {(batch.recipe_name, batch.recipe_version) for batch in found}:
        if version != recipe.version and not _votes_alike(store, name, version, recipe):
            raise InvalidRequest(
                f"a batch was labeled with version {version} of recipe {name!r}, whose classes, primitives or"
                f" labeling functions are not those of {recipe.name!r} in version {recipe.version}; its votes say"
                " nothing of that one"
            )
    collected = store.batches.votes(ids)
    if gold is None:
        return Gathered(collected, None)
    # Rows are those that could be read, in the order of the calls; the ids of items are unique in a call alone.
    rows: dict[tuple[str, str], int] = {}
    by_item: dict[str, list[int]] = {}
    row = 0
    for id in ids:
        for item in store.batches.votes([id]).ids:
            rows[id, item] = row
            by_item.setdefault(item, []).append(row)
            row += 1
    known: dict[str, str] = {}
    for key, name in gold.items():
        for at in _rows_of(store, key, ids, rows, by_item):
            if known.setdefault(str(at), name) != name:
                raise InvalidRequest(
                    f"gold says {known[str(at)]!r} and {name!r} of one item, the second time as {key!r:.80}"
                )
    indices = gold_indices(known, [str(at) for at in range(row)], recipe.classes)
    return Gathered(collected, indices)


def _votes_alike(store: Store, name: str, version: str, recipe: Recipe) -> bool:
    """Return whether another version gives the same votes: only what is made of them differs, such as the precision."""
    try:
        other = Recipe.parse(store.recipes.get(name, version).text).document()
    except RecipeNotFound:  # it came along with its call, and was not kept
        return False
    mine = recipe.document()
    return all(other.get(field) == mine.get(field) for field in ("classes", "primitives", "lfs"))


def _rows_of(
    store: Store,
    key: str,
    ids: Sequence[str],
    rows: Mapping[tuple[str, str], int],
    by_item: Mapping[str, Sequence[int]],
) -> Sequence[int]:
    """Return the rows that a key of a gold label names: the id of a label, or of an item."""
    named = _LABEL_ID.fullmatch(key)
    if named is not None and named[1] in ids:
        item = store.batches.label(key).label.id
        if (named[1], item) not in rows:
            raise InvalidRequest(
                f"gold names label {key}, whose item could not be read, so that nothing is said of it"
            )
        return [rows[named[1], item]]
    if key not in by_item:
        raise InvalidRequest(
            f"gold names {key!r:.80}, which is no label or item of the batches{nearest(key, list(by_item)[:1000])}"
        )
    return by_item[key]


def fit(
    store: Store,
    served: ServedRecipe,
    *,
    batches: Sequence[str],
    label_model: str | Mapping[str, Any] | None,
    gold: Mapping[str, str] | None,
    allowed_models: Sequence[str],
    max_items: int,
    author: str,
    request_id: str | None,
) -> LabelModelRecord:
    """Return a label model of the store, fitted on batches of it.

    served: a recipe of the store, of which the batches are. label_model: as a recipe writes it; None for the recipe's.
    Raises as ``gather`` does; RecipeNotFound for a recipe of the folder; InvalidRecipe for a label model that is none.
    """
    if served.version is None:
        raise RecipeNotFound(
            f"recipe {served.name!r} lies in the operator's folder, and its label model beside it: fit one with"
            " Labeler.fit and save_label_model, or keep the recipe in the store"
        )
    recipe = served.recipe
    variant = recipe
    if label_model is not None:
        document = recipe.document() | {
            "label_model": label_model if isinstance(label_model, str) else dict(label_model)
        }
        variant = Recipe.parse(document, source="label_model")
        variant.check_untrusted(allowed_models)
    gathered = gather(store, batches, gold, recipe=recipe, max_items=max_items)
    if variant.label_model.embeddings and gathered.collected.embeddings is None:
        raise InvalidRequest(
            f"label_model reads {variant.label_model.embeddings!r}, which was not kept with these batches; only a"
            " recipe that names it keeps it"
        )
    try:
        model = fit_label_model(variant, gathered.collected, gathered.gold)
        threshold = find_threshold(recipe, model, gathered.collected, gathered.gold)
    except InvalidVotes as error:
        raise InvalidRequest(f"this label model cannot be fitted on these votes: {error}") from error
    least = _least(recipe, None if threshold is None else threshold.value)
    metrics = _measured(model, gathered, recipe, least) | _held_out(model, gathered)
    with tempfile.TemporaryDirectory(prefix="manyeyes-fit-") as folder:
        model.save(folder)
        save_threshold(folder, threshold, recipe=recipe, model=model)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    return store.label_models.add(
        recipe_name=served.name,
        recipe_version=recipe.version,
        files=files,
        batches=list(dict.fromkeys(batches)),
        metrics=metrics,
        author=author,
        request_id=request_id,
    )


def compare(
    recipes: RecipeStore,
    store: Store,
    ids: Sequence[str],
    *,
    batches: Sequence[str],
    gold: Mapping[str, str] | None,
    max_items: int,
) -> dict[str, Any]:
    """Return label models of one version of a recipe beside each other, as the shape ``Comparison``.

    Raises as ``gather`` does; NotFound if there is no such label model, InvalidRequest if they are of several versions.
    """
    records = [store.label_models.get(id) for id in dict.fromkeys(ids)]
    versions = {(record.recipe_name, record.recipe_version) for record in records}
    if len(versions) > 1 or len(records) < 2:
        raise InvalidRequest(
            "at least two label models of one version of a recipe can be compared; got"
            f" {', '.join(sorted(f'{name}@{version}' for name, version in versions))}"
        )
    served = recipes.get("@".join(versions.pop()))
    gathered = gather(store, batches, gold, recipe=served.recipe, max_items=max_items)
    votes, embeddings, known = gathered.sound
    told, tops, spoken = [], [], np.ones(votes.n_items, dtype=bool)
    for record in records:
        folder = recipes.files_of(store, record)
        model = load_label_model(folder)
        threshold = load_threshold(folder, recipe=served.recipe, model=model)
        least = _least(served.recipe, None if threshold is None else threshold.value)
        measured = _measured(model, gathered, served.recipe, least)
        probs = model.predict_proba(votes, embeddings)
        told.append(
            {
                "id": record.id,
                "version": record.version,
                "coverage": measured["coverage"],
                "mean_confidence": measured["mean_confidence"],
            }
            | ({} if known is None else _judged(probs[known != ABSTAIN], known[known != ABSTAIN]))
        )
        tops.append(probs.argmax(axis=1))
        spoken &= ~nothing_said(model, votes, embeddings, probs)
    return {
        "n_items": votes.n_items,
        "label_models": told,
        "agreement": [
            {
                "a": records[a].id,
                "b": records[b].id,
                "agreement": float((tops[a] == tops[b])[spoken].mean()) if spoken.any() else None,
            }
            for a in range(len(records))
            for b in range(a + 1, len(records))
        ],
    }


def _least(recipe: Recipe, threshold: float | None) -> float:
    below = recipe.abstain_below
    if isinstance(below, TargetPrecision):
        return np.inf if threshold is None else threshold
    return below


def _measured(model: LabelModel, gathered: Gathered, recipe: Recipe, least: float) -> dict[str, Any]:
    """Return how many items get a label, and how sure the label model is of these."""
    votes, embeddings, _ = gathered.sound
    probs = model.predict_proba(votes, embeddings)
    confidence = probs.max(axis=1) if votes.n_items else np.zeros(0, dtype=np.float32)
    labeled = (confidence >= least) & (familiarity(votes) >= recipe.unfamiliar_below)
    labeled &= ~nothing_said(model, votes, embeddings, probs)
    return {
        "n_items": int(votes.n_items),
        "n_errors": int(gathered.collected.votes.n_items - votes.n_items),
        "coverage": float(labeled.mean()) if votes.n_items else 0.0,
        "mean_confidence": float(confidence[labeled].mean(dtype=np.float64)) if labeled.any() else None,
    }


def _held_out(model: LabelModel, gathered: Gathered) -> dict[str, Any]:
    """Return how good a label model is on known labels, each judged by a fit that had not seen it."""
    votes, embeddings, known = gathered.sound
    if known is None or not (known != ABSTAIN).any():
        return {}
    from manyeyes.models.conformal import out_of_fold

    return _judged(out_of_fold(model, votes, known, embeddings), known[known != ABSTAIN])


def _judged(probs: FloatArray, known: npt.NDArray[np.int16]) -> dict[str, Any]:
    """Return accuracy and log-loss (nats, natural logarithm) of probabilities. known: int16, shape (n_gold,)."""
    if not len(known):
        return {"n_gold": 0}
    right = probs[np.arange(len(known)), known].astype(np.float64)
    return {
        "n_gold": len(known),
        "accuracy": float((probs.argmax(axis=1) == known).mean()),
        "log_loss": float(-np.log(np.maximum(right, _LEAST_PROB)).mean()),
    }
