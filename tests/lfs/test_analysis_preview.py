"""Previews of a change, against doing it: votes made anew, evidence added up anew, and label models fitted anew."""

from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from manyeyes.errors import InvalidRequest, InvalidVotes, ItemError
from manyeyes.lfs import analysis_preview
from manyeyes.lfs.analysis import summarize
from manyeyes.lfs.analysis_blocks import evidence_table
from manyeyes.lfs.analysis_change import EXAMPLES, Change
from manyeyes.lfs.analysis_preview import Preview
from manyeyes.lfs.base import VoteColumn
from manyeyes.models.majority import MajorityVote
from manyeyes.models.pooled import OneCoin
from manyeyes.types import ABSTAIN, Votes, no_scores

Array = np.ndarray[Any, Any]
K = 3
SETS = ((0, 1), (1, 2))


class Additive:
    """A label model whose LFs add fixed evidence to every class of their votes; it counts how often it is asked."""

    def __init__(self, weights: Any, log_prior: Any) -> None:
        self.weights = np.asarray(weights, dtype=np.float32)
        self.log_prior = np.asarray(log_prior, dtype=np.float32)
        self.asked: set[int] = set()

    def log_posterior(self, votes: Votes) -> Array:
        each = [self._evidence(votes, lf) for lf in range(votes.n_lfs)]
        return self.log_prior + sum(each, np.zeros((votes.n_items, len(self.log_prior)), dtype=np.float32))

    def evidence_of(self, votes: Votes, lf: int) -> Array:
        self.asked.add(lf)
        return self._evidence(votes, lf)

    def _evidence(self, votes: Votes, lf: int) -> Array:
        table = np.zeros(
            (votes.n_values + 1, votes.n_classes), dtype=np.float32
        )  # the last row is for ABSTAIN
        table[: votes.n_classes] = np.eye(votes.n_classes)
        for row, members in enumerate(votes.sets, start=votes.n_classes):
            table[row, list(members)] = 1
        return np.asarray(table[votes.classes[:, lf]] * self.weights[lf])


def test_the_example_in_the_docstring_runs() -> None:
    done = doctest.testmod(analysis_preview)
    assert done.attempted
    assert not done.failed


def hard(classes: Any) -> VoteColumn:
    array = np.asarray(classes, dtype=np.int8)
    return VoteColumn(array, no_scores(array.shape))


def labels_of(model: Any, votes: Votes) -> Array:
    logits = np.asarray(model.log_posterior(votes), dtype=np.float64)
    label = (logits >= logits.max(axis=1, keepdims=True) - 1e-4).argmax(axis=1)
    return np.where((votes.classes == ABSTAIN).all(axis=1), ABSTAIN, label)


def check_against(change: Change, before: Votes, after: Votes, was: Array, now: Array) -> None:
    """Everything that can be counted from votes and labels before and after."""
    for shares, votes in ((change.before, before), (change.after, after)):
        whole = summarize(votes)
        assert (shares.coverage, shares.overlaps, shares.conflicts) == pytest.approx(
            (whole.coverage, whole.overlaps, whole.conflicts)
        )
    for shares_of_lf, votes in ((change.lf_before, before), (change.lf_after, after)):
        if shares_of_lf is not None:
            (lf,) = [lf for lf in summarize(votes).lfs if lf.name == change.lf]
            assert (shares_of_lf.coverage, shares_of_lf.overlaps, shares_of_lf.conflicts) == pytest.approx(
                (lf.coverage, lf.overlaps, lf.conflicts)
            )
    names = (*before.class_names, None)
    pairs = [(names[a], names[b]) for a, b in zip(was.tolist(), now.tolist(), strict=True) if a != b]
    assert {(flip.before, flip.after): flip.items for flip in change.flips} == {
        pair: pairs.count(pair) for pair in pairs
    }
    assert [flip.items for flip in change.flips] == sorted(
        (flip.items for flip in change.flips), reverse=True
    )
    flipped = np.flatnonzero((was != now) & (was != ABSTAIN) & (now != ABSTAIN))
    assert change.n_flips == len(flipped)
    assert len(change.examples) == min(EXAMPLES, len(flipped))
    assert set(change.examples) <= set(flipped.tolist())
    silent = [(votes.classes == ABSTAIN).all(axis=1) for votes in (before, after)]
    covered, uncovered = np.flatnonzero(silent[0] & ~silent[1]), np.flatnonzero(~silent[0] & silent[1])
    assert (change.newly_covered, change.uncovered) == (len(covered), len(uncovered))
    assert change.covered_examples == tuple(covered[:EXAMPLES].tolist())
    assert change.uncovered_examples == tuple(uncovered[:EXAMPLES].tolist())


