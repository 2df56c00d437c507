"""Suggested labeling functions: what is proposed, how it is judged, what is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from manyeyes import Item
from manyeyes.errors import InvalidRequest
from manyeyes.lfs.suggest import suggest
from manyeyes.lfs.suggest_tree import propose_facts, propose_objects
from manyeyes.lfs.suggest_view import Known, View, folds, rows_of
from manyeyes.lfs.suggest_words import phrases, propose_words
from manyeyes.primitives.base import Features, FeatureSet

CLASSES = ("dress", "hat")
WORDS = ("gown", "cap", "stone")
DIRECTIONS = {
    "dress": (1, 0, 0),
    "gown": (0.9, 0.1, 0),
    "hat": (0, 1, 0),
    "cap": (0.1, 0.9, 0),
    "stone": (0, 0, 1),
}


class Context:
    """An encoder that knows a few words, whatever template they stand in."""

    def encode(self, primitive: str, texts: Any) -> Any:
        rows = [next(v for word, v in DIRECTIONS.items() if word in text) for text in texts]
        vectors = np.array(rows, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def embed(self, feature: str, items: Any) -> Any:
        raise AssertionError("examples are given as embeddings here")

    def info(self, primitive: str) -> Any:
        return {"names": ["person", "dog"], "logit_scale": 10.0, "dim": 3}


def world(
    tools: Any, n: int = 200, *, noise: float = 0.2, texts: bool = True
) -> tuple[View, np.ndarray[Any, Any]]:
    """Items of two classes that words, boxes, metadata and embeddings tell apart, none of them always."""
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=n)
    seen = np.where(rng.random(n) < noise / 2, 1 - truth, truth)
    items, boxes, vectors = [], [], []
    for i, (c, looks) in enumerate(zip(truth.tolist(), seen.tolist(), strict=True)):
        say = (
            ["a long gown for parties", "a warm cap against wind"][c] if rng.random() < 0.7 else "second hand"
        )
        metadata = {
            "price": float(rng.normal(80 if c == 0 else 20, 12)),
            "shop": ["a", "b"][int(rng.random() < 0.5)],
        }
        items.append(Item(str(i), text=f"{say} nr {i}" if texts else None, metadata=metadata))
        boxes.append(
            [("person" if looks == 0 else "dog", 0.1, 0.1, 0.6, 0.6, 0.9)] if rng.random() < 0.6 else []
        )
        vectors.append(np.array(DIRECTIONS[CLASSES[looks]]) + 0.3 * rng.normal(size=3))
    blocks: dict[str, Features] = {"clip": tools.embeddings(vectors), "detector": tools.boxes(boxes)}
    return View(CLASSES, FeatureSet(items, blocks), Context(), WORDS), truth


def known_of(truth: np.ndarray[Any, Any], n: int = 80) -> Known:
    return Known(np.arange(n), truth[:n].astype(np.int64))


def test_each_family_finds_what_tells_the_classes_apart(tools: Any) -> None:
    view, truth = world(tools)
    known = known_of(truth)
    words = {document["vote"]: document["any"] for document in propose_words(view, known)}
    assert "gown" in " ".join(words["dress"]) and "cap" in " ".join(words["hat"])
    (facts,) = propose_facts(view, known)
    assert "price" in facts["rules"][0]["when"]
    objects, *single = propose_objects(view, known)
    assert objects["kind"] == "detect"
    assert {(lf["name"], lf["vote"]) for lf in single} == {("sees_person", "dress"), ("sees_dog", "hat")}


def test_suggestions_are_judged_by_what_they_were_not_made_from(tools: Any) -> None:
    view, truth = world(tools)
    found = suggest(view, known_of(truth))
    assert {"named", "described", "looks_like_examples", "says_dress", "objects", "facts"} <= {
        s.name for s in found
    }
    for suggestion in found:
        assert (
            0 < suggestion.coverage <= 1
            and suggestion.precision is not None
            and suggestion.interval is not None
        )
        right = suggestion.votes == truth
        voted = suggestion.votes >= 0
        assert abs(right[voted].mean() - suggestion.precision) < 0.15, suggestion.name
        assert suggestion.interval[0] - 1e-9 <= suggestion.precision <= suggestion.interval[1] + 1e-9
        view.lf(suggestion.document)
    described = next(s for s in found if s.name == "described")
    assert described.document["prompts"] == {"dress": ["gown"], "hat": ["cap"]}


def test_labels_that_mean_nothing_give_no_confidence(tools: Any) -> None:
    view, truth = world(tools)
    shuffled = np.random.default_rng(5).permutation(truth)
    found = suggest(view, known_of(shuffled, 100), families=("words", "objects", "facts", "examples"))
    assert not [s for s in found if s.chosen and s.interval is not None and s.interval[0] > 0.6]


def test_what_repeats_others_adds_less(tools: Any) -> None:
    view, truth = world(tools)
    alone = suggest(view, known_of(truth), families=("names",))
    beside = suggest(view, known_of(truth), families=("names", "prompts"))
    first, second = (s for s in beside if s.family in ("names", "prompts"))
    assert first.chosen and first.gain > 1.5 * second.gain
    there = [view.lf(alone[0].document)]
    again = suggest(view, known_of(truth), families=("names",), there=there)
    assert again[0].name == "named_2" and again[0].gain < 0.6 * alone[0].gain


def test_without_gold_names_and_clusters_presume_labels(tools: Any) -> None:
    view, truth = world(tools)
    found = suggest(view, None)
    assert {s.family for s in found} >= {"names", "examples", "words"}
    for suggestion in found:
        assert suggestion.interval is None and suggestion.n_judged == 0
    words = next(s for s in found if s.name == "says_hat")
    voted = words.votes >= 0
    assert (words.votes == truth)[voted].mean() > 0.8


def test_too_little_to_go_by_is_told(tools: Any) -> None:
    view, _ = world(tools)
    with pytest.raises(InvalidRequest, match="at least two of each"):
        suggest(view, Known(np.array([0, 1]), np.array([0, 1])))
    bare = View(CLASSES, FeatureSet(view.features.items, {}), Context())
    with pytest.raises(InvalidRequest, match="without gold labels"):
        suggest(bare, None)


def test_folds_part_the_known_items_and_mix_the_classes() -> None:
    known = Known(np.arange(23), np.repeat([0, 1], [13, 10]))
    parts = list(folds(known, 5, np.random.default_rng(0)))
    assert sorted(place for _, judged in parts for place in judged.tolist()) == list(range(23))
    for made_from, judged_by in parts:
        assert not {*made_from.tolist()} & {*judged_by.tolist()}
        assert len(set(known.labels[made_from].tolist())) == len(set(known.labels[judged_by].tolist())) == 2


def test_rows_take_their_boxes_along(tools: Any) -> None:
    view, _ = world(tools, 20)
    rows = np.array([7, 3, 11])
    part = rows_of(view.features, rows)
    whole, some = view.features["detector"], part["detector"]
    assert whole.offsets is not None and some.offsets is not None
    for i, row in enumerate(rows.tolist()):
        mine = some.rows[some.offsets[i] : some.offsets[i + 1]]
        assert np.array_equal(mine, whole.rows[whole.offsets[row] : whole.offsets[row + 1]])
    assert [item.id for item in part.items] == ["7", "3", "11"]


def test_phrases_are_words_and_neighbours() -> None:
    assert phrases("New HAT, new hat") == {"new", "hat", "new hat"}
    assert phrases("") == set()
