"""A collection: items whose features are held in memory, for the loop of editing labeling functions and looking again.

>>> from manyeyes import Item, Labeler, Recipe
>>> text = '''
... name: paint
... classes: [red, blue]
... lfs:
...   - {name: says_red, kind: keyword, any: [red], vote: red}
...   - {name: says_blue, kind: keyword, any: [blue], vote: blue}
... '''
>>> seen = Labeler(Recipe.parse(text)).see([Item("1", text="A navy coat"), Item("2", text="a red hat")])
>>> [label.label for label in Labeler(Recipe.parse(text)).label(seen)]
[None, 'red']
>>> edited = Recipe.parse(text.replace("[blue]", "[blue, navy]"))
>>> [label.label for label in Labeler(edited).label(seen)]
['blue', 'red']
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Collection as Names
from dataclasses import replace

import numpy as np

from manyeyes.errors import ItemError
from manyeyes.lfs.base import LabelingFunction, VoteColumn
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.primitives.extractor import Extractor
from manyeyes.types import Item

MAX_COLUMNS = 256
"""Votes of so many LFs are kept, 5 bytes a vote; those not asked for longest are forgotten."""


class Collection:
    """Items, their features, and what labeling functions (LFs) voted on them; what ``Labeler.see`` returns.

    A Labeler takes it wherever it takes items, and computes only what is new: an LF that did not change is not asked
    again, and a feature that is held is not read again. So long as it lives, a collection knows its files as they were
    when it was made. It holds the features, 1.5 kB an item for the starter CLIP, and what the items themselves hold.
    Not safe to use from several threads at once.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = tuple(items)
        self.ids = tuple(item.id for item in self.items)
        self._features: FeatureSet | None = None
        self._versions: dict[str, str] = {}
        self._columns: OrderedDict[tuple[str, ...], VoteColumn] = OrderedDict()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def features(
        self,
        extractor: Extractor,
        needs: Names[str],
        *,
        chunk_size: int,
        progress: Callable[[int], None] | None = None,
    ) -> FeatureSet:
        """Return the features that some LFs need of all items, computing those that are not held."""
        versions = extractor.versions(needs)
        held = self._features
        # Which items have errors depends on what was needed of them, so features held for more than this do only where
        # there are none.
        if held is not None and (
            versions == self._versions or (not held.errors and versions.items() <= self._versions.items())
        ):
            return held
        parts = []
        for start in range(0, max(len(self), 1), chunk_size):
            parts.append(extractor.extract(self.items[start : start + chunk_size], needs))
            if progress is not None:
                progress(min(start + chunk_size, len(self)))
        joined = _joined(self.items, parts)
        if held is None or joined.errors != held.errors:
            self._columns.clear()
        self._features, self._versions = joined, versions
        return joined

    def column(self, lf: LabelingFunction, features: FeatureSet, versions: Mapping[str, str]) -> VoteColumn:
        """Return an LF's votes on all items; those of an LF that has voted here before are not asked for again.

        versions: of the primitives that it reads.
        """
        key = (lf.version, *(f"{feature}={versions[feature]}" for feature in lf.reads))
        column = self._columns.get(key)
        if column is None:
            column = self._columns[key] = lf.vote(features)
        self._columns.move_to_end(key)
        while len(self._columns) > MAX_COLUMNS:
            self._columns.popitem(last=False)
        return column


def _joined(items: Sequence[Item], parts: Sequence[FeatureSet]) -> FeatureSet:
    """Return the features of consecutive chunks as one set."""
    errors: dict[int, ItemError] = {}
    done = 0
    for part in parts:
        errors |= {done + row: error for row, error in part.errors.items()}
        done += len(part)
    blocks = {
        feature: _stacked([part.blocks[feature] for part in parts])
        for feature in (parts[0].blocks if parts else ())
    }
    return FeatureSet(items=items, blocks=blocks, errors=errors)


def _stacked(blocks: Sequence[Features]) -> Features:
    if len(blocks) == 1:
        return blocks[0]
    offsets = None
    if blocks[0].offsets is not None:
        sizes = [np.diff(block.offsets) for block in blocks if block.offsets is not None]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
    return replace(
        blocks[0],
        rows=np.concatenate([block.rows for block in blocks]),
        present=np.concatenate([block.present for block in blocks]),
        offsets=offsets,
    )