matrices = st.tuples(st.integers(0, 12), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(-1, K - 1 + len(SETS)))
)


@settings(deadline=None)
@given(matrices, st.booleans(), st.data())
def test_dropping_is_the_same_as_never_having_had_it(matrix: Array, sets: bool, data: st.DataObject) -> None:
    n, m = matrix.shape
    names = tuple(f"lf_{j}" for j in range(m))
    classes = matrix if sets else np.minimum(matrix, K - 1).astype(np.int8)
    votes = Votes(classes, no_scores((n, m)), ("a", "b", "c"), names, sets=SETS if sets else ())
    # Weights that add up to no tie by chance, so that a label hangs on nothing but the votes.
    weights = data.draw(st.permutations([0.51, 1.03, 2.17, 0.79, 1.61]))[:m]
    lf = data.draw(st.integers(0, m - 1))
    model = Additive(weights, [0.0, 0.013, 0.029])
    rest = [j for j in range(m) if j != lf]
    after = votes.columns(rest)
    smaller = Additive(model.weights[rest], model.log_prior)
    change = Preview(votes, model).drop(lf)
    check_against(change, votes, after, labels_of(model, votes), labels_of(smaller, after))
    assert (change.kind, change.lf, change.lf_after, change.estimated_after) == (
        "drop",
        names[lf],
        None,
        None,
    )
    assert model.asked <= {lf}  # the evidence of one LF, not of all


def noisy(seed: int, n_items: int = 20_000, n_classes: int = 4) -> tuple[Votes, Array]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n_items)
    accuracies = rng.uniform(0.6, 0.9, 6)
    wrong = (truth[:, None] + rng.integers(1, n_classes, (n_items, 6))) % n_classes
    matrix = np.where(rng.random((n_items, 6)) < accuracies, truth[:, None], wrong)
    matrix[rng.random(matrix.shape) < 0.5] = ABSTAIN
    return Votes.hard(matrix, n_classes=n_classes), truth


def replaced(votes: Votes, lf: int, column: Array) -> Votes:
    classes = votes.classes.copy()
    classes[:, lf] = column
    return replace(votes, classes=classes)


@pytest.mark.parametrize("model", [OneCoin(), MajorityVote()], ids=lambda model: model.name)
def test_an_edit_that_changes_nothing_changes_nothing(model: Any) -> None:
    votes, _ = noisy(0)
    change = Preview(votes, model.fit(votes)).edit("lf_2", hard(votes.classes[:, 2]))
    assert (change.n_flips, change.flips, change.examples, change.newly_covered) == (0, (), (), 0)
    assert change.before == change.after
    assert change.lf_before == change.lf_after
    assert change.estimated_before == change.estimated_after is not None


def test_an_estimate_is_close_to_the_truth_before_and_after() -> None:
    votes, truth = noisy(1)
    rng = np.random.default_rng(1)
    preview = Preview(votes, OneCoin().fit(votes))
    worse = np.where(rng.random(len(truth)) < 0.5, votes.classes[:, 0], rng.integers(0, 4, len(truth)))
    change = preview.edit(0, hard(worse))
    for estimate, column in ((change.estimated_before, votes.classes[:, 0]), (change.estimated_after, worse)):
        voted = column != ABSTAIN
        assert estimate == pytest.approx((column[voted] == truth[voted]).mean(), abs=0.03)
    assert change.estimated_after is not None
    assert change.estimated_before is not None
    assert change.estimated_after < change.estimated_before - 0.1


