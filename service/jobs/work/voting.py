"""The votes of a recipe's labeling functions (LFs) on a shard whose features are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Collection as Names
from typing import Final

import numpy as np

from manyeyes.collection import Collection
from manyeyes.errors import ItemError
from manyeyes.labeler import Labeler
from manyeyes.lfs.base import LabelingFunction, VoteColumn
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.extractor import Extractor
from manyeyes.service.jobs.work.parts import VotesPart
from manyeyes.service.jobs.work.seeing import SeenShard
from manyeyes.types import Votes

BLOCK_ROWS: Final = 4096
"""Rows on which LFs vote at once: they take more memory than what they vote on."""


class _Held(Collection):
    """Items whose features are there; nothing is computed, and no vote is kept."""

    def __init__(self, features: FeatureSet) -> None:
        super().__init__(features.items)
        self._all = features

    def features(
        self,
        extractor: Extractor,
        needs: Names[str],
        *,
        chunk_size: int,
        progress: Callable[[int], None] | None = None,
    ) -> FeatureSet:
        del extractor, needs, chunk_size, progress
        return self._all

    def column(self, lf: LabelingFunction, features: FeatureSet, versions: Mapping[str, str]) -> VoteColumn:
        del versions
        return lf.vote(features)


def collect(
    labeler: Labeler, seen: SeenShard, *, attempts: Mapping[int, int], block_rows: int = BLOCK_ROWS
) -> VotesPart:
    """Return what the LFs say of a shard, as ``Labeler.collect`` would of its items.

    attempts: row → how often it was tried, where that is known; a row with an error was tried once otherwise.
    """
    votes: list[Votes] = []
    embedded = []
    errors: dict[int, ItemError] = {}
    n_rows = 0
    for block in seen.blocks(block_rows):
        collected = labeler.collect(_Held(block))
        votes.append(collected.votes)
        errors |= {n_rows + row: error for row, error in collected.errors.items()}
        if collected.embeddings is not None:
            embedded.append(collected.embeddings)
        n_rows += len(block)
    return VotesPart(
        ids=tuple(item.id for item in seen.items),
        positions=seen.positions.astype(np.int32),
        votes=Votes.concatenate(votes),
        errors=dict(sorted(errors.items())),
        attempts={row: attempts.get(row, 1) for row in sorted(errors)},
        embeddings=np.concatenate(embedded) if embedded else None,
    )
