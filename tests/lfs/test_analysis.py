"""The summary of a label matrix, against one that can be counted by hand and a loop over any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from manyeyes.errors import InvalidRequest
from manyeyes.lfs.analysis import summarize
from manyeyes.types import ABSTAIN, Votes


def test_by_hand() -> None:
    classes = np.array([[0, 0, -1], [0, 1, -1], [-1, -1, -1], [2, -1, 2]], dtype=np.int8)
    scores = np.full(classes.shape, np.nan, dtype=np.float32)
    scores[[0, 1], 0] = 0.5, 1.0
    votes = Votes(classes, scores, ("a", "b", "c"), ("x", "y", "z"))
    summary = summarize(votes, gold=np.array([0, 1, 0, -1]))
    assert (summary.n_items, summary.coverage, summary.overlaps, summary.conflicts) == (4, 0.75, 0.75, 0.25)
    x, y, z = summary.lfs
    assert (x.polarity, x.votes, x.coverage, x.overlaps, x.conflicts) == (("a", "c"), 3, 0.75, 0.75, 0.25)
    assert (x.mean_score, x.correct, x.incorrect, x.accuracy) == (0.75, 1, 1, 0.5)
    assert (y.polarity, y.coverage, y.conflicts, y.accuracy, y.mean_score) == (
        ("a", "b"),
        0.5,
        0.25,
        1.0,
        None,
    )
    assert (z.polarity, z.correct, z.incorrect, z.accuracy) == (("c",), None, None, None)


def test_rows_with_errors_are_not_counted() -> None:
    votes = Votes.hard([[0], [-1], [-1]], n_classes=2)
    assert summarize(votes, errors={2}).coverage == 0.5


def test_nothing_at_all() -> None:
    empty = summarize(Votes.hard(np.empty((0, 2)), n_classes=2))
    assert (empty.n_items, empty.coverage) == (0, 0.0)
    assert [lf.coverage for lf in empty.lfs] == [0.0, 0.0]
    assert summarize(Votes.hard(np.empty((3, 0)), n_classes=2)).lfs == ()


def test_gold_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"shape \(2,\), got \(3,\)"):
        summarize(Votes.hard([[0], [1]]), gold=np.array([0, 1, 0]))


matrices = st.tuples(st.integers(0, 6), st.integers(0, 4)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(-1, 2))
)


@settings(deadline=None)
@given(matrices, st.data())
def test_any_matrix_agrees_with_a_loop(matrix: np.ndarray[Any, Any], data: st.DataObject) -> None:
    n, m = matrix.shape
    gold = data.draw(arrays(np.int8, n, elements=st.integers(-1, 2)))
    summary = summarize(Votes.hard(matrix, n_classes=3), gold=gold)
    rows = matrix.tolist()
    for j, lf in enumerate(summary.lfs):
        own = [row for row in rows if row[j] != ABSTAIN]
        others = [[v for k, v in enumerate(row) if k != j and v != ABSTAIN] for row in own]
        assert lf.votes == len(own)
        assert lf.overlaps == pytest.approx(sum(map(bool, others)) / n if n else 0)
        clashes = sum(any(v != row[j] for v in rest) for row, rest in zip(own, others, strict=True))
        assert lf.conflicts == pytest.approx(clashes / n if n else 0)
        judged = [
            row[j] == g
            for row, g in zip(rows, gold.tolist(), strict=True)
            if row[j] != ABSTAIN and g != ABSTAIN
        ]
        assert lf.accuracy == (pytest.approx(sum(judged) / len(judged)) if judged else None)
    disagree = sum(len({v for v in row if v != ABSTAIN}) > 1 for row in rows)
    assert summary.conflicts == pytest.approx(disagree / n if n else 0)
    assert summary.n_items == n and len(summary.lfs) == m
