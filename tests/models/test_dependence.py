"""Which labeling functions err together: copies, the prior from kappa, what remains given the class, discounts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyeyes.models.dependence import (
    COPIES_FROM,
    agreement,
    copies,
    discounts,
    prior_dependence,
    residual_dependence,
    residual_of_accuracies,
)
from manyeyes.models.observed import observe
from manyeyes.models.pooled import DependencyAware, OneCoin, Pooled
from manyeyes.types import ABSTAIN, Votes

Ints = npt.NDArray[np.int64]


def independent(rng: np.random.Generator, n: int, accuracy: list[float], k: int = 2) -> tuple[Ints, Ints]:
    truth = rng.integers(0, k, n)
    right = rng.random((n, len(accuracy))) < accuracy
    return np.where(right, truth[:, None], (truth[:, None] + rng.integers(1, k, right.shape)) % k), truth


# Copies


@settings(max_examples=150, deadline=None)
@given(
    classes=hnp.arrays(
        np.int8, st.tuples(st.integers(0, 6), st.integers(1, 6)), elements=st.integers(ABSTAIN, 1)
    )
)
def test_the_first_lf_with_the_same_votes_is_found(classes: npt.NDArray[np.int8]) -> None:
    expected = [
        min(i for i in range(classes.shape[1]) if (classes[:, i] == classes[:, j]).all())
        for j in range(classes.shape[1])
    ]
    assert copies(classes, None, ()).tolist() == expected


def test_lfs_known_to_read_different_things_are_copies_only_on_many_votes() -> None:
    for n_votes, first in ((COPIES_FROM - 1, [0, 1]), (COPIES_FROM, [0, 0])):
        classes = np.full((100, 2), ABSTAIN)
        classes[:n_votes] = 1
        assert copies(classes, None, (("a",), ("b",))).tolist() == first
        assert copies(classes, None, (("a", "c"), ("b", "c"))).tolist() == [0, 0]
        assert copies(classes, None, ()).tolist() == [0, 0]


def test_a_copy_is_found_past_a_lookalike_that_reads_something_else() -> None:
    classes = np.tile([[1], [0], [ABSTAIN]], (1, 4))
    assert copies(classes, None, (("a",), ("b",), ("b",), ("a",))).tolist() == [0, 1, 1, 0]


def test_the_same_votes_with_other_scores_are_no_copy() -> None:
    classes = np.array([[0, 0, 0], [1, 1, 1]])
    nan = np.nan
    scores = np.array([[0.5, 0.5, 0.6], [nan, nan, nan]], dtype=np.float32)
    assert copies(classes, scores, ()).tolist() == [0, 0, 2]


# The prior, from agreement alone


def test_agreement_is_what_a_loop_counts() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(ABSTAIN, 3, (300, 4))
    observed = observe(Votes.hard(classes, 3))
    assert len(observed.weight) < 300  # rows repeat, so weights matter
    both, agree, chance = agreement(observed)
    for a in range(4):
        for b in range(4):
            met = (classes[:, a] != ABSTAIN) & (classes[:, b] != ABSTAIN)
            assert both[a, b] == pytest.approx(met.sum())
            assert agree[a, b] == pytest.approx((met & (classes[:, a] == classes[:, b])).sum())
            shares = [np.bincount(classes[:, j] + 1, minlength=4)[1:] for j in (a, b)]
            expected = met.sum() * (shares[0] / shares[0].sum()) @ (shares[1] / shares[1].sum())
            assert chance[a, b] == pytest.approx(expected)


@pytest.mark.parametrize("k", [2, 5])
def test_exact_copies_depend_wholly_and_independent_lfs_do_not(k: int) -> None:
    classes, _ = independent(np.random.default_rng(1), 4_000, [0.8, 0.7, 0.6], k)
    found = prior_dependence(observe(Votes.hard(classes[:, [0, 1, 2, 0]], k)), ())
    assert found[0, 3] > 0.99 and found[3, 0] > 0.99
    rest = found.copy()
    rest[0, 3] = rest[3, 0] = 0.0
    assert rest.max() < 0.01 and (np.diag(found) == 0).all()


def test_few_common_votes_make_little_of_agreement() -> None:
    classes = np.full((2_000, 2), ABSTAIN)
    classes[:1_000, 0] = classes[990:1_990, 1] = np.arange(1_000) % 2  # they meet on ten items and agree
    observed = observe(Votes.hard(classes, 2))
    both, agree, _ = agreement(observed)
    assert both[0, 1] == agree[0, 1] == 10
    assert 0 < prior_dependence(observed, ()).max() < 0.01


def test_lfs_that_only_ever_say_one_thing_do_not_depend_for_that() -> None:
    rng = np.random.default_rng(2)
    classes = np.where(rng.random((2_000, 3)) < 0.5, 1, ABSTAIN)
    assert prior_dependence(observe(Votes.hard(classes, 2)), ()).max() < 1e-6


def test_a_shared_primitive_makes_agreement_more_suspicious() -> None:
    rng = np.random.default_rng(3)
    classes, _ = independent(rng, 4_000, [0.85, 0.85, 0.85])
    observed = observe(Votes.hard(classes, 2))
    apart = prior_dependence(observed, (("a",), ("b",), ("c",)))
    np.testing.assert_array_equal(apart, prior_dependence(observed, ()))
    shared = prior_dependence(observed, (("a",), ("a", "b"), ("c",)))
    # Accuracies of 0.85 give a kappa of 0.49, whose square root it is.
    np.testing.assert_allclose(shared[[0, 1], [1, 0]], 0.7, atol=0.03)
    np.testing.assert_array_equal(shared[2], apart[2])
    # Where votes do not go together, a shared primitive is no sign of anything.
    noise = observe(Votes.hard(rng.integers(0, 2, (4_000, 2)), 2))
    assert prior_dependence(noise, (("a",), ("a",))).max() < 0.2


def test_dependence_weighs_as_much_as_the_other_votes_here() -> None:
    rng = np.random.default_rng(4)
    often = rng.integers(0, 2, 4_000)
    seldom = np.where(np.arange(4_000) < 1_000, often, ABSTAIN)
    found = prior_dependence(observe(Votes.hard(np.stack([often, seldom], axis=1), 2)), ())
    # The one that votes often seldom has company; the other always has.
    assert found[0, 1] == pytest.approx(0.25, abs=0.01) and found[1, 0] == pytest.approx(1.0, abs=0.03)


# What remains given the class


def planted(rng: np.random.Generator, together: float, n: int = 6_000) -> tuple[Ints, Ints]:
    """Five LFs right 3 times in 4, of which the last repeats the fourth's vote with the chance given."""
    classes, truth = independent(rng, n, [0.75] * 5)
    classes[:, 4] = np.where(rng.random(n) < together, classes[:, 3], classes[:, 4])
    return classes, truth


