"""The Labeler: a recipe, its primitives and its label model, from items to labels.

The command line, the service and every job call this one object, so the same recipe gives the same labels everywhere.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Self

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRecipe, InvalidRequest, ItemError, nearest
from manyeyes.lfs.base import LabelingFunction
from manyeyes.lfs.build import build_lfs, collect_votes
from manyeyes.models.base import LabelModel, load_label_model
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor, PassCounter
from manyeyes.recipe import Recipe
from manyeyes.registry import load
from manyeyes.settings import home
from manyeyes.types import ABSTAIN, Item, Labels, Versions, Votes

Progress = Callable[[int], None]
"""Called with the number of items done so far."""


class Labeler:
    """Labels items as a recipe says.

    recipe: what to label and how. extractor: computes features; by default one for the recipe's primitives, with the
    cache in ``settings.home()``. label_model: an already fitted one, such as ``load_label_model`` returns.
    chunk_size: how many items' features are held at once.

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
        self.chunk_size = chunk_size
        self._lfs = build_lfs(recipe)
        self._prepared = False
        self.extractor = extractor or Extractor.for_specs(
            {name: recipe.primitives[name] for name in sorted({_family(f) for f in self.needs})},
            cache=Cache.shared(home() / "cache"),
        )

    @property
    def lfs(self) -> Sequence[LabelingFunction]:
        return tuple(self._lfs)

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the features that the recipe's LFs read, sorted."""
        return tuple(sorted({feature for lf in self._lfs for feature in lf.reads}))

    @property
    def counter(self) -> PassCounter:
        """How many forward passes each primitive has made; a fully cached run adds none."""
        return self.extractor.counter

    def votes(
        self, items: Iterable[Item], *, progress: Progress | None = None
    ) -> tuple[Votes, dict[int, ItemError], tuple[str, ...]]:
        """Return the label matrix of some items, what is wrong with which rows, and the ids.

        Items are read and forgotten chunk by chunk. Raises InvalidRequest if two items have the same id.
        """
        self._prepare()
        classes = self.recipe.classes
        parts: list[Votes] = []
        errors: dict[int, ItemError] = {}
        ids: list[str] = []
        for chunk in _chunks(items, self.chunk_size):
            features = self.extractor.extract(chunk, self.needs)
            chunk_votes, lf_errors = collect_votes(self._lfs, features, classes)
            errors |= {len(ids) + i: error for i, error in {**lf_errors, **features.errors}.items()}
            parts.append(chunk_votes)
            ids.extend(item.id for item in chunk)
            if progress is not None:
                progress(len(ids))
        _refuse_duplicates(ids)
        if not parts:
            parts = [collect_votes(self._lfs, self.extractor.extract([], self.needs), classes)[0]]
        votes = Votes(
            classes=np.concatenate([part.classes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            class_names=parts[0].class_names,
            lf_names=parts[0].lf_names,
            shared=parts[0].shared,
        )
        return votes, errors, tuple(ids)

    def fit(
        self,
        items: Iterable[Item],
        gold: Mapping[str, str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> Self:
        """Fit the recipe's label model on some items and keep it; return self.

        gold: item id → class name, for the items whose label is known. Items with errors are left out.
        Raises InvalidRequest if a gold label is not a class of the recipe or names an item that is not there.
        """
        votes, errors, ids = self.votes(items, progress=progress)
        return self.fit_votes(votes, errors, ids, gold=gold)

    def fit_votes(
        self,
        votes: Votes,
        errors: Mapping[int, ItemError],
        ids: Sequence[str],
        *,
        gold: Mapping[str, str] | None = None,
    ) -> Self:
        """Fit as ``fit`` does, from votes that ``votes`` gave; no feature is read again."""
        self.label_model = self._fitted(votes, errors, gold_indices(gold, ids, self.recipe.classes))
        return self

    def label(self, items: Iterable[Item], *, progress: Progress | None = None) -> Labels:
        """Return the labels of some items, in order, with one error row for each item that cannot be labeled."""
        votes, errors, ids = self.votes(items, progress=progress)
        return self.fuse(votes, errors, ids)

    def fuse(
        self,
        votes: Votes,
        errors: Mapping[int, ItemError],
        ids: Sequence[str],
        *,
        gold: Mapping[str, str] | None = None,
    ) -> Labels:
        """Return labels from votes that ``votes`` gave; no feature is read again.

        gold: known labels that help to fit, where the Labeler is not fitted yet.
        """
        model = self.label_model or self._fitted(votes, errors, gold_indices(gold, ids, self.recipe.classes))
        n, k = votes.n_items, votes.n_classes
        probs = np.empty((n, k), dtype=np.float32)
        label = np.empty(n, dtype=np.int16)
        runner_up = np.empty(n, dtype=np.int16)
        prior = np.empty(n, dtype=np.float32)
        moved = np.empty((n, votes.n_lfs), dtype=np.float32)
        for start in range(0, n, 65_536):  # a block bounds the label model's float64 scratch space
            rows = slice(start, start + 65_536)
            block = Votes(
                votes.classes[rows],
                votes.scores[rows],
                votes.class_names,
                votes.lf_names,
                shared=votes.shared,
            )
            probs[rows] = model.predict_proba(block)
            top, second = top_two(probs[rows])
            prior[rows], moved[rows] = model.reasons(block, top=top, runner_up=second)
            nobody_voted = (block.classes == ABSTAIN).all(axis=1)
            unsure = probs[rows].max(axis=1) < self.recipe.abstain_below
            label[rows] = np.where(nobody_voted | unsure, ABSTAIN, top)
            runner_up[rows] = second
        broken = sorted(errors)
        probs[broken], label[broken] = np.nan, ABSTAIN
        return Labels(
            ids=tuple(ids),
            votes=votes,
            probs=probs,
            label=label,
            runner_up=runner_up,
            prior=prior,
            moved=moved,
            errors=dict(errors),
            versions=Versions(
                recipe=self.recipe.version,
                primitives=self.extractor.versions(self.needs),
                label_model=model.version,
            ),
        )

    def save_label_model(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted label model into a folder. Raises InvalidRequest if there is none yet."""
        if self.label_model is None:
            raise InvalidRequest("there is no fitted label model to save; call fit(items) first")
        self.label_model.save(path)

    def load_label_model(self, path: str | os.PathLike[str]) -> Self:
        """Use a label model from a folder; return self.

        Raises InvalidRecipe if it was fitted for other classes or LFs.
        """
        model = load_label_model(path)
        names = tuple(lf.name for lf in self._lfs)
        if (model.class_names_, model.lf_names_) != (tuple(self.recipe.classes), names):
            raise InvalidRecipe(
                f"the label model in {os.fspath(path)!r} was fitted for classes {list(model.class_names_)} and LFs"
                f" {list(model.lf_names_)}, but recipe {self.recipe.name!r} has classes {list(self.recipe.classes)} and"
                f" LFs {list(names)}; fit one for this recipe"
            )
        self.label_model = model
        return self

    def _prepare(self) -> None:
        if not self._prepared:
            for lf in self._lfs:
                lf.prepare(self.extractor)
            self._prepared = True

    def _fitted(
        self, votes: Votes, errors: Mapping[int, ItemError], gold: npt.NDArray[np.int16] | None
    ) -> LabelModel:
        balance = self.recipe.class_balance
        model: LabelModel = load("manyeyes.label_models", self.recipe.label_model)(
            class_balance=None if balance is None else [balance[name] for name in self.recipe.classes]
        )
        sound = np.ones(votes.n_items, dtype=bool)
        sound[sorted(errors)] = False
        kept = Votes(
            votes.classes[sound], votes.scores[sound], votes.class_names, votes.lf_names, shared=votes.shared
        )
        return model.fit(kept, None if gold is None else gold[sound], shared=votes.shared)


def top_two(probs: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the most and the second most probable class of each row; ties go to the class named first.

    >>> [order.tolist() for order in top_two(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], dtype=np.float32))]
    [[1, 0], [2, 1]]
    """
    top = probs.argmax(axis=1)
    rest = probs.copy()
    np.put_along_axis(rest, top[:, None], -1.0, axis=1)
    return top, rest.argmax(axis=1)


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


def _family(feature: str) -> str:
    return feature.partition(".")[0]


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _refuse_duplicates(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        repeated, times = Counter(ids).most_common(1)[0]
        raise InvalidRequest(f"{times} items have the id {repeated!r}; give every item an id of its own")
