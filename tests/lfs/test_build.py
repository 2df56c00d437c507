"""From specs to one label matrix."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from manyeyes.errors import InvalidRecipe, UndecodableImage
from manyeyes.lfs.base import LFSpec
from manyeyes.lfs.build import build_lf, build_lfs, collect_votes
from manyeyes.primitives.base import FeatureSet
from manyeyes.types import ABSTAIN, Item


def test_votes_come_in_the_order_of_the_recipe_and_name_what_they_share(tools: Any) -> None:
    specs = [
        tools.make_lf(kind="keyword", name="words", any=["hat"], vote="hat").spec,
        tools.make_lf(kind="detect", name="seen", when="count(hat) > 0", vote="hat").spec,
        tools.make_lf(kind="detect", name="worn", when="count(person) > 0", vote="dress").spec,
    ]
    lfs = build_lfs(SimpleNamespace(classes=tools.CLASSES, lfs=specs))
    box = ("person", 0.1, 0.1, 0.2, 0.2, 0.9)
    items = [Item("a", text="hat"), Item("b", text="hat"), Item("c")]
    features = FeatureSet(
        items, {"detector": tools.boxes([[box], [box], [box]])}, {1: UndecodableImage("broken")}
    )
    votes, errors = collect_votes(lfs, features, tools.CLASSES)
    assert votes.lf_names == ("words", "seen", "worn")
    assert votes.class_names == tools.CLASSES
    assert votes.shared == ((), ("detector",), ("detector",))
    assert votes.classes.tolist() == [[1, -1, 0], [-1, -1, -1], [-1, -1, 0]]
    assert errors == {}  # what the features hold is not said twice


def test_sets_of_classes_have_one_table_however_each_lf_numbers_its_own(tools: Any) -> None:
    lfs = [
        tools.make_lf(kind="keyword", name="one", any="hat", vote="hat"),
        tools.make_lf(kind="keyword", name="two", any="hat", vote={"not": "hat"}),
        tools.make_lf(
            kind="metadata",
            name="three",
            rules=[
                {"when": "text == 'hat'", "vote": ["dress", "hat"]},
                {"when": "text == 'cap'", "vote": ["dress", "t-shirt"]},
            ],
        ),
    ]
    votes, _ = collect_votes(lfs, tools.with_texts("hat", "cap", "x"), tools.CLASSES)
    assert lfs[2].sets == ((0, 1), (0, 2))
    assert votes.sets == ((0, 2), (0, 1))  # each once, in the order in which LFs name them first
    assert votes.classes.tolist() == [[1, 3, 4], [-1, -1, 3], [-1, -1, -1]]
    assert votes.value_names[3:] == ("not hat", "not t-shirt")
    nothing, _ = collect_votes(lfs, tools.with_texts(), tools.CLASSES)
    assert nothing.sets == votes.sets  # known before the first vote


def test_sets_of_classes_can_need_a_wider_vote(tools: Any) -> None:
    classes = [f"c{i}" for i in range(127)]
    lf = tools.make_lf(classes, kind="keyword", any=["hat"], vote={"not": "c0"})
    votes, _ = collect_votes([lf], tools.with_texts("hat"), classes)
    assert (votes.classes.dtype, votes.classes[0, 0], len(votes.sets[0])) == (np.int16, 127, 126)


def test_many_classes_need_a_wider_vote(tools: Any) -> None:
    classes = [f"c{i}" for i in range(200)]
    lf = tools.make_lf(classes, kind="keyword", any=["hat"], vote="c199")
    votes, _ = collect_votes([lf], tools.with_texts("hat", "x"), classes)
    assert votes.classes.dtype == np.int16
    assert votes.classes[:, 0].tolist() == [199, ABSTAIN]


def test_no_lfs_and_no_items(tools: Any) -> None:
    votes, errors = collect_votes([], FeatureSet([]), tools.CLASSES)
    assert (votes.n_items, votes.n_lfs, errors) == (0, 0, {})


def test_an_unknown_kind(tools: Any) -> None:
    with pytest.raises(InvalidRecipe, match="did you mean 'keyword'"):
        build_lf(LFSpec(name="x", kind="keywrod"), tools.CLASSES)