@pytest.mark.parametrize("kind", ["drop", "add", "edit"])
def test_labels_are_those_of_a_label_model_that_is_fitted_anew(kind: str) -> None:
    votes, truth = noisy(2)
    rng = np.random.default_rng(2)
    model = OneCoin().fit(votes)
    preview = Preview(votes, model)
    column = np.where(rng.random(len(truth)) < 0.85, truth, rng.integers(0, 4, len(truth)))
    column[rng.random(len(truth)) < 0.4] = ABSTAIN
    if kind == "drop":
        change, after = preview.drop("lf_3"), votes.columns([0, 1, 2, 4, 5])
    elif kind == "add":
        change = preview.add(hard(column), name="more")
        after = replace(
            votes,
            classes=np.column_stack([votes.classes, column.astype(np.int8)]),
            scores=no_scores((len(truth), 7)),
            lf_names=(*votes.lf_names, "more"),
        )
    else:
        change, after = preview.edit("lf_3", hard(column)), replaced(votes, 3, column.astype(np.int8))
    was, now = labels_of(model, votes), labels_of(OneCoin().fit(after), after)
    real = int(((was != now) & (was != ABSTAIN) & (now != ABSTAIN)).sum())
    assert real > 300
    assert change.n_flips == pytest.approx(real, rel=0.1)
    top = change.flips[0]
    names = (*votes.class_names, None)
    assert top.items == pytest.approx(
        sum(names[a] == top.before and names[b] == top.after for a, b in zip(was, now, strict=True)), rel=0.15
    )
    right = [now[row] != was[row] for row in change.examples]
    assert sum(right) >= 18
    assert change.newly_covered == int(((was == ABSTAIN) & (now != ABSTAIN)).sum())
    assert change.uncovered == int(((was != ABSTAIN) & (now == ABSTAIN)).sum())


def test_examples_begin_where_probabilities_move_furthest() -> None:
    # How probable a is before and after: 0.62 and 0.05, 0.82 and 0.12, 0.92 and 0.27; the last row stays a.
    votes = Votes.hard([[1, 1, 1, 0], [1, 1, -1, 0], [1, -1, -1, 0], [0, 0, 0, 0]], n_classes=2)
    change = Preview(votes, Additive([1.0, 1.0, 1.0, 3.5], [0.0, 0.0])).drop("lf_3")
    assert change.examples == (1, 2, 0)
    assert [(flip.before, flip.after, flip.items) for flip in change.flips] == [("class_0", "class_1", 3)]


def test_a_vote_weighs_what_others_say_of_it_and_never_less_than_nothing() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 4000)
    columns = [np.where(rng.random(4000) < 0.9, truth, 1 - truth) for _ in range(4)]
    votes = Votes.hard(np.stack(columns, axis=1), n_classes=2)
    preview = Preview(votes, OneCoin().fit(votes))
    inverted = preview.add(hard(1 - truth))
    assert inverted.estimated_after is not None
    assert inverted.estimated_after < 0.05
    assert inverted.n_flips == 0  # silenced, not reversed
    assert preview.add(hard(truth)).n_flips > 0


def test_scores_tell_which_new_votes_weigh_more() -> None:
    rng = np.random.default_rng(0)
    n = 6000
    truth = rng.integers(0, 2, n)
    base = np.stack(
        [np.where(rng.random(n) < a, truth, 1 - truth) for a in (0.6, 0.65, 0.7, 0.7, 0.75)], axis=1
    )
    score = rng.choice([0.55, 0.97], n).astype(np.float32)
    column = np.where(rng.random(n) < score, truth, 1 - truth).astype(np.int8)
    votes = Votes.hard(base, n_classes=2)
    change = Preview(votes, OneCoin().fit(votes)).add(VoteColumn(column, score))
    assert change.estimated_after == pytest.approx((column == truth).mean(), abs=0.03)
    hard_change = Preview(votes, OneCoin().fit(votes)).add(hard(column))
    assert hard_change.estimated_after == pytest.approx((column == truth).mean(), abs=0.03)
    # As sure as it is at 0.97, it outvotes a majority of four to one; at 0.55 it breaks no majority but the barest.
    assert np.all(score[list(change.examples)] > 0.9)
    assert not np.all(score[list(hard_change.examples)] > 0.9)


