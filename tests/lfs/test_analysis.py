"""The summary of a label matrix, against one that can be counted by hand and a loop over any."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from manyeyes.errors import InvalidRequest
from manyeyes.lfs.analysis import summarize, wilson
from manyeyes.types import ABSTAIN, Votes, no_scores

K = 3
SETS = ((0, 1), (1, 2))


def with_sets(matrix: Any) -> Votes:
    """Votes over three classes, where 3 stands for "a or b", which is "not c", and 4 for "not a"."""
    classes = np.asarray(matrix, dtype=np.int8)
    names = tuple(f"lf_{j}" for j in range(classes.shape[1]))
    return Votes(classes, no_scores(classes.shape), ("a", "b", "c"), names, sets=SETS)


class Additive:
    """A label model whose LFs add fixed evidence to the class they vote for."""

    def __init__(self, weights: Any, n_classes: int) -> None:
        self.weights = np.asarray(weights, dtype=np.float32)
        self.n_classes = n_classes

    def log_posterior(self, votes: Votes) -> np.ndarray[Any, Any]:
        return np.stack([(votes.classes == c) @ self.weights for c in range(self.n_classes)], axis=1)

    def evidence_of(self, votes: Votes, lf: int) -> np.ndarray[Any, Any]:
        column = votes.classes[:, lf, None]
        return np.asarray((column == np.arange(self.n_classes)) * self.weights[lf], dtype=np.float32)


def noisy_votes(
    rng: np.random.Generator,
    accuracies: list[float],
    *,
    n_items: int,
    n_classes: int = 4,
    coverage: float = 0.6,
) -> tuple[Votes, np.ndarray[Any, Any]]:
    """Votes of LFs that err independently, and the truth."""
    truth = rng.integers(0, n_classes, n_items)
    columns = [
        np.where(rng.random(n_items) < a, truth, (truth + rng.integers(1, n_classes, n_items)) % n_classes)
        for a in accuracies
    ]
    matrix = np.stack(columns, axis=1)
    matrix[rng.random(matrix.shape) >= coverage] = ABSTAIN
    return Votes.hard(matrix, n_classes=n_classes), truth


@pytest.mark.parametrize("name", ["analysis", "analysis_blocks", "analysis_pairs"])
def test_the_examples_in_the_docstrings_run(name: str) -> None:
    module = importlib.import_module(f"manyeyes.lfs.{name}")
    done = doctest.testmod(module)
    assert done.attempted
    assert not done.failed


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
    assert [(v.name, v.votes, v.correct, v.incorrect) for v in x.values] == [("a", 2, 1, 1), ("c", 1, 0, 0)]
    assert (y.polarity, y.coverage, y.conflicts, y.accuracy, y.mean_score) == (
        ("a", "b"),
        0.5,
        0.25,
        1.0,
        None,
    )
    assert (z.polarity, z.correct, z.incorrect, z.accuracy, z.accuracy_interval) == (
        ("c",),
        None,
        None,
        None,
        None,
    )
    assert x.estimated_accuracy is None


def test_sets_of_classes_conflict_where_they_have_no_class_in_common() -> None:
    # a or b against not a meet in b; c against a or b do not meet; a against not a neither.
    votes = with_sets([[3, 4, -1], [2, 3, 4], [0, -1, 4], [1, 3, 4], [3, -1, -1]])
    summary = summarize(votes, gold=np.array([1, 2, 0, 0, -1]))
    x, y, z = summary.lfs
    assert summary.conflicts == pytest.approx(2 / 5)
    assert [lf.conflicts for lf in summary.lfs] == [
        pytest.approx(0.4),
        pytest.approx(0.2),
        pytest.approx(0.2),
    ]
    assert x.polarity == ("a", "b", "c", "not c")
    assert z.polarity == ("not a",)
    assert (x.correct, x.incorrect) == (3, 1)  # a or b for b, c for c, a for a; b for a
    assert (y.correct, y.incorrect) == (2, 1)  # not a for b, a or b for c, a or b for a
    assert (z.correct, z.incorrect) == (1, 2)


def test_a_set_that_is_not_all_but_one_is_named_by_its_classes() -> None:
    names = ("a", "b", "c", "d")
    votes = Votes(np.array([[4], [0]], dtype=np.int8), no_scores((2, 1)), names, ("x",), sets=((1, 3),))
    assert summarize(votes).lfs[0].polarity == ("a", "b or d")


def test_an_interval_is_wilsons() -> None:
    # Reference values: statsmodels.stats.proportion.proportion_confint(…, method="wilson").
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 5) == pytest.approx((0.0, 0.4344825), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    summary = summarize(Votes.hard([[0]] * 10, n_classes=2), gold=np.array([0] * 8 + [1] * 2))
    assert summary.lfs[0].accuracy_interval == wilson(8, 10)


def test_without_a_label_model_an_estimate_is_the_mean_probability_of_the_votes() -> None:
    votes = with_sets([[0, -1], [1, 3], [-1, 4], [2, -1]])
    probs = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.0, 0.1, 0.9]], dtype=np.float32)
    first, second = summarize(votes, probs=probs).lfs
    assert first.estimated_accuracy == pytest.approx((0.5 + 0.8 + 0.9) / 3)
    assert second.estimated_accuracy == pytest.approx((0.9 + 0.8) / 2)
    first, second = summarize(votes, probs=probs, errors=[1]).lfs
    assert first.estimated_accuracy == pytest.approx((0.5 + 0.9) / 2)
    assert second.estimated_accuracy == pytest.approx(0.8)


def test_with_a_label_model_an_lf_does_not_vouch_for_itself() -> None:
    votes, truth = noisy_votes(np.random.default_rng(1), [0.9, 0.8, 0.7, 0.75, 0.6, 0.25], n_items=20_000)
    # The model trusts the last LF, which is no better than chance, beyond all measure.
    accuracies = np.array([0.9, 0.8, 0.7, 0.75, 0.6, 0.97])
    model = Additive(np.log(3 * accuracies / (1 - accuracies)), 4)
    posterior = np.exp(model.log_posterior(votes))
    probs = posterior / posterior.sum(axis=1, keepdims=True)
    trusting = summarize(votes, probs=probs).lfs[-1]
    assert trusting.estimated_accuracy is not None
    assert trusting.estimated_accuracy > 0.5
    for fair in (False, True):
        if fair:
            accuracies[-1] = 0.25
            model = Additive(np.log(3 * accuracies / (1 - accuracies)), 4)
        for j, lf in enumerate(summarize(votes, label_model=model).lfs):
            voted = votes.classes[:, j] != ABSTAIN
            right = float((votes.classes[voted, j] == truth[voted]).mean())
            # Trusted too much, the last LF misleads the judgement of the others, but not of itself.
            if fair or j == 5:
                assert lf.estimated_accuracy == pytest.approx(right, abs=0.02)


def test_few_votes_leave_the_estimate_near_the_prior() -> None:
    votes = Votes.hard([[0, 1, 1, 1]] + [[-1, 1, 1, 1]] * 50, n_classes=2)
    lonely = summarize(votes, label_model=Additive([1.0] * 4, 2)).lfs[0]
    assert lonely.estimated_accuracy is not None
    assert 0.6 < lonely.estimated_accuracy < 0.7
    assert (
        summarize(Votes.hard([[0, -1]], n_classes=2), probs=np.ones((1, 2))).lfs[1].estimated_accuracy is None
    )


def test_rows_with_errors_are_not_counted() -> None:
    votes = Votes.hard([[0], [-1], [-1]], n_classes=2)
    assert summarize(votes, errors={2}).coverage == 0.5


def test_nothing_at_all() -> None:
    empty = summarize(Votes.hard(np.empty((0, 2)), n_classes=2))
    assert (empty.n_items, empty.coverage) == (0, 0.0)
    assert [lf.coverage for lf in empty.lfs] == [0.0, 0.0]
    assert summarize(Votes.hard(np.empty((3, 0)), n_classes=2)).lfs == ()
    assert summarize(Votes.hard([[0], [1]]), errors=[0, 1]).n_items == 0


def test_what_does_not_fit_is_refused() -> None:
    votes = Votes.hard([[0], [1]])
    with pytest.raises(InvalidRequest, match=r"shape \(2,\), got \(3,\)"):
        summarize(votes, gold=np.array([0, 1, 0]))
    with pytest.raises(InvalidRequest, match="from 0 to 2"):
        summarize(votes, gold=np.array([0, 2]))
    with pytest.raises(InvalidRequest, match=r"shape \(2, 2\), got \(2, 3\)"):
        summarize(votes, probs=np.ones((2, 3)))
    with pytest.raises(InvalidRequest, match=r"rows 0 to 1, got \[2\]"):
        summarize(votes, errors=[2])


def test_many_blocks_and_many_lfs_add_up() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.integers(-1, K, (40_001, 300)).astype(np.int8)
    matrix[rng.random(matrix.shape) < 0.99] = ABSTAIN
    matrix[7] = 0  # all 300 vote: more than a byte counts
    gold = rng.integers(-1, K, len(matrix))
    scores = np.where(rng.random(matrix.shape) < 0.5, rng.random(matrix.shape), np.nan).astype(np.float32)
    votes = Votes(matrix, scores, ("a", "b", "c"), tuple(f"lf_{j}" for j in range(300)))
    broken = {7, 20_000, 40_000}
    summary = summarize(votes, gold=gold, errors=broken)
    kept = np.delete(matrix, sorted(broken), axis=0)
    known, marks = np.delete(gold, sorted(broken)), np.delete(scores, sorted(broken), axis=0)
    voted = kept != ABSTAIN
    assert summary.coverage == pytest.approx(voted.any(axis=1).mean())
    assert summary.overlaps == pytest.approx((voted.sum(axis=1) > 1).mean())
    for j in (0, 299):
        lf, own = summary.lfs[j], voted[:, j]
        assert lf.votes == own.sum()
        clash = [any(v not in (ABSTAIN, row[j]) for v in row) for row in kept[own].tolist()]
        assert lf.conflicts == pytest.approx(sum(clash) / len(kept))
        judged = own & (known != ABSTAIN)
        assert lf.accuracy == pytest.approx((kept[judged, j] == known[judged]).mean())
        assert lf.mean_score == pytest.approx(np.nanmean(marks[:, j]), rel=1e-5)
    assert summarize(votes).overlaps > summary.overlaps  # the row on which all vote


matrices = st.tuples(st.integers(0, 6), st.integers(0, 4)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(-1, K - 1 + len(SETS)))
)


@settings(deadline=None)
@given(matrices, st.booleans(), st.data())
def test_any_matrix_agrees_with_a_loop(matrix: np.ndarray[Any, Any], sets: bool, data: st.DataObject) -> None:
    votes = with_sets(matrix) if sets else Votes.hard(np.minimum(matrix, K - 1), n_classes=K)
    stands_for = [{0}, {1}, {2}, *map(set, SETS)]
    n, m = matrix.shape
    gold = data.draw(arrays(np.int8, n, elements=st.integers(-1, K - 1)))
    summary = summarize(votes, gold=gold)
    rows = votes.classes.tolist()
    for j, lf in enumerate(summary.lfs):
        own = [row for row in rows if row[j] != ABSTAIN]
        others = [[v for k, v in enumerate(row) if k != j and v != ABSTAIN] for row in own]
        assert lf.votes == len(own) == sum(value.votes for value in lf.values)
        assert lf.overlaps == pytest.approx(sum(map(bool, others)) / n if n else 0)
        clashes = sum(
            any(not stands_for[v] & stands_for[row[j]] for v in rest)
            for row, rest in zip(own, others, strict=True)
        )
        assert lf.conflicts == pytest.approx(clashes / n if n else 0)
        judged = [
            g in stands_for[row[j]]
            for row, g in zip(rows, gold.tolist(), strict=True)
            if row[j] != ABSTAIN and g != ABSTAIN
        ]
        assert lf.accuracy == (pytest.approx(sum(judged) / len(judged)) if judged else None)
    disagree = sum(
        any(
            not stands_for[v] & stands_for[w]
            for i, v in enumerate(row)
            for w in row[i + 1 :]
            if ABSTAIN not in (v, w)
        )
        for row in rows
    )
    assert summary.conflicts == pytest.approx(disagree / n if n else 0)
    assert summary.n_items == n and len(summary.lfs) == m
