"""From a recipe to its labeling functions, and from these to one label matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Protocol

import numpy as np
from threadpoolctl import ThreadpoolController

from manyeyes.errors import ItemError
from manyeyes.lfs.base import LabelingFunction, LFSpec
from manyeyes.primitives.base import FeatureSet
from manyeyes.registry import load
from manyeyes.types import ABSTAIN, Item, Votes, vote_dtype


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


def collect_votes(
    lfs: Sequence[LabelingFunction], features: FeatureSet, classes: Sequence[str]
) -> tuple[Votes, dict[int, ItemError]]:
    """Return the label matrix of some items, and what LFs found wrong with which rows.

    A row with an error, here or in the features, abstains throughout. Every LF must have been prepared.
    """
    n = len(features)
    matrix = np.full((n, len(lfs)), ABSTAIN, dtype=vote_dtype(len(classes)))
    scores = np.full((n, len(lfs)), np.nan, dtype=np.float32)
    errors: dict[int, ItemError] = {}
    if features.errors:
        # What is wrong with an item may be its very types, which no LF should have to expect.
        items = [Item(f"row {i}") if i in features.errors else item for i, item in enumerate(features.items)]
        features = replace(features, items=items)
    # Products this small lose more by waking a second BLAS thread than they gain, above all while a model or a decoder
    # has the cores: 17 times slower was seen.
    with _thread_pools().limit(limits=1, user_api="blas"):
        for j, lf in enumerate(lfs):
            column = lf.vote(features)
            matrix[:, j], scores[:, j] = column.classes, column.scores
            for row, error in column.errors.items():
                errors.setdefault(row, error)
    broken = sorted({*errors, *features.errors})
    matrix[broken], scores[broken] = ABSTAIN, np.nan
    votes = Votes(
        classes=matrix,
        scores=scores,
        class_names=tuple(classes),
        lf_names=tuple(lf.name for lf in lfs),
        shared=tuple(lf.reads for lf in lfs),
    )
    return votes, errors


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()