def test_a_lower_threshold_keeps_what_the_label_model_makes_of_the_old_votes() -> None:
    rng = np.random.default_rng(0)
    n = 6000
    truth = rng.integers(0, 2, n)
    base = np.stack(
        [np.where(rng.random(n) < a, truth, 1 - truth) for a in (0.6, 0.65, 0.7, 0.7, 0.75)], axis=1
    )
    score = rng.uniform(0.5, 1.0, n).astype(np.float32)
    said = np.where(rng.random(n) < score, truth, 1 - truth)
    strict, lax = (np.where(score >= t, said, ABSTAIN).astype(np.int8) for t in (0.8, 0.6))
    scores = np.full((n, 6), np.nan, dtype=np.float32)
    scores[:, 5] = np.where(strict == ABSTAIN, np.nan, score)
    classes = np.column_stack([base, strict]).astype(np.int8)
    votes = Votes(classes, scores, ("a", "b"), tuple(f"lf_{j}" for j in range(6)))
    model = OneCoin().fit(votes)
    change = Preview(votes, model).edit(5, VoteColumn(lax, np.where(lax == ABSTAIN, np.nan, score)))
    after_scores = scores.copy()
    after_scores[:, 5] = np.where(lax == ABSTAIN, np.nan, score)
    after = replace(votes, classes=np.column_stack([base, lax]).astype(np.int8), scores=after_scores)
    was, now = labels_of(model, votes), labels_of(OneCoin().fit(after), after)
    # New votes are weighed along a line through the old ones, which were all surer: right in kind, not to the item.
    assert change.n_flips == pytest.approx(int((was != now).sum()), rel=0.4)
    assert int((was != now).sum()) > 150


def test_rows_with_errors_are_left_out() -> None:
    votes = Votes.hard([[0, 1], [0, -1], [1, 1], [-1, -1]], n_classes=2)
    model = Additive([2.0, 1.0], [0.0, 0.0])
    broken = Preview(votes, model, errors=[0]).drop("lf_0")
    assert (broken.n_items, broken.before.coverage, broken.before.conflicts) == (3, pytest.approx(2 / 3), 0.0)
    assert (broken.n_flips, broken.uncovered, broken.uncovered_examples) == (0, 1, (1,))
    assert Preview(votes, model).drop("lf_0").n_flips == 1
    column = replace_errors(hard([1, 1, 1, 1]), {3: ItemError("no such file")})
    assert Preview(votes, model, errors=[0]).edit("lf_1", column).newly_covered == 0
    assert Preview(votes, model, errors=[0]).edit("lf_1", hard([1, 1, 1, 1])).newly_covered == 1


def test_the_votes_themselves_stay_as_they_are() -> None:
    votes = Votes.hard([[0], [1], [1]], n_classes=2)
    kept = votes.classes.copy()
    Preview(votes, Additive([1.0], [0.0, 0.0]), errors=[0]).edit(0, hard([1, 1, 1]))
    assert np.array_equal(votes.classes, kept)


class Crowd(Additive):
    """An LF counts for half where every LF votes: its evidence hangs on more than its own vote."""

    def _evidence(self, votes: Votes, lf: int) -> Array:
        halved = np.where((votes.classes != ABSTAIN).all(axis=1), 0.5, 1.0)
        return np.asarray(super()._evidence(votes, lf) * halved[:, None], dtype=np.float32)


def test_evidence_that_hangs_on_other_votes_is_asked_for_item_by_item() -> None:
    rng = np.random.default_rng(0)
    votes = Votes.hard(rng.integers(-1, 3, (5000, 3)), n_classes=3)
    weights = np.array([1.03, 0.51, 0.79])
    crowd, plain = Crowd(weights, [0.0, 0.013, 0.029]), Additive(weights, [0.0, 0.013, 0.029])
    assert evidence_table(crowd, votes, 0) is None
    table = evidence_table(plain, votes, 0)
    assert table is not None
    assert table.tolist() == [
        [*(np.eye(3, dtype=np.float32)[v] * np.float32(1.03)).tolist()] for v in range(3)
    ] + [[0.0] * 3]
    # What is left without the LF is the evidence of the others as it was, halved where all three voted.
    rest = crowd.log_posterior(votes) - crowd._evidence(votes, 0)
    near = rest >= rest.max(axis=1, keepdims=True) - 1e-4
    now = np.where((votes.classes[:, 1:] == ABSTAIN).all(axis=1), ABSTAIN, near.argmax(axis=1))
    was = labels_of(crowd, votes)
    check_against(Preview(votes, crowd).drop(0), votes, votes.columns([1, 2]), was, now)
    assert np.count_nonzero(was != now) > 100


