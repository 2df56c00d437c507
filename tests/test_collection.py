"""A collection gives the labels that its items give, and computes only what is new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manyeyes import Item, Labeler, Recipe
from manyeyes.collection import MAX_COLUMNS, Collection
from manyeyes.errors import InvalidRequest
from manyeyes.lfs.base import LabelingFunction
from manyeyes.lfs.keyword import KeywordLF
from manyeyes.lfs.prompt import PromptLF

RECIPE = """
name: paint
classes: [red, green, blue]
primitives: {toy: {}}
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
  - {name: wide, kind: metadata, when: "width > 60", vote: blue}
"""
TEXT_ONLY = """
name: paint
classes: [red, green, blue]
lfs:
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
"""


def items(n: int = 60, broken: Sequence[int] = ()) -> list[Item]:
    words = {"red": "a crimson wall", "green": "a lime wall", "blue": "a navy wall"}
    return [
        Item(
            f"{i:03}",
            image=b"no photo" if i in broken else Image.new("RGB", (8 + i, 8), colour),
            text=words[colour] if i % 2 else None,
        )
        for i, colour in ((i, ("red", "green", "blue")[i % 3]) for i in range(n))
    ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the LFs that were asked for votes, in order."""
    told: list[str] = []
    for kind in (PromptLF, KeywordLF):

        def vote(self: LabelingFunction, features: object, own: object = kind.vote) -> object:
            told.append(self.name)
            return own(self, features)  # type: ignore[operator]

        monkeypatch.setattr(kind, "vote", vote)
    return told


def same(left: object, right: object) -> bool:
    return [one.to_dict() for one in left] == [one.to_dict() for one in right]  # type: ignore[attr-defined]


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(0, 40),
    chunk_size=st.integers(1, 50),
    broken=st.lists(st.integers(0, 39), max_size=3),
)
def test_labels_are_those_of_the_items(n: int, chunk_size: int, broken: list[int]) -> None:
    recipe = Recipe.parse(RECIPE)
    seen = Labeler(recipe, chunk_size=chunk_size).see(items(n, broken))
    assert same(Labeler(recipe).label(seen), Labeler(recipe).label(items(n, broken)))


def test_an_edited_lf_alone_is_asked_again(asked: list[str]) -> None:
    recipe = Recipe.parse(RECIPE)
    labeler = Labeler(recipe)
    seen = labeler.see(items())
    labeler.label(seen)
    assert asked == ["looks", "says"]
    labeler.label(seen)
    assert asked == ["looks", "says"]
    edited = Recipe.parse(RECIPE.replace("[navy]", "[navy, sky]"))
    before = labeler.counter.total
    again = Labeler(edited, extractor=labeler.extractor)
    assert same(again.label(seen), Labeler(edited).label(items()))
    assert asked[2] == "says" and asked.count("looks") == 2  # the second time for the items themselves
    assert again.counter.total == before


def test_a_feature_that_is_new_is_computed() -> None:
    seen = Labeler(Recipe.parse(TEXT_ONLY)).see(items())
    recipe = Recipe.parse(RECIPE)
    assert same(Labeler(recipe).label(seen), Labeler(recipe).label(items()))


def test_what_is_wrong_with_an_item_depends_on_what_is_needed_of_it() -> None:
    whole, text_only = Recipe.parse(RECIPE), Recipe.parse(TEXT_ONLY)
    seen = Labeler(whole).see(items(broken=[3, 7]))
    for recipe in (whole, text_only, whole):
        labels = Labeler(recipe).label(seen)
        assert same(labels, Labeler(recipe).label(items(broken=[3, 7])))
        assert sum(label.status == "error" for label in labels) == (2 if recipe is whole else 0)


def test_fitting_takes_one_too() -> None:
    recipe = Recipe.parse(RECIPE)
    seen = Labeler(recipe).see(items())
    gold = {"000": "red", "001": "green"}
    fitted = Labeler(recipe).fit(seen, gold)
    np.testing.assert_array_equal(
        fitted.label(seen).probs, Labeler(recipe).fit(items(), gold).label(items()).probs
    )
    votes, errors, ids = fitted.votes(seen)
    assert votes.n_items == len(ids) == len(seen) and not errors


def test_two_items_of_one_id_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="id of its own"):
        Labeler(Recipe.parse(TEXT_ONLY)).see([Item("a", text="x"), Item("a", text="y")])


def test_it_is_the_items_in_order() -> None:
    seen = Collection(items(5))
    assert [item.id for item in seen] == list(seen.ids) and len(seen) == 5


def test_votes_not_asked_for_longest_are_forgotten(asked: list[str]) -> None:
    seen = Labeler(Recipe.parse(TEXT_ONLY)).see(items(4))
    for i in range(MAX_COLUMNS + 1):
        Labeler(Recipe.parse(TEXT_ONLY.replace("crimson", f"crimson{i}"))).votes(seen)
    assert len(asked) == MAX_COLUMNS + 1
    Labeler(Recipe.parse(TEXT_ONLY.replace("crimson", "crimson1"))).votes(seen)
    assert len(asked) == MAX_COLUMNS + 1
    Labeler(Recipe.parse(TEXT_ONLY.replace("crimson", "crimson0"))).votes(seen)
    assert len(asked) == MAX_COLUMNS + 2


def test_progress_counts_the_items_seen() -> None:
    told: list[int] = []
    Labeler(Recipe.parse(TEXT_ONLY), chunk_size=25).see(items(60), progress=told.append)
    assert told == [25, 50, 60]
