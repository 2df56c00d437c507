"""Votes for more than one class: what they mean, one way to write each, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.partial import canonical, members
from manyeyes.types import set_name

CLASSES = ("dress", "hat", "bag", "shoes", "belt")

names = st.lists(st.sampled_from(CLASSES), min_size=1, max_size=4)
votes = st.sampled_from(CLASSES) | names | names.map(lambda listed: {"not": listed})


@pytest.mark.parametrize(
    ("vote", "named", "written", "reads"),
    [
        ("hat", (1,), "hat", "hat"),
        (["hat"], (1,), "hat", "hat"),
        (["bag", "dress", "bag"], (0, 2), ("dress", "bag"), "dress or bag"),
        ({"not": "hat"}, (0, 2, 3, 4), {"not": "hat"}, "not hat"),
        ({"not": ["belt", "hat"]}, (0, 2, 3), {"not": ("hat", "belt")}, "neither hat nor belt"),
        (["dress", "bag", "shoes"], (0, 2, 3), {"not": ("hat", "belt")}, "neither hat nor belt"),
        ({"not": ["belt", "hat", "bag"]}, (0, 3), ("dress", "shoes"), "dress or shoes"),
        ({"not": ["belt", "hat", "bag", "dress"]}, (3,), "shoes", "shoes"),
    ],
)
def test_what_a_vote_means(vote: Any, named: tuple[int, ...], written: Any, reads: str) -> None:
    assert members(vote, CLASSES) == named
    assert canonical(vote, CLASSES) == written
    assert set_name(CLASSES, named) == reads


def test_of_two_classes_one_is_the_other_left_out() -> None:
    assert canonical({"not": "no"}, ("yes", "no")) == "yes"


@given(votes, votes)
def test_equal_sets_have_one_form_that_comes_back(one: Any, other: Any) -> None:
    a, b = canonical(one, CLASSES), canonical(other, CLASSES)
    assert (a == b) == (members(one, CLASSES) == members(other, CLASSES))
    assert canonical(json.loads(json.dumps(a)), CLASSES) == canonical(a, None) == a


@pytest.mark.parametrize(
    ("vote", "told"),
    [
        ("hatt", "unknown class 'hatt'; classes: dress, hat, bag, shoes, belt; did you mean 'hat'"),
        (["hat", "hatt"], "did you mean 'hat'"),
        ({"not": "hatt"}, "did you mean 'hat'"),
        ([], "at least one class"),
        ({"not": []}, "at least one class"),
        (list(CLASSES), "says nothing"),
        ({"not": list(CLASSES)}, "cannot be right"),
        ({"nott": "hat"}, "or {not: class}, got a mapping with nott"),
        ({}, "got a mapping with nothing"),
        ({"not": "hat", "or": "bag"}, "got a mapping with not, or"),
        (["hat", 3], "got 3; put it between quotes"),
        ({"not": {"not": "hat"}}, "names classes by their names"),
        (3, "names classes by their names"),
    ],
)
def test_what_is_no_vote_is_refused(vote: Any, told: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        members(vote, CLASSES)
    assert told in str(caught.value)
