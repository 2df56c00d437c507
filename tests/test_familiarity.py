"""Items whose votes are too hesitant to be of any class: how sure votes are, and the labels withheld for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from manyeyes import Item, Labeler, Recipe
from manyeyes.fitting import familiarity
from manyeyes.types import ABSTAIN, Votes

NAN = np.float32(np.nan)


def scored(classes: list[list[int]], scores: list[list[float]]) -> Votes:
    return replace(Votes.hard(classes, 2), scores=np.array(scores, dtype=np.float32))


# How sure


def test_hard_votes_tell_nothing() -> None:
    assert familiarity(Votes.hard([[0, 1], [ABSTAIN, ABSTAIN]], 2)).tolist() == [1.0, 1.0]
    unscored = scored([[0, 1], [0, ABSTAIN]], [[NAN, NAN], [NAN, NAN]])
    assert not unscored.is_hard
    assert familiarity(unscored).tolist() == [1.0, 1.0]


def test_it_is_the_mean_of_the_scores_that_there_are() -> None:
    votes = scored(
        [[0, 1, 0, ABSTAIN], [0, 0, ABSTAIN, ABSTAIN], [1, ABSTAIN, ABSTAIN, ABSTAIN]],
        [[0.5, 0.25, 0.75, NAN], [0.5, NAN, NAN, NAN], [0.125, NAN, NAN, NAN]],
    )
    # Of the second, just half of the votes have a score, which is enough.
    assert familiarity(votes).tolist() == [0.5, 0.5, 0.125]


def test_mostly_unscored_votes_are_not_judged_by_the_few_that_are() -> None:
    votes = scored([[0, 1, 0, ABSTAIN], [0, 1, 0, 1]], [[0.1, NAN, NAN, NAN], [0.1, NAN, NAN, 0.1]])
    assert familiarity(votes).tolist() == [1.0, pytest.approx(0.1)]


def test_where_nobody_says_anything_nobody_is_unsure() -> None:
    votes = scored([[ABSTAIN, ABSTAIN], [0, ABSTAIN]], [[NAN, NAN], [0.25, NAN]])
    assert familiarity(votes).tolist() == [1.0, 0.25]
    assert familiarity(votes.rows(slice(0, 0))).shape == (0,)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 12), st.integers(1, 6)),
    data=st.data(),
)
def test_it_is_what_a_loop_says(shape: tuple[int, int], data: st.DataObject) -> None:
    classes = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(ABSTAIN, 1)))
    known = st.floats(0, 1, width=32) | st.just(NAN)
    scores = data.draw(hnp.arrays(np.float32, shape, elements=known))
    scores[classes == ABSTAIN] = NAN
    votes = replace(Votes.hard(classes, 2), scores=scores)
    found = familiarity(votes)
    assert found.dtype == np.float32 and found.shape == shape[:1]
    for i in range(shape[0]):
        there = [float(s) for s in scores[i] if not np.isnan(s)]
        enough = there and 2 * len(there) >= int((classes[i] != ABSTAIN).sum())
        assert found[i] == pytest.approx(sum(there) / len(there) if enough else 1.0, abs=1e-6)


# Labels withheld

RECIPE = """
name: paint
classes: [red, blue]
{more}
primitives: {{toy: {{}}}}
lfs:
  - {{name: looks, kind: prompt, using: toy, prompts: {{red: red, blue: blue}}, threshold: 0}}
  - {{name: says, kind: keyword, on: text, votes: {{red: [crimson], blue: [navy]}}}}
  - {{name: calls, kind: keyword, on: text, votes: {{red: [scarlet], blue: [azure]}}}}
"""


def items() -> list[Item]:
    """Plain red and blue ones; one of neither, alike to both; it again with one and with two words on it."""
    plain = [Item(f"{colour}{i}", image=painted(colour)) for i in range(8) for colour in ("red", "blue")]
    neither = painted((130, 0, 125))
    return [
        *plain,
        Item("neither", image=neither),
        Item("one word", image=neither, text="a crimson thing"),
        Item("two words", image=neither, text="a crimson, scarlet thing"),
        Item("words alone", text="a navy thing"),
    ]


def painted(colour: str | tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


def labels(more: str) -> tuple[dict[str, str | None], npt.NDArray[np.float32], dict[str, float | None]]:
    found = Labeler(Recipe.parse(RECIPE.format(more=more))).label(items())
    return (
        {label.id: label.label for label in found},
        familiarity(found.votes),
        {label.id: label.confidence for label in found},
    )


def test_an_item_with_hesitant_votes_gets_no_label_and_zero_switches_that_off() -> None:
    off, sure, confidence = labels("unfamiliar_below: 0")
    by_id = dict(zip(off, sure.tolist(), strict=True))
    # Purple looks red by a hair, and every prompt LF must name something.
    assert 0.5 < by_id["neither"] < 0.6 < 0.9 < by_id["red0"]
    assert None not in off.values() and off["neither"] == "red"
    on, _, same = labels("unfamiliar_below: 0.7")
    assert on["neither"] is None and on["one word"] is None
    # Words are sure of themselves; most of what is said of this one is words.
    assert by_id["two words"] == by_id["words alone"] == 1.0
    assert {name: label for name, label in on.items() if label is None} == {"neither": None, "one word": None}
    # Nothing but the label is withheld.
    assert same == confidence
    assert on | {"neither": "red", "one word": "red"} == off


def test_the_bound_itself_is_sure_enough() -> None:
    off, sure, _ = labels("unfamiliar_below: 0")
    bound = dict(zip(off, sure.tolist(), strict=True))["neither"]
    assert labels(f"unfamiliar_below: {bound!r}")[0]["neither"] == "red"
    above = float(np.nextafter(np.float32(bound), np.float32(1)))
    assert labels(f"unfamiliar_below: {above!r}")[0]["neither"] is None


def test_the_default_withholds_below_45_of_100_and_default_class_is_for_silence() -> None:
    assert Recipe.parse(RECIPE.format(more="")).unfamiliar_below == 0.45
    assert labels("")[0]["neither"] == "red"
    withheld = labels("unfamiliar_below: 0.7\ndefault_class: blue")[0]
    # Something was said of it, if hesitantly; the default is not for that.
    assert withheld["neither"] is None


@pytest.mark.parametrize("wrong", ["-0.1", "1.5", "often"])
def test_a_bound_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="unfamiliar_below"):
        Recipe.parse(RECIPE.format(more=f"unfamiliar_below: {wrong}"))
