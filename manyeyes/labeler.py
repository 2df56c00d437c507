"""The Labeler: a recipe, its primitives and its label model, from items to labels.

The command line, the service and every job call this one object, so the same recipe gives the same labels everywhere.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice
from typing import Any, Self, Unpack

import numpy as np
import numpy.typing as npt

from manyeyes.collection import Collection
from manyeyes.errors import InvalidRecipe, InvalidRequest, ItemError, nearest
from manyeyes.fitting import (
    Collected,
    Threshold,
    familiarity,
    find_threshold,
    fit_label_model,
    lent_votes,
    load_threshold,
    no_gold,
    save_threshold,
    top_two,
)
from manyeyes.lfs.base import LabelingFunction
from manyeyes.lfs.build import Ask, build_lfs, collect_votes, declared_sets
from manyeyes.models.base import LabelModel, load_label_model
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor, Options, PassCounter
from manyeyes.primitives.naming import families
from manyeyes.recipe import Recipe
from manyeyes.recipe_label_model import TargetPrecision
from manyeyes.recipe_parts import with_needs
from manyeyes.settings import home
from manyeyes.types import ABSTAIN, FloatArray, Item, Labels, Versions, Votes, set_name

Progress = Callable[[int], None]
"""Called with the number of items done so far."""


class Labeler:
    """Labels items as a recipe says. Safe to label with from several threads; fitting is for one.

    recipe: what to label and how. extractor: computes features; by default one for the recipe's primitives, with the
    cache in ``settings.home()``. label_model: an already fitted one, such as ``load_label_model`` returns.
    chunk_size: how many items' features are held at once.

    threshold: where the recipe wants a precision, the confidence that it takes, once fitted with known labels.

    A Labeler that is not fitted fits a label model on the items of each ``label`` call and forgets it, so that calls do
    not depend on each other; one that is fitted, or was given a label model, labels each item by itself.

    Raises InvalidRecipe if an LF cannot be built.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        extractor: Extractor | None = None,
        label_model: LabelModel | None = None,
        chunk_size: int = 512,
    ) -> None:
        self.recipe = recipe
        self.label_model = label_model
        self.threshold: Threshold | None = None
        self.chunk_size = chunk_size
        self._lfs = build_lfs(recipe)
        self._prepared = False
        self._preparing = threading.Lock()
        self.extractor = extractor or extractor_for(recipe, cache=Cache.shared(home() / "cache"))

    @property
    def lfs(self) -> Sequence[LabelingFunction]:
        return tuple(self._lfs)

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """The names of the features that the recipe's LFs and its label model read, sorted."""
        embeddings = self.recipe.label_model.embeddings
        return tuple(
            sorted(
                {feature for lf in self._lfs for feature in lf.reads}
                | ({embeddings} if embeddings else set())
            )
        )

    @property
    def counter(self) -> PassCounter:
        """How many forward passes each primitive has made; a fully cached run adds none."""
        return self.extractor.counter

    def see(self, items: Iterable[Item], *, progress: Progress | None = None) -> Collection:
        """Return some items with their features held in memory, which every method takes in place of items.

        For the loop of editing LFs: any Labeler then computes only what is new to the collection. Raises InvalidRequest
        if two items have the same id.
        """
        collection = Collection(tuple(items))
        _refuse_duplicates(collection.ids)
        collection.features(self.extractor, self.needs, chunk_size=self.chunk_size, progress=progress)
        return collection

    def collect(
        self,
        items: Iterable[Item] | Collection,
        *,
        progress: Progress | None = None,
        within: Callable[[str], AbstractContextManager[Any]] = nullcontext,
        distinct: bool = True,
    ) -> Collected:
        """Return what the LFs say of some items, ready for ``fit_collected`` and ``fuse``.

        Items are read and forgotten chunk by chunk. within: is given the name of each part of the work, "see" and
        "vote", and gives the context in which it is done; for whoever measures. distinct: whether to refuse two items
        with the same id, which whoever asks for several callers at once does caller by caller. Raises InvalidRequest
        if two items have the same id.
        """
        self._prepare()
        if isinstance(items, Collection):
            return self._collect_held(items, progress)
        parts: list[Votes] = []
        embedded: list[FloatArray] = []
        errors: dict[int, ItemError] = {}
        ids: list[str] = []
        for chunk in _chunks(items, self.chunk_size):
            with within("see"):
                features = self.extractor.extract(chunk, self.needs)
            with within("vote"):
                errors |= {len(ids) + i: error for i, error in self._see(features, parts, embedded).items()}
            ids.extend(item.id for item in chunk)
            if progress is not None:
                progress(len(ids))
        if distinct:
            _refuse_duplicates(ids)
        if not parts:
            self._see(self.extractor.extract([], self.needs), parts, embedded)
        return Collected(
            votes=Votes.concatenate(parts),
            errors=errors,
            ids=tuple(ids),
            embeddings=np.concatenate(embedded) if embedded else None,
        )

    def votes(
        self, items: Iterable[Item] | Collection, *, progress: Progress | None = None
    ) -> tuple[Votes, Mapping[int, ItemError], tuple[str, ...]]:
        """Return the label matrix of some items, what is wrong with which rows, and the ids; see ``collect``."""
        collected = self.collect(items, progress=progress)
        return collected.votes, collected.errors, collected.ids

    def fit(
        self,
        items: Iterable[Item] | Collection,
        gold: Mapping[str, str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> Self:
        """Fit the recipe's label model on some items and keep it; return self.

        gold: item id → class name, for the items whose label is known. Items with errors are left out.
        Raises InvalidRequest if a gold label is not a class of the recipe or names an item that is not there, or there
        is none and the recipe wants a precision.
        """
        self.require_gold(gold, again=True)
        return self.fit_collected(self.collect(items, progress=progress), gold=gold)

    def fit_collected(self, collected: Collected, *, gold: Mapping[str, str] | None = None) -> Self:
        """Fit as ``fit`` does, from what ``collect`` gave; no feature is read again."""
        self.require_gold(gold, again=True)
        self.label_model, self.threshold = self._fitted(collected, gold)
        return self

    def label(self, items: Iterable[Item] | Collection, *, progress: Progress | None = None) -> Labels:
        """Return the labels of some items, in order, with one error row for each item that cannot be labeled.

        Raises InvalidRequest if the recipe wants a precision and nothing was fitted with known labels.
        """
        self.require_gold(None)
        return self.fuse(self.collect(items, progress=progress))

    def fuse(self, collected: Collected, *, gold: Mapping[str, str] | None = None) -> Labels:
        """Return labels from what ``collect`` gave; no feature is read again.

        gold: known labels that help to fit, where the Labeler is not fitted yet.
        """
        self.require_gold(gold)
        model, threshold = self._fitted(collected, gold, model=self.label_model, threshold=self.threshold)
        least = self._least(threshold)
        default = self.recipe.default_class
        unspoken = ABSTAIN if default is None else self.recipe.classes.index(default)
        votes, embeddings = collected.votes, collected.embeddings
        n, k = votes.n_items, votes.n_classes
        probs = np.empty((n, k), dtype=np.float32)
        label = np.empty(n, dtype=np.int16)
        runner_up = np.empty(n, dtype=np.int16)
        prior = np.empty(n, dtype=np.float32)
        moved = np.empty((n, votes.n_lfs), dtype=np.float32)
        for start in range(0, n, 65_536):  # a block bounds the label model's float64 scratch space
            rows = slice(start, start + 65_536)
            block, near = votes.rows(rows), None if embeddings is None else embeddings[rows]
            probs[rows] = model.predict_proba(block, near)
            top, second = top_two(probs[rows])
            prior[rows], moved[rows] = model.reasons(block, top=top, runner_up=second, embeddings=near)
            silent = (block.classes == ABSTAIN).all(axis=1)
            if near is not None:  # votes that similar items lent say something of an item, too
                silent &= ~moved[rows].any(axis=1)
            sure = (probs[rows].max(axis=1) >= least) & (familiarity(block) >= self.recipe.unfamiliar_below)
            label[rows] = np.where(silent, unspoken, np.where(sure, top, ABSTAIN))
            runner_up[rows] = second
        broken = sorted(collected.errors)
        probs[broken], label[broken] = np.nan, ABSTAIN
        return Labels(
            ids=collected.ids,
            votes=votes,
            probs=probs,
            label=label,
            runner_up=runner_up,
            prior=prior,
            moved=moved,
            errors=dict(collected.errors),
            versions=Versions(
                recipe=self.recipe.version,
                primitives=self.extractor.versions(self.needs),
                label_model=model.version if threshold is None else f"{model.version}@{threshold.value:.9g}",
            ),
            lent=lent_votes(model, votes, embeddings),
        )

    def require_gold(self, gold: Mapping[str, str] | None, *, again: bool = False) -> None:
        """Raise InvalidRequest if the recipe wants a precision, no label is known, and there is no threshold yet.

        again: whether the label model is to be fitted anew, which takes known labels again.
        """
        wanted = isinstance(self.recipe.abstain_below, TargetPrecision)
        if wanted and not gold and (again or self.threshold is None):
            raise no_gold(self.recipe)

    @property
    def least_confidence(self) -> float:
        """The confidence below which labels are withheld; infinity where no threshold gives the precision wanted."""
        return self._least(self.threshold)

    def save_label_model(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted label model into a folder. Raises InvalidRequest if there is none yet."""
        if self.label_model is None:
            raise InvalidRequest("there is no fitted label model to save; call fit(items) first")
        self.label_model.save(path)
        save_threshold(path, self.threshold, recipe=self.recipe, model=self.label_model)

    def load_label_model(self, path: str | os.PathLike[str]) -> Self:
        """Use a label model from a folder; return self.

        Raises InvalidRecipe if it was fitted for other classes, LFs or sets of classes, or without known labels where
        the recipe wants a precision.
        """
        model = load_label_model(path)
        names = tuple(lf.name for lf in self._lfs)
        if (model.class_names_, model.lf_names_) != (tuple(self.recipe.classes), names):
            raise InvalidRecipe(
                f"the label model in {os.fspath(path)!r} was fitted for classes {list(model.class_names_)} and LFs"
                f" {list(model.lf_names_)}, but recipe {self.recipe.name!r} has classes {list(self.recipe.classes)} and"
                f" LFs {list(names)}; fit one for this recipe"
            )
        sets = declared_sets(self._lfs)
        if model.sets_ != sets:
            raise InvalidRecipe(
                f"the label model in {os.fspath(path)!r} was fitted on votes for other sets of classes than the LFs of"
                f" recipe {self.recipe.name!r} vote for: {_told(model.sets_, model.class_names_)}, not"
                f" {_told(sets, model.class_names_)}; fit one for this recipe"
            )
        self.threshold = load_threshold(path, recipe=self.recipe, model=model)
        self.label_model = model
        return self

    def _collect_held(self, items: Collection, progress: Progress | None) -> Collected:
        features = items.features(self.extractor, self.needs, chunk_size=self.chunk_size, progress=progress)
        versions = self.extractor.versions(self.needs)
        parts: list[Votes] = []
        embedded: list[FloatArray] = []
        errors = self._see(features, parts, embedded, ask=lambda lf, told: items.column(lf, told, versions))
        return Collected(
            votes=parts[0], errors=errors, ids=items.ids, embeddings=embedded[0] if embedded else None
        )

    def _see(
        self,
        features: FeatureSet,
        parts: list[Votes],
        embedded: list[FloatArray],
        *,
        ask: Ask | None = None,
    ) -> dict[int, ItemError]:
        """Keep what the LFs say of a chunk; return what is wrong with which of its rows."""
        votes, errors = collect_votes(self._lfs, features, self.recipe.classes, ask=ask)
        parts.append(votes)
        feature = self.recipe.label_model.embeddings
        if feature is not None:
            block = features[feature]
            if block.offsets is not None or "embedding" not in (block.rows.dtype.names or ()):
                raise InvalidRecipe(f"label_model.embeddings: {feature!r} gives no embedding of an item")
            kept = np.array(block["embedding"], dtype=np.float32)
            kept[~block.present] = np.nan
            embedded.append(kept)
        return {**errors, **features.errors}

    def _prepare(self) -> None:
        if self._prepared:
            return
        with self._preparing:
            if not self._prepared:
                for lf in self._lfs:
                    lf.prepare(self.extractor)
                self._prepared = True

    def _fitted(
        self,
        collected: Collected,
        gold: Mapping[str, str] | None,
        *,
        model: LabelModel | None = None,
        threshold: Threshold | None = None,
    ) -> tuple[LabelModel, Threshold | None]:
        """Return a label model and the threshold that the recipe wants, fitting whichever is not given."""
        known = gold_indices(gold, collected.ids, self.recipe.classes)
        model = model or fit_label_model(self.recipe, collected, known)
        return model, threshold or find_threshold(self.recipe, model, collected, known)

    def _least(self, threshold: Threshold | None) -> float:
        below = self.recipe.abstain_below
        if not isinstance(below, TargetPrecision):
            return below
        return np.inf if threshold is None else threshold.value


def gold_indices(
    gold: Mapping[str, str] | None, ids: Sequence[str], classes: Sequence[str]
) -> npt.NDArray[np.int16] | None:
    """Return gold labels as class indices in the order of the ids, ABSTAIN where there is none.

    Raises InvalidRequest if a label is not one of the classes, or an id is not among the ids.
    """
    if gold is None:
        return None
    position = {item_id: i for i, item_id in enumerate(ids)}
    indices = np.full(len(ids), ABSTAIN, dtype=np.int16)
    for item_id, name in gold.items():
        if name not in classes:
            raise InvalidRequest(
                f"gold label {name!r} of item {item_id!r} is not a class of the recipe; classes:"
                f" {', '.join(classes)}{nearest(name, classes)}"
            )
        if item_id not in position:
            raise InvalidRequest(
                f"gold names item {item_id!r}, which is not among the items{nearest(item_id, ids)}"
            )
        indices[position[item_id]] = list(classes).index(name)
    return indices


def _told(sets: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    return "; ".join(set_name(classes, members) for members in sets) or "none"


def extractor_for(recipe: Recipe, **options: Unpack[Options]) -> Extractor:
    """Return what computes the features that a recipe's LFs and its label model read; no weights are loaded yet.

    options: as for ``Extractor``.
    Raises InvalidRecipe if an LF cannot be built.
    """
    lfs = build_lfs(recipe)
    own = {feature: primitive for lf in lfs for feature, primitive in lf.primitives.items()}
    read = {feature for lf in lfs for feature in lf.reads} | {recipe.label_model.embeddings or ""}
    named = {name for feature in read - {""} for name in families(feature)}
    specs = {name: recipe.primitives[name] for name in with_needs(named, recipe.primitives)}
    return Extractor.for_specs(specs, also=own, **options)


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _refuse_duplicates(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        repeated, times = Counter(ids).most_common(1)[0]
        raise InvalidRequest(f"{times} items have the id {repeated!r}; give every item an id of its own")
