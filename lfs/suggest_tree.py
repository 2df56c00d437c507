"""A small decision tree over facts of items, written out as rules: metadata splits and detector predicates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.suggest_view import Document, Known, View
from manyeyes.lfs.suggest_words import binomial_tail
from manyeyes.types import Item

_DEPTH: Final = 2
_LEAST: Final = 5
"""Known items that a rule rests on at least."""
_PURE: Final = 0.6
_LIFT: Final = 2.0
_CHANCE: Final = 0.02
"""How likely a rule's votes may be, were it to say nothing; many conditions are tried, so few are let through."""
_THRESHOLDS: Final = 16
_MOST_VALUES: Final = 20
_FACTS: Final = ("aspect", "width", "height", "brightness", "sharpness")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED: Final = {
    "and",
    "or",
    "not",
    "in",
    "True",
    "False",
    "None",
    "id",
    "filename",
    "text",
    "is",
    "if",
    "else",
}


@dataclass(frozen=True)
class Fact:
    """One thing known of items. name: as an expression writes it. values: float64, NaN where unknown; or texts."""

    name: str
    values: npt.NDArray[Any]

    def conditions(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, npt.NDArray[np.bool_], str]]:
        """Yield ways to part some items: a condition, where it holds, and the opposite condition."""
        values = self.values[rows]
        if values.dtype == object:
            found = [value for value in dict.fromkeys(values.tolist()) if value is not None]
            for value in found if 2 <= len(found) <= _MOST_VALUES else []:
                word = (
                    "'"
                    + json.dumps(value, ensure_ascii=False)[1:-1].replace("'", "\\'").replace('\\"', '"')
                    + "'"
                )
                yield f"{self.name} == {word}", values == value, f"{self.name} != {word}"
            return
        known = np.unique(values[np.isfinite(values)])
        if len(known) < 2:
            return
        middles = (known[1:] + known[:-1]) / 2
        for middle in middles[:: max(1, len(middles) // _THRESHOLDS)].tolist():
            told = float(f"{middle:.3g}")
            yield f"{self.name} > {told:g}", values > told, f"{self.name} <= {told:g}"


def propose_facts(view: View, known: Known) -> list[Document]:
    """Return an LF of rules over metadata, plain facts of the image, and the length of the text."""
    return _rules("facts", "metadata", _metadata(view), view, known)


def propose_objects(view: View, known: Known) -> list[Document]:
    """Return an LF of rules over what a detector found, and one for each label that speaks for a class by itself."""
    facts = _detections(view, known)
    return [*_rules("objects", "detect", facts, view, known), *_single(facts, view, known)]


def _rules(name: str, kind: str, facts: list[Fact], view: View, known: Known) -> list[Document]:
    prior = np.bincount(known.labels, minlength=len(view.classes)) / max(1, len(known.labels))
    rules = [
        {"when": " and ".join(path), "vote": view.classes[c]}
        for path, c, _ in _leaves(facts, known, np.arange(len(known.rows)), prior, _DEPTH, ())
    ]
    if not rules:
        return []
    return [{"name": name, "kind": kind, "rules": rules}]


def _leaves(
    facts: list[Fact],
    known: Known,
    places: npt.NDArray[np.int64],
    prior: npt.NDArray[np.float64],
    depth: int,
    path: tuple[str, ...],
) -> Iterator[tuple[tuple[str, ...], int, float]]:
    """Yield the leaves that tell a class: conditions, class, and how sure; CART with the Gini impurity."""
    counts = np.bincount(known.labels[places], minlength=len(prior))
    best: tuple[float, str, npt.NDArray[np.bool_], str] | None = None
    if depth and counts.max() < len(places):
        here = _impurity(counts)
        for fact in facts:
            for condition, holds, opposite in fact.conditions(known.rows[places]):
                n_in = int(holds.sum())
                if min(n_in, len(places) - n_in) < _LEAST:
                    continue
                inside = np.bincount(known.labels[places[holds]], minlength=len(prior))
                gain = here - _impurity(inside) - _impurity(counts - inside)
                if best is None or gain > best[0] + 1e-9:
                    best = (gain, condition, holds, opposite)
    if best is not None and best[0] > 0.02 * len(places):
        _, condition, holds, opposite = best
        yield from _leaves(facts, known, places[holds], prior, depth - 1, (*path, condition))
        yield from _leaves(facts, known, places[~holds], prior, depth - 1, (*path, opposite))
        return
    c = int(counts.argmax())
    share = (counts[c] + prior[c]) / (len(places) + 1)
    by_chance = binomial_tail(int(counts[c]), len(places), float(prior[c]))
    if path and share >= min(_PURE, _LIFT * prior[c]) and share > prior[c] + 0.1 and by_chance <= _CHANCE:
        yield path, c, float(share)


def _impurity(counts: npt.NDArray[np.int64]) -> float:
    total = counts.sum()
    return float(total - (counts**2).sum() / total) if total else 0.0


def _single(facts: list[Fact], view: View, known: Known) -> list[Document]:
    """Return one LF for each label whose score, area or count alone speaks for a class."""
    prior = np.bincount(known.labels, minlength=len(view.classes)) / max(1, len(known.labels))
    best: dict[str, tuple[float, Document]] = {}
    for fact in facts:
        label = fact.name.partition("(")[2].strip(")'\"")
        for condition, holds, _ in fact.conditions(known.rows):
            n_in = int(holds.sum())
            if n_in < _LEAST:
                continue
            counts = np.bincount(known.labels[holds], minlength=len(prior))
            c = int(counts.argmax())
            share = (counts[c] + prior[c]) / (n_in + 1)
            worth = n_in * (share - prior[c])
            if share >= _PURE and share > prior[c] + 0.1 and worth > best.get(label, (0.0,))[0]:
                name = "sees_" + re.sub(r"\W+", "_", label, flags=re.ASCII).strip("_")
                document = {"name": name, "kind": "detect", "when": condition, "vote": view.classes[c]}
                best[label] = (worth, document)
    return [document for _, document in best.values()]


def _detections(view: View, known: Known) -> list[Fact]:
    """Return scores, areas and counts of the labels that the detector found on the known items."""
    if not view.has("detector"):
        return []
    from manyeyes.lfs.boxes import Boxes, label_names

    block = view.features["detector"]
    names = label_names(block.info)
    boxes = Boxes(block)
    owner = block.row_items()
    seen = np.unique(block["label"][np.isin(owner, known.rows)])
    facts = []
    for label in (names[i] for i in seen.tolist()):
        word = label if _NAME.fullmatch(label) and label not in _RESERVED else f"'{label}'"
        for function in ("score", "area", "count"):
            column = getattr(boxes, function)(label)
            facts.append(Fact(f"{function}({word})", np.where(block.present, column.number, np.nan)))
    return facts


def _metadata(view: View) -> list[Fact]:
    items = view.features.items
    facts = []
    for name in sorted({field for item in items for field in item.metadata}):
        spelled = name if _NAME.fullmatch(name) and name not in _RESERVED else f"field('{name}')"
        if "'" not in name and "\\" not in name:
            facts.append(Fact(spelled, _values(items, name)))
    if any(item.text for item in items):
        lengths = [float("nan") if item.text is None else float(len(item.text)) for item in items]
        facts.append(Fact("len(text)", np.array(lengths)))
    if view.has("image"):
        block = view.features["image"]
        facts += [
            Fact(name, np.where(block.present, block[name].astype(np.float64), np.nan))
            for name in _FACTS
            if not any(name in item.metadata for item in items)
        ]
    return facts


def _values(items: Any, name: str) -> npt.NDArray[Any]:
    """Return a metadata field: float64 where every value is a number, texts and None otherwise."""
    values = [item.metadata.get(name) for item in _each(items)]
    if all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values
    ):
        return np.array([float("nan") if value is None else float(value) for value in values])
    told = np.empty(len(values), dtype=object)
    told[:] = [value if isinstance(value, str) else None for value in values]
    return told


def _each(items: Any) -> list[Item]:
    return list(items)
