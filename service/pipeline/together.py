"""Which calls may share their work, and how what came of several is handed back to each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from manyeyes.errors import ItemError
from manyeyes.fitting import Collected
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.extractor import Extractor
from manyeyes.service.intake.items import Read
from manyeyes.service.pipeline.headers import pixels_told
from manyeyes.types import Item

Rows = Sequence[tuple[str, Read]]

_MOST_ITEMS: Final = 4
_MOST_BYTES: Final = 2**20
_MOST_PIXELS: Final = 4_000_000
_MOST_CHARACTERS: Final = 4_000

T = TypeVar("T")


def is_small(rows: Rows) -> bool:
    """Return whether a call is so small that others may wait for it: few items, none of which takes long.

    A call that uses an id twice is none either: it is to be told so by itself.
    """
    if len(rows) > _MOST_ITEMS or len({name for name, _ in rows}) < len(rows):
        return False
    return all(_is_quick(read) for _, read in rows if isinstance(read, Item))


def _is_quick(item: Item) -> bool:
    if item.image is not None:
        if not isinstance(item.image, bytes) or len(item.image) > _MOST_BYTES:
            return False
        if not 0 < pixels_told(item.image) <= _MOST_PIXELS:
            return False
    told = sum(len(value) for value in item.metadata.values() if isinstance(value, str))
    return len(item.text or "") + told <= _MOST_CHARACTERS


def is_shareable(extractor: Extractor) -> bool:
    """Return whether calls may share an extractor's work: not where a primitive asks an endpoint in its own batches."""
    return not any(hasattr(primitive, "batch_size") for primitive in extractor.primitives.values())


def all_cached(extractor: Extractor, needs: Sequence[str], calls: Sequence[Rows]) -> list[bool]:
    """Return of each call whether the cache holds all that it needs."""
    items = [[read for _, read in rows if isinstance(read, Item)] for rows in calls]
    found = extractor.cached([item for own in items for item in own], needs)
    return [all(found[start:end]) for start, end in _spans([len(own) for own in items])]


def collected_of(collected: Collected, sizes: Sequence[int]) -> list[Collected]:
    """Cut what was collected of several calls into that of each. sizes: items of each call."""
    if len(sizes) == 1:
        return [collected]
    return [
        Collected(
            votes=collected.votes.rows(slice(start, end)),
            errors=_errors(collected.errors, start, end),
            ids=collected.ids[start:end],
            embeddings=None if collected.embeddings is None else collected.embeddings[start:end],
        )
        for start, end in _spans(sizes)
    ]


def features_of(features: FeatureSet, sizes: Sequence[int]) -> list[FeatureSet]:
    """Cut the features of several calls into those of each. sizes: items of each call."""
    if len(sizes) == 1:
        return [features]
    parts = []
    for start, end in _spans(sizes):
        blocks = {}
        for name, block in features.blocks.items():
            present = block.present[start:end]
            if block.offsets is None:
                blocks[name] = replace(block, rows=block.rows[start:end], present=present)
                continue
            first, last = block.offsets[start], block.offsets[end]
            offsets = block.offsets[start : end + 1] - first
            blocks[name] = replace(block, rows=block.rows[first:last], present=present, offsets=offsets)
        errors = _errors(features.errors, start, end)
        parts.append(FeatureSet(items=features.items[start:end], blocks=blocks, errors=errors))
    return parts


def _spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(itertools.accumulate(sizes))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _errors(errors: Mapping[int, ItemError], start: int, end: int) -> dict[int, ItemError]:
    return {row - start: error for row, error in errors.items() if start <= row < end}