def test_a_new_column_may_name_sets_that_the_votes_do_not() -> None:
    votes = Votes.hard([[0], [0], [1]] * 30, n_classes=3)
    model = Additive([0.05], [0.0, 0.0, 0.0])
    change = Preview(votes, model, more_sets=[(1, 2)]).add(hard([3, ABSTAIN, 3] * 30))
    assert [(flip.before, flip.after, flip.items) for flip in change.flips] == [("class_0", "class_1", 30)]
    with pytest.raises(InvalidVotes, match="below 3"):
        Preview(votes, model).add(hard([3, ABSTAIN, 3] * 30))


def replace_errors(column: VoteColumn, errors: dict[int, ItemError]) -> VoteColumn:
    return VoteColumn(column.classes, column.scores, errors)


def test_labels_below_a_threshold_are_none() -> None:
    votes = Votes.hard([[0, 0], [0, -1], [1, 1]], n_classes=2)
    model = Additive([1.0, 1.0], [0.0, 0.0])
    change = Preview(votes, model, abstain_below=0.8).drop("lf_1")
    assert [(flip.before, flip.after) for flip in change.flips] == [("class_0", None), ("class_1", None)]
    assert (change.n_flips, change.uncovered) == (0, 0)


def test_a_new_column_that_says_what_is_said_already_is_named() -> None:
    votes, _ = noisy(0, n_items=500)
    change = Preview(votes, OneCoin().fit(votes)).add(hard(votes.classes[:, 4]), name="again")
    assert change.twin == ("lf_4", 1.0)
    assert change.lf == "again"
    edited = Preview(votes, OneCoin().fit(votes)).edit("lf_4", hard(votes.classes[:, 4])).twin
    assert edited is not None
    assert edited[0] != "lf_4"


def test_a_column_without_votes_is_as_good_as_none() -> None:
    votes, _ = noisy(0, n_items=500)
    preview = Preview(votes, OneCoin().fit(votes))
    silent, dropped = preview.edit(1, hard([ABSTAIN] * 500)), preview.drop(1)
    assert silent.flips == dropped.flips
    assert silent.after == dropped.after
    assert silent.lf_after is not None
    assert silent.lf_after.coverage == 0.0
    assert silent.estimated_after is None
    assert preview.add(hard([ABSTAIN] * 500)).flips == ()


def test_a_vote_for_a_set_can_be_added() -> None:
    votes = Votes(
        np.array([[0], [0], [1]] * 30, dtype=np.int8), no_scores((90, 1)), ("a", "b", "c"), ("x",), sets=SETS
    )
    change = Preview(votes, Additive([0.05], [0.0, 0.0, 0.0])).add(hard([4, 3, 4] * 30))
    assert [(flip.before, flip.after, flip.items) for flip in change.flips] == [("a", "b", 30)]
    assert change.after.conflicts == pytest.approx(1 / 3)


def test_what_does_not_fit_is_refused() -> None:
    votes = Votes.hard([[0, 1], [1, 1]], n_classes=2)
    preview = Preview(votes, Additive([1.0, 1.0], [0.0, 0.0]))
    with pytest.raises(InvalidRequest, match="no LF 'lf_9'; LFs: lf_0, lf_1"):
        preview.drop("lf_9")
    with pytest.raises(InvalidRequest, match="no LF 2"):
        preview.drop(2)
    with pytest.raises(InvalidVotes, match=r"shape \(2,\), one an item, got \(3,\)"):
        preview.add(hard([0, 1, 0]))
    with pytest.raises(InvalidVotes, match="values from 0 to 2"):
        preview.edit(0, hard([0, 2]))
    with pytest.raises(InvalidVotes, match="signed integers"):
        preview.add(VoteColumn(np.array([0.0, 1.0]), no_scores((2,))))
    with pytest.raises(InvalidRequest, match="rows 0 to 1"):
        Preview(votes, Additive([1.0, 1.0], [0.0, 0.0]), errors=[5])
