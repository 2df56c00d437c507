"""What suggestions are made from: items with their features, and labels of some of them, known or presumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.base import Context, LabelingFunction, VoteColumn
from manyeyes.lfs.build import build_lf
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.registry import load

Rows: TypeAlias = npt.NDArray[np.int64]
Document: TypeAlias = dict[str, Any]
"""An LF as a recipe writes it."""


class Known(NamedTuple):
    """Items whose label is known. rows: int64, shape (n,). labels: int64, shape (n,); class indices."""

    rows: Rows
    labels: Rows

    def among(self, places: Rows) -> Known:
        """Return some of them, by their places."""
        return Known(self.rows[places], self.labels[places])


@dataclass(frozen=True)
class View:
    """Items as suggestions see them.

    classes: of the recipe. features: of all items. context: encodes prompts. words: nouns that prompts are made of.
    images: row → path of the item's image, as the recipe is to name it; an example without one is an embedding.
    """

    classes: tuple[str, ...]
    features: FeatureSet
    context: Context
    words: tuple[str, ...] = ()
    images: Mapping[int, str] | None = None

    def __len__(self) -> int:
        return len(self.features)

    def has(self, feature: str) -> bool:
        """Whether a feature is there for at least one item."""
        block = self.features.blocks.get(feature)
        return block is not None and bool(block.present.any())

    def texts(self) -> list[str]:
        """Return every item's text, empty where there is none."""
        return [item.text or "" for item in self.features.items]

    def lf(self, document: Document) -> LabelingFunction:
        """Return an LF ready to vote. Raises InvalidRecipe if it cannot be built."""
        kind = load("manyeyes.lfs", document["kind"])
        spec = kind.Spec.model_validate(document, context={"classes": self.classes})
        lf = build_lf(spec, self.classes)
        lf.prepare(self.context)
        return lf

    def vote(self, document: Document, rows: Rows | None = None) -> VoteColumn:
        """Return an LF's votes on all items, or on some."""
        return self.lf(document).vote(self.features if rows is None else rows_of(self.features, rows))


def rows_of(features: FeatureSet, rows: Rows) -> FeatureSet:
    """Return the features of some items, in the order of the rows."""
    place = {int(row): i for i, row in enumerate(rows)}
    return FeatureSet(
        items=[features.items[i] for i in rows.tolist()],
        blocks={name: _some(block, rows) for name, block in features.blocks.items()},
        errors={place[row]: error for row, error in features.errors.items() if row in place},
    )


def folds(known: Known, n_folds: int, rng: np.random.Generator) -> Iterator[tuple[Rows, Rows]]:
    """Yield places of known items to propose from and to judge by; every class is in every part as evenly as can be."""
    order = np.lexsort((rng.random(len(known.rows)), known.labels))
    fold = np.empty(len(order), dtype=np.int64)
    fold[order] = np.arange(len(order)) % n_folds
    for i in range(n_folds):
        yield np.flatnonzero(fold != i), np.flatnonzero(fold == i)


def _some(block: Features, rows: Rows) -> Features:
    if block.offsets is None:
        return replace(block, rows=block.rows[rows], present=block.present[rows])
    pieces: Sequence[npt.NDArray[np.int64]] = [
        np.arange(block.offsets[i], block.offsets[i + 1]) for i in rows.tolist()
    ]
    sizes = np.array([len(piece) for piece in pieces], dtype=np.int64)
    chosen = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return replace(block, rows=block.rows[chosen], present=block.present[rows], offsets=offsets)