def counts_of(classes: Ints, truth: Ints, k: int = 2) -> npt.NDArray[np.float64]:
    counts = np.zeros((classes.shape[1], k, k))
    for j, column in enumerate(classes.T):
        np.add.at(counts[j], (column, truth), 1.0)
    return counts


@pytest.mark.parametrize("together", [0.3, 0.8])
def test_a_planted_pair_is_found_given_the_class_and_nothing_else_is(together: float) -> None:
    classes, truth = planted(np.random.default_rng(5), together)
    votes = Votes.hard(classes, 2)
    # Rows with known labels are kept one by one, so that the truth can be the posterior.
    observed = observe(votes, truth)
    given_truth = np.eye(2)[observed.gold]
    found = residual_dependence(observed, given_truth, counts_of(classes, truth))
    np.testing.assert_allclose(found[[3, 4], [4, 3]], together, atol=0.06)
    found[[3, 4], [4, 3]] = 0.0
    assert found.max() < 0.1  # beyond three standard errors by chance, if at all
    by_accuracy = residual_of_accuracies(observed, np.full(5, 0.75), 2)
    np.testing.assert_allclose(by_accuracy[[3, 4], [4, 3]], together, atol=0.06)


@pytest.mark.parametrize("kind", [DependencyAware, OneCoin])
def test_agreeing_for_want_of_other_words_is_no_dependence(kind: type[Pooled]) -> None:
    rng = np.random.default_rng(12)
    truth = rng.integers(0, 2, 4_000)
    # Three LFs only ever say 1, two only ever 0, each right 3 times in 4 when it speaks.
    says = np.array([1, 1, 1, 0, 0])
    speaks = rng.random((4_000, 5)) < np.where(truth[:, None] == says, 0.6, 0.2)
    classes = np.where(speaks, says, ABSTAIN)
    votes = Votes.hard(classes, 2)
    np.testing.assert_allclose(kind(dependence=True).fit(votes).discount_, 1.0, atol=0.02)


def test_lfs_that_meet_by_chance_are_not_significant() -> None:
    rng = np.random.default_rng(6)
    false_alarms = 0
    for _ in range(20):
        classes, truth = independent(rng, 500, [0.7] * 4)
        observed = observe(Votes.hard(classes, 2), truth)
        found = residual_dependence(observed, np.eye(2)[observed.gold], counts_of(classes, truth))
        false_alarms += int((found > 0).sum()) // 2
    assert false_alarms <= 2  # of 120 pairs


def test_a_fitted_model_counts_a_dependent_pair_for_less() -> None:
    classes, _ = planted(np.random.default_rng(7), 0.8)
    discount = DependencyAware().fit(Votes.hard(classes, 2)).discount_
    assert discount[:3].min() > 0.85
    np.testing.assert_allclose(discount[3:], 1 / 1.8, atol=0.15)


# Discounts


@pytest.mark.parametrize("n_copies", [1, 2, 5, 30])
def test_copies_together_count_for_about_one_vote(n_copies: int) -> None:
    classes, _ = independent(np.random.default_rng(8), 3_000, [0.8, 0.7])
    copied = classes[:, [0] * n_copies + [1]]
    found = discounts(prior_dependence(observe(Votes.hard(copied, 2)), ()))
    assert found[:n_copies].sum() == pytest.approx(1.0, abs=0.02)
    assert found[n_copies] == pytest.approx(1.0, abs=0.02)


@settings(max_examples=50, deadline=None)
@given(dependence=hnp.arrays(np.float64, (4, 4), elements=st.floats(0, 1)))
def test_discounts_are_shares_and_fall_with_dependence(dependence: npt.NDArray[np.float64]) -> None:
    found = discounts(dependence)
    assert ((found > 0) & (found <= 1)).all()
    assert (discounts(dependence + 0.1) < found).all()
    assert (discounts(np.zeros((4, 4))) == 1).all()
