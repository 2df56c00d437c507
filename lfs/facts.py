"""Facts that primitives tell of an item — of its image, its text, what its text says — as values for conditions."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from manyeyes.lfs.columns import Column
from manyeyes.primitives.base import Features
from manyeyes.primitives.lines import joined
from manyeyes.registry import load

_ALWAYS = ("image", "text_facts")
"""Kinds of primitives whose facts every condition may name."""


@cache
def usual_facts() -> dict[str, str]:
    """Return the facts that every condition may name, each with its feature; asking loads no library."""
    found: dict[str, str] = {}
    for kind in _ALWAYS:
        registered = load("manyeyes.primitives", kind)
        for feature, primitive in registered.build(kind, registered.Spec(kind=kind)).items():
            for fact in primitive.info["columns"]:
                found.setdefault(fact, feature)
    return found


def has_fact(block: Features, name: str) -> bool:
    """Return whether features tell a fact of that name."""
    return name in block.info.get("fields", block.rows.dtype.names or ())


def fact(block: Features, name: str) -> Column:
    """Return one fact of every item, missing where it is not known."""
    if "fields" in block.info:
        return _field(block, block.info["fields"].index(name))
    values: Any = block[name]
    if values.dtype.kind in "SU":
        texts = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in values.tolist()]
        return Column.of(
            [text or None if here else None for text, here in zip(texts, block.present, strict=True)]
        )
    if values.dtype.kind == "b":
        return Column.truths(values, block.present)
    return Column.numbers(np.where(block.present, values.astype(np.float64), np.nan))


def _field(block: Features, place: int) -> Column:
    """Return what was extracted under one name, numbers or texts, from rows as ``primitives.fields`` has them."""
    own = block.rows["line"] == place
    items = block.row_items()[own]
    rows = block.rows[own]
    numbers = np.full(len(block.present), np.nan)
    numbers[items] = rows["number"]
    textual = np.isnan(rows["number"])
    if not textual.any():
        return Column.numbers(numbers)
    values: list[object] = [None if np.isnan(number) else number for number in numbers.tolist()]
    items, rows = items[textual], rows[textual]
    starts = np.flatnonzero(np.diff(items, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(items)], strict=True):
        values[int(items[start])] = joined(rows[start:stop])[0]
    return Column.of(values)
