"""Replies of models: which listed answer they are, and how probable each was."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.primitives.answers import (
    Token,
    comparable,
    log_probability,
    masses,
    match,
    without_thought,
)

ANSWERS = ["dress", "dress shirt", "hat", "t shirt", "no", "no idea", "ja"]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("dress", "dress"),
        ("  DRESS.\n", "dress"),
        ("**Dress**", "dress"),
        ("“T-Shirt”", "t shirt"),
        ("t_shirt", "t shirt"),
        ("Dress shirt", "dress shirt"),
        ("dress shirt, because of its collar", "dress shirt"),
        ("Hat, I think", "hat"),
        ("No.", "no"),
        ("No idea!", "no idea"),
        ("ＪＡ", "ja"),
        ("a dress", None),  # the first word decides
        ("It is a hat", None),
        ("hats", None),
        ("dressed", None),
        ("hat or dress", None),  # names two
        ("dress shirt or hat", None),
        ("skirt", None),
        ("", None),
        ("…", None),
        ("tshirt", None),
    ],
)
def test_which_answer_a_reply_is(reply: str, answer: str | None) -> None:
    assert match(reply, ANSWERS) == (-1 if answer is None else ANSWERS.index(answer))


@given(st.text())
def test_comparing_twice_changes_nothing(text: str) -> None:
    assert comparable(comparable(text)) == comparable(text)


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=8), max_size=5))
def test_a_match_begins_the_reply(reply: str, answers: list[str]) -> None:
    listed = list(dict.fromkeys(filter(None, map(comparable, answers))))
    found = match(reply, listed)
    assert -1 <= found < len(listed)
    if found >= 0:
        assert f"{comparable(reply)} ".startswith(f"{listed[found]} ")
    assert all(match(answer, listed) == i for i, answer in enumerate(listed))


def test_thoughts_are_no_answer() -> None:
    assert without_thought("<think>A hat?\nNo: hat.</think>\n\ndress").strip() == "dress"
    assert without_thought("dress <think>") == "dress <think>"


def p(value: float) -> float:
    return math.log(value)


def test_the_probability_of_an_answer_is_that_of_its_tokens() -> None:
    tokens = (Token(" d", p(0.5)), Token("ress", p(0.5)), Token(",", p(0.1)), Token(" yes", p(0.1)))
    assert math.exp(log_probability(tokens, "dress")) == pytest.approx(0.25)
    assert math.isnan(log_probability(tokens, "hat"))
    # A longer word is known only when the token after it is.
    assert math.exp(log_probability((Token("T-", p(0.5)), Token("Shirt", p(0.5))), "t shirt")) == 0.25


def test_alternatives_at_every_token_count() -> None:
    tokens = (
        Token("sh", p(0.6), (("sh", p(0.6)), ("h", p(0.3)), ("x", p(0.1)))),
        Token("irt", p(0.5), (("irt", p(0.5)), ("oes", p(0.4)), ("ow", p(0.1)))),
        Token("!", p(0.9), (("!", p(0.9)), ("s", p(0.1)))),
    )
    found = masses(tokens, ["shirt", "shoes", "hat", "bag"])
    assert found is not None and found.dtype == np.float32
    assert found.tolist() == pytest.approx([0.3, 0.24, 0.3, 0.0])


def test_what_fits_several_is_shared() -> None:
    tokens = (Token("hat", p(0.7), (("hat", p(0.7)), ("sh", p(0.2)), ('"', p(0.1)))),)
    found = masses(tokens, ["shirt", "shoes", "hat"])
    assert found is not None
    assert found.tolist() == pytest.approx([0.1, 0.1, 0.7])  # a quotation mark fits all, and says nothing


def test_an_answer_that_begins_another_is_itself_when_the_reply_ends() -> None:
    tokens = (Token("dress", p(0.8), (("dress", p(0.8)), ("hat", p(0.2)))),)
    assert masses(tokens, ["dress", "dress shirt", "hat"]).tolist() == pytest.approx([0.8, 0, 0.2])  # type: ignore[union-attr]


def test_without_alternatives_nothing_is_known() -> None:
    assert masses((Token("hat", p(0.5)),), ["hat"]) is None
    assert masses((), ["hat"]) is None


TOKENS = st.lists(
    st.builds(
        Token,
        st.text("shitoe drx-", max_size=4),
        st.floats(-20, 0),
        st.lists(st.tuples(st.text("shitoe drx-", max_size=4), st.floats(-20, 0)), max_size=4).map(tuple),
    ),
    max_size=6,
)


@given(TOKENS)
def test_whatever_tokens_come_masses_are_finite(tokens: list[Token]) -> None:
    found = masses(tokens, ["shirt", "shoes", "hat", "dress shirt"])
    if found is not None:
        assert np.isfinite(found).all() and (found >= 0).all()
