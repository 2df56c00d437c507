"""The shared vocabulary: a label matrix refuses what breaks its contract, and labels survive JSON unchanged."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.errors import InvalidVotes, ItemError, UndecodableImage, by_code
from manyeyes.types import ABSTAIN, Item, Label, Labels, Lent, Reason, Versions, Votes, vote_dtype

names = st.text(min_size=1, max_size=12)
finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
probability = st.floats(0, 1, allow_nan=False, width=32)
reasons = st.builds(
    Reason,
    lf=names,
    vote=st.none() | names,
    score=st.none() | probability,
    moved=finite,
    lent=st.none() | st.builds(Lent, neighbors=st.integers(1, 99), nearest=finite, votes=probability),
)  # fmt: skip
good_labels = st.builds(
    Label,
    id=st.text(),
    status=st.just("labeled"),
    label=names,
    confidence=probability,
    probs=st.dictionaries(names, probability, max_size=5),
    runner_up=names,
    prior=finite,
    reasons=st.lists(reasons, max_size=4).map(tuple),
)
item_error_codes = sorted(code for code, cls in by_code().items() if issubclass(cls, ItemError))


@st.composite
def vote_matrices(draw: st.DrawFn) -> Votes:
    """Votes of up to 6 items, 4 LFs and 5 classes, hard and soft ones mixed."""
    n_items, n_lfs, n_classes = draw(st.integers(0, 6)), draw(st.integers(0, 4)), draw(st.integers(2, 5))
    cells = n_items * n_lfs
    classes = draw(st.lists(st.integers(ABSTAIN, n_classes - 1), min_size=cells, max_size=cells))
    scores = draw(st.lists(st.just(math.nan) | probability, min_size=cells, max_size=cells))
    array = np.array(classes, dtype=np.int8).reshape(n_items, n_lfs)
    return Votes(
        classes=array,
        scores=np.where(array == ABSTAIN, np.nan, np.array(scores).reshape(n_items, n_lfs)).astype(
            np.float32
        ),
        class_names=tuple(f"class_{c}" for c in range(n_classes)),
        lf_names=tuple(f"lf_{j}" for j in range(n_lfs)),
    )


@st.composite
def labels_and_votes(draw: st.DrawFn) -> Labels:
    """Labels by counting votes: every reason moves the log-odds by one nat, so the identity can be checked by hand."""
    votes = draw(vote_matrices())
    n, k = votes.n_items, votes.n_classes
    counts = (
        np.stack([(votes.classes == c).sum(axis=1) for c in range(k)], axis=1).astype(float).reshape(n, k)
    )
    probs = np.exp(counts) / np.exp(counts).sum(axis=1, keepdims=True)
    top = np.argmax(probs, axis=1)
    others = probs.copy()
    others[np.arange(n), top] = -1
    runner_up = np.argmax(others, axis=1)
    moved = (votes.classes == top[:, None]).astype(float) - (votes.classes == runner_up[:, None])
    bad = draw(st.sets(st.integers(0, n - 1))) if n else set()
    return Labels(
        ids=tuple(f"item {i}" for i in range(n)),
        votes=votes,
        probs=probs.astype(np.float32),
        label=np.where(counts.max(axis=1) > 0, top, ABSTAIN).astype(np.int16),
        runner_up=runner_up.astype(np.int16),
        prior=np.zeros(n, dtype=np.float32),
        moved=moved.astype(np.float32),
        errors={i: UndecodableImage(f"item {i} is damaged") for i in bad},
        versions=Versions(recipe="r"),
    )


# Votes


@given(vote_matrices())
def test_sizes_come_from_the_arrays(votes: Votes) -> None:
    assert (votes.n_items, votes.n_lfs) == votes.classes.shape
    assert votes.n_classes == len(votes.class_names)


@pytest.mark.parametrize(
    ("classes", "scores", "message"),
    [
        ([[0], [1]], [[0.5]], r"both have shape \(n_items, n_lfs\), got \(2, 1\) and \(1, 1\)"),
        ([0, 1], [0.5, 0.5], r"got \(2,\) and \(2,\)"),
        ([[0, 1]], [[0.5, 0.5]], "2 columns of votes, but 1 LF names"),
        ([[2]], [[0.5]], "class index below 2, got 2"),
        ([[-2]], [[0.5]], r"-1 \(abstain\) or a class index below 2, got -2"),
        ([[0]], [[1.5]], r"a probability in \[0, 1\]"),
        ([[0]], [[-0.1]], r"a probability in \[0, 1\]"),
        ([[0]], [[math.inf]], r"a probability in \[0, 1\]"),
    ],
)
def test_a_broken_label_matrix_is_refused(classes: Any, scores: Any, message: str) -> None:
    with pytest.raises(InvalidVotes, match=message):
        Votes(
            np.array(classes, dtype=np.int8),
            np.array(scores, dtype=np.float32),
            ("cat", "dog"),
            ("says_cat",),
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
def test_votes_are_signed_integers(dtype: Any) -> None:
    with pytest.raises(InvalidVotes, match="signed integers"):
        Votes(
            np.zeros((1, 1), dtype=dtype), np.zeros((1, 1), dtype=np.float32), ("cat", "dog"), ("says_cat",)
        )


def test_an_empty_label_matrix_is_fine() -> None:
    votes = Votes(np.zeros((0, 0), dtype=np.int8), np.zeros((0, 0), dtype=np.float32), ("cat", "dog"), ())
    assert (votes.n_items, votes.n_lfs, votes.n_classes) == (0, 0, 2)


@given(st.integers(1, 40_000))
def test_the_dtype_holds_every_class(n_classes: int) -> None:
    if n_classes <= np.iinfo(np.int16).max:
        assert np.array(n_classes - 1).astype(vote_dtype(n_classes)) == n_classes - 1
    assert vote_dtype(n_classes) == (np.int8 if n_classes <= 127 else np.int16)


def test_hard_votes_have_no_score() -> None:
    votes = Votes.hard([[0, ABSTAIN, 2]])
    assert votes.n_classes == 3 and np.isnan(votes.scores).all()
    assert votes.classes.dtype == np.int8


@pytest.mark.parametrize("wrong", [-2, 3, 256, 2**40])
def test_a_hard_vote_out_of_range_does_not_wrap_around(wrong: int) -> None:
    with pytest.raises(InvalidVotes, match=str(wrong)):
        Votes.hard([[0, wrong]], n_classes=3)


# Label


@given(good_labels)
def test_a_label_survives_json(label: Label) -> None:
    assert Label.from_dict(json.loads(json.dumps(label.to_dict()))) == label


def test_a_label_says_what_it_was_given_for_want_of_a_vote() -> None:
    given = Label("a", "labeled", "hat", 0.2, reasons=(Reason("lf", None, None, 0.0),))
    assert given.by_default
    voted, lent = Reason("lf", "hat", None, 0.0), Reason("lf", None, None, 0.5, Lent(3, 0.83, 0.6))
    assert not any(dataclasses.replace(given, reasons=(reason,)).by_default for reason in (voted, lent))
    assert not Label("a", "abstained", reasons=given.reasons).by_default
    assert str(lent.lent) == "3 neighbours, nearest cosine 0.83, lent 0.6 of a vote"


@pytest.mark.parametrize("code", item_error_codes)
def test_an_error_row_survives_json(code: str) -> None:
    label = Label(id="a.jpg", status="error", error=by_code()[code]("the file ends early"))  # type: ignore[arg-type]
    again = Label.from_dict(json.loads(json.dumps(label.to_dict())))
    assert type(again.error) is by_code()[code] and str(again.error) == "the file ends early"
    assert again.label is None and again.reasons == ()


@pytest.mark.parametrize("code", ["of_a_newer_version", "invalid_recipe"])
def test_an_item_error_that_is_not_known_stays_an_item_error(code: str) -> None:
    row = {"id": "a", "status": "error", "error": {"code": code, "message": "new trouble"}}
    error = Label.from_dict(row).error
    assert type(error) is ItemError and str(error) == "new trouble"


def test_records_cannot_be_changed() -> None:
    item = Item("1", text="a cap")
    with pytest.raises(dataclasses.FrozenInstanceError):
        item.text = "a hat"  # type: ignore[misc]
    assert item.metadata == {} and item.image is None


# Labels


@given(labels_and_votes())
def test_rows_agree_with_the_arrays(labels: Labels) -> None:
    names = labels.votes.class_names
    assert [row.id for row in labels] == list(labels.ids)
    for i, row in enumerate(labels):
        if i in labels.errors:
            assert row.status == "error" and row.error is labels.errors[i] and row.probs == {}
            continue
        assert list(row.probs) == list(names)
        assert row.confidence == max(row.probs.values()) == pytest.approx(float(labels.probs[i].max()))
        assert (row.status == "abstained") == (row.label is None) == (labels.label[i] == ABSTAIN)
        assert [reason.vote is None for reason in row.reasons] == (
            labels.votes.classes[i] == ABSTAIN
        ).tolist()
        assert all(
            (reason.score is None) == np.isnan(s)
            for reason, s in zip(row.reasons, labels.votes.scores[i], strict=True)
        )


@given(labels_and_votes())
def test_prior_and_reasons_add_up_to_the_log_odds(labels: Labels) -> None:
    for row in labels:
        if row.error is None:
            assert row.runner_up is not None and row.prior is not None and row.confidence is not None
            log_odds = math.log(row.confidence / row.probs[row.runner_up])
            assert row.prior + sum(reason.moved for reason in row.reasons) == pytest.approx(
                log_odds, abs=1e-4
            )


@given(labels_and_votes())
def test_labels_are_a_sequence(labels: Labels) -> None:
    rows = [row.to_dict() for row in labels]
    assert len(labels) == len(rows)
    assert [row.to_dict() for row in labels[::-1]] == rows[::-1]
    assert [labels[i - len(rows)].to_dict() for i in range(len(rows))] == rows
    for beyond in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError, match=f"row {beyond} of {len(rows)} labels"):
            labels[beyond]
