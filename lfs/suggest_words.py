"""Suggested keywords: the words and pairs of words that tell the classes apart in known texts."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from itertools import pairwise
from typing import Final

import numpy as np

from manyeyes.lfs.analysis import wilson
from manyeyes.lfs.suggest_view import Document, Known, View

_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")
_MOST: Final = 25
"""Words of one LF."""
_LIFT: Final = 0.1
"""How far above the share of its class the lower end of the interval of a word's precision must be."""
_LEAST: Final = 2
_WORDS: Final = """
a about all also am an and any are as at be been but by can could did do does for from get had has have he her
him his how i if in into is it its just like me more most my no not of on one or our out she so some such than
that the their them then there these they this those to up us very was we were what when where which who why
will with would you your
"""
_EMPTY: Final = frozenset(_WORDS.split())
"""English words that a longer text holds whatever it says; they count only beside another word."""


def propose_words(view: View, known: Known) -> list[Document]:
    """Return for each class an LF that looks for the words and pairs of words that speak for it."""
    texts = view.texts()
    where: dict[str, set[int]] = defaultdict(set)
    for place, row in enumerate(known.rows.tolist()):
        for phrase in phrases(texts[row]):
            where[phrase].add(place)
    n_classes = len(view.classes)
    prior = np.bincount(known.labels, minlength=n_classes) / max(1, len(known.labels))
    chosen: dict[int, list[tuple[float, str, frozenset[int]]]] = defaultdict(list)
    for phrase, places in where.items():
        if len(places) < _LEAST or _EMPTY.issuperset(phrase.split()):
            continue
        counts = np.bincount(known.labels[sorted(places)], minlength=n_classes)
        c = int(counts.argmax())
        share = (counts[c] + prior[c]) / (len(places) + 1)
        if wilson(int(counts[c]), len(places))[0] > prior[c] + _LIFT:
            worth = math.log(share / (1 - share)) * math.sqrt(len(places))
            chosen[c].append((worth, phrase, frozenset(places)))
    return [
        {
            "name": f"says_{_spelled(view.classes[c])}",
            "kind": "keyword",
            "any": words,
            "vote": view.classes[c],
        }
        for c in sorted(chosen)
        if (words := _without_echoes(chosen[c]))
    ]


def phrases(text: str) -> set[str]:
    """Return the words and the pairs of neighbouring words of a text, case-folded.

    >>> sorted(phrases("Check out MY channel"))
    ['channel', 'check', 'check out', 'my', 'my channel', 'out', 'out my']
    """
    words = _WORD.findall(text.casefold())
    return {
        *words,
        *(f"{a} {b}" for a, b in pairwise(words) if f"{a} {b}" in text.casefold()),
    }


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """Return how likely at least so many successes are by chance.

    >>> round(binomial_tail(9, 10, 0.5), 4)
    0.0107
    """
    return sum(
        math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(successes, trials + 1)
    )


def _without_echoes(found: list[tuple[float, str, frozenset[int]]]) -> list[str]:
    """Return the words worth most, leaving out what is found only where one of them is found already."""
    kept: list[str] = []
    places: list[frozenset[int]] = []
    for _, phrase, where in sorted(found, key=lambda one: (-one[0], len(one[1]), one[1])):
        if not any(where <= other for other in places):
            kept.append(phrase)
            places.append(where)
    return kept[:_MOST]


def _spelled(name: str) -> str:
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "class"
