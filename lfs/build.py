"""From a recipe to its labeling functions, and from these to one label matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeAlias

import numpy as np

from manyeyes.errors import ItemError
from manyeyes.lfs.base import LabelingFunction, LFSpec, VoteColumn
from manyeyes.models.evidence import one_blas_thread
from manyeyes.primitives.base import FeatureSet
from manyeyes.registry import load
from manyeyes.types import ABSTAIN, Item, VoteArray, Votes, vote_dtype


class HasLFs(Protocol):
    """The part of a recipe that matters here."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def lfs(self) -> Sequence[LFSpec]: ...


def build_lf(spec: LFSpec, classes: Sequence[str]) -> LabelingFunction:
    """Return the labeling function that a spec describes. It reads no files and imports no model."""
    built: LabelingFunction = load("manyeyes.lfs", spec.kind)(spec, tuple(classes))
    return built


def build_lfs(recipe: HasLFs) -> list[LabelingFunction]:
    """Return a recipe's labeling functions, in its order. Raises InvalidRecipe if one cannot be built."""
    return [build_lf(spec, recipe.classes) for spec in recipe.lfs]


def declared_sets(lfs: Sequence[LabelingFunction]) -> tuple[tuple[int, ...], ...]:
    """Return the sets of classes that some LFs may vote for, each once, in the order in which they are first named."""
    return tuple(dict.fromkeys(members for lf in lfs for members in lf.sets))


Ask: TypeAlias = Callable[[LabelingFunction, FeatureSet], VoteColumn]
"""How an LF's votes are had: by asking it, or from where they are kept."""


def collect_votes(
    lfs: Sequence[LabelingFunction], features: FeatureSet, classes: Sequence[str], *, ask: Ask | None = None
) -> tuple[Votes, dict[int, ItemError]]:
    """Return the label matrix of some items, and what LFs found wrong with which rows.

    Its sets of classes are those that the LFs may vote for, each once, in the order in which LFs name them first.
    A row with an error, here or in the features, abstains throughout. Every LF must have been prepared.
    """
    n = len(features)
    sets = declared_sets(lfs)
    matrix = np.full((n, len(lfs)), ABSTAIN, dtype=vote_dtype(len(classes) + len(sets)))
    scores = np.full((n, len(lfs)), np.nan, dtype=np.float32)
    errors: dict[int, ItemError] = {}
    if features.errors:
        # What is wrong with an item may be its very types, which no LF should have to expect.
        items = [Item(f"row {i}") if i in features.errors else item for i, item in enumerate(features.items)]
        features = replace(features, items=items)
    with one_blas_thread():
        for j, lf in enumerate(lfs):
            column = lf.vote(features) if ask is None else ask(lf, features)
            matrix[:, j], scores[:, j] = _in_table(column.classes, lf, sets), column.scores
            for row, error in column.errors.items():
                errors.setdefault(row, error)
    broken = sorted({*errors, *features.errors})
    matrix[broken], scores[broken] = ABSTAIN, np.nan
    votes = Votes(
        classes=matrix,
        scores=scores,
        class_names=tuple(classes),
        lf_names=tuple(lf.name for lf in lfs),
        shared=tuple(lf.shares for lf in lfs),
        sets=sets,
    )
    return votes, errors


def _in_table(classes: VoteArray, lf: LabelingFunction, sets: Sequence[tuple[int, ...]]) -> VoteArray:
    """Return votes numbered by the sets of the whole label matrix, not by the LF's own."""
    k = len(lf.classes)
    own = [*range(k), *(k + sets.index(members) for members in lf.sets), ABSTAIN]
    if own[:-1] == list(range(len(own) - 1)):
        return classes
    return np.array(own)[classes]  # ABSTAIN is the last entry
