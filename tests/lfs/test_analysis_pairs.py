"""Pairs of labeling functions, against counting by hand, contingency tables, and votes made to be dependent or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from manyeyes.errors import InvalidRequest
from manyeyes.lfs.analysis_pairs import Pair, PairsSummary, compare_pairs
from manyeyes.models.pooled import OneCoin
from manyeyes.types import ABSTAIN, Votes, no_scores

Array = np.ndarray[Any, Any]


def noisy(
    rng: np.random.Generator, accuracies: list[float], *, n_items: int, n_classes: int = 4
) -> tuple[Array, Array]:
    """Votes without abstentions, of LFs that err independently, and the truth."""
    truth = rng.integers(0, n_classes, n_items)
    columns = [
        np.where(rng.random(n_items) < a, truth, (truth + rng.integers(1, n_classes, n_items)) % n_classes)
        for a in accuracies
    ]
    return np.stack(columns, axis=1), truth


def thinned(rng: np.random.Generator, matrix: Array, *, n_classes: int = 4, coverage: float = 0.6) -> Votes:
    kept = np.where(rng.random(matrix.shape) < coverage, matrix, ABSTAIN)
    return Votes.hard(kept, n_classes=n_classes)


def one_hot(truth: Array, n_classes: int) -> Array:
    return np.eye(n_classes, dtype=np.float32)[truth]


def found(summary: PairsSummary, first: str, second: str) -> Pair:
    (pair,) = [pair for pair in summary.pairs if (pair.first, pair.second) == (first, second)]
    return pair


def test_counts_by_hand() -> None:
    votes = Votes.hard([[0, 0, -1], [1, 0, 1], [1, -1, 1], [-1, -1, 0], [0, 0, -1]], n_classes=2)
    summary = compare_pairs(votes)
    assert (summary.n_items, summary.given_class, len(summary.pairs)) == (5, False, 3)
    pair = found(summary, "lf_0", "lf_1")
    assert (pair.both, pair.co_coverage, pair.same, pair.agreement) == (3, 0.6, 2, pytest.approx(2 / 3))
    pair = found(summary, "lf_1", "lf_2")
    assert (pair.both, pair.same, pair.agreement) == (1, 0, 0.0)
    assert [(r.name, r.of, r.share) for r in summary.redundancy] == [
        ("lf_0", "lf_1", 0.5),
        ("lf_1", "lf_0", pytest.approx(2 / 3)),
        ("lf_2", "lf_0", pytest.approx(2 / 3)),
    ]
    assert summary.copies == ()
    assert summary.dependent() == ()


def test_lfs_that_never_meet_say_nothing_of_each_other() -> None:
    summary = compare_pairs(Votes.hard([[0, -1], [-1, 1], [-1, -1]], n_classes=2))
    (pair,) = summary.pairs
    assert (pair.both, pair.agreement, pair.expected, pair.dependence, pair.z, pair.together) == (
        0,
        *[None] * 5,
    )
    assert not pair.dependent
    assert [(r.of, r.share) for r in summary.redundancy] == [(None, 0.0)] * 2


def test_without_probabilities_it_is_cohens_kappa() -> None:
    # The example of Fleiss, Cohen & Everitt 1969 (two raters, three categories): kappa 0.492 (unweighted .429) of 200.
    table = np.array([[0.53, 0.05, 0.02], [0.11, 0.14, 0.05], [0.01, 0.06, 0.03]])
    rows = [(u, v) for u in range(3) for v in range(3) for _ in range(round(200 * table[u, v]))]
    (pair,) = compare_pairs(Votes.hard(np.array(rows), n_classes=3)).pairs
    p, q = table.sum(axis=1), table.sum(axis=0)
    expected = float(p @ q)
    kappa = (0.70 - expected) / (1 - expected)
    assert pair.expected == pytest.approx(expected)
    assert pair.dependence == pytest.approx(kappa)
    assert pair.dependence == pytest.approx(0.429, abs=5e-4)
    # Their null variance of kappa, with half an item taken off for continuity.
    null = (expected + expected**2 - float((p * q * (p + q)).sum())) / (200 * (1 - expected) ** 2)
    assert pair.z == pytest.approx((kappa - 0.5 / 200 / (1 - expected)) / null**0.5, rel=1e-6)
    assert pair.together is None


def test_given_the_class_it_is_a_contingency_table_for_each_class() -> None:
    rng = np.random.default_rng(0)
    matrix, truth = noisy(rng, [0.8, 0.7, 0.6], n_items=3000, n_classes=3)
    copied = rng.random(3000) < 0.3
    matrix[copied, 1] = matrix[copied, 0]
    votes = thinned(rng, matrix, n_classes=3)
    summary = compare_pairs(votes, probs=one_hot(truth, 3))
    first, second = votes.classes[:, 0], votes.classes[:, 1]
    both = (first != ABSTAIN) & (second != ABSTAIN)
    agree = mistaken = same_mistake = 0.0
    for y in range(3):
        here = both & (truth == y)
        rates = []
        for column in (first, second):
            right = (column[here] == y).mean()
            wrong = column[(truth == y) & (column != ABSTAIN) & (column != y)]
            spread = np.bincount(wrong, minlength=3) / max(len(wrong), 1)
            rates.append((1 - right) * spread + right * (np.arange(3) == y))
        agree += here.sum() * float(rates[0] @ rates[1])
        mistaken += here.sum() * float(np.delete(rates[0], y) @ np.delete(rates[1], y))
        same_mistake += int((here & (first == second) & (first != y)).sum())
    pair = found(summary, "lf_0", "lf_1")
    assert pair.agreement == pytest.approx((first[both] == second[both]).mean())
    assert pair.expected == pytest.approx(agree / both.sum(), rel=1e-5)
    # Where the truth is known, mistakes in common can be counted, and half the excess is about right.
    assert pair.together == pytest.approx(same_mistake / mistaken, rel=0.1)
    assert summary.given_class


def test_gold_stands_for_certain_probabilities_on_the_items_that_have_it() -> None:
    rng = np.random.default_rng(3)
    matrix, truth = noisy(rng, [0.8, 0.7, 0.6], n_items=2000)
    votes = thinned(rng, matrix)
    certain = compare_pairs(votes, probs=one_hot(truth, 4))
    assert compare_pairs(votes, gold=truth) == certain
    doubtful = np.full((2000, 4), 0.25, dtype=np.float32)
    assert compare_pairs(votes, probs=doubtful, gold=truth) == certain
    assert compare_pairs(votes, probs=doubtful) != certain
    half = np.where(np.arange(2000) < 1000, truth, ABSTAIN)
    part = compare_pairs(votes, gold=half)
    known = compare_pairs(votes.rows(slice(0, 1000)), gold=truth[:1000])
    for pair, alone, whole in zip(part.pairs, known.pairs, certain.pairs, strict=True):
        assert (pair.agreement, pair.expected, pair.z) == (alone.agreement, alone.expected, alone.z)
        assert (pair.both, pair.same) == (whole.both, whole.same)
    assert part.redundancy == certain.redundancy


@pytest.mark.parametrize("seed", range(4))
def test_independent_lfs_are_not_called_dependent_and_dependent_ones_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    accuracies = rng.uniform(0.55, 0.9, 12).tolist()
    matrix, _ = noisy(rng, accuracies, n_items=20_000)
    votes = thinned(rng, matrix)
    independent = compare_pairs(votes, probs=OneCoin().fit(votes).predict_proba(votes))
    z = np.array([pair.z for pair in independent.pairs])
    assert independent.dependent() == ()
    assert abs(z.mean()) < 0.4
    assert 0.6 < z.std() < 1.4  # standard errors mean what they say

    copied = rng.random(20_000) < 0.2
    matrix[copied, 1] = matrix[copied, 0]
    votes = thinned(rng, matrix)
    summary = compare_pairs(votes, probs=OneCoin().fit(votes).predict_proba(votes))
    first = summary.dependent()[0]
    assert (first.first, first.second) == ("lf_0", "lf_1")
    assert first.dependence == pytest.approx(0.2, abs=0.1)
    assert first.together is not None
    assert first.together > 1.5
    assert all(pair.dependence is not None and pair.dependence < 0.05 for pair in summary.pairs[1:])


def test_a_handful_of_items_proves_nothing() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 8)
    few = Votes.hard(np.stack([truth, truth, (truth + 1) % 4, (truth + 1) % 4], axis=1), n_classes=4)
    summary = compare_pairs(few, gold=truth)
    assert all(not pair.dependent for pair in summary.pairs)
    assert found(summary, "lf_2", "lf_3").agreement == 1.0
    assert summary.copies == ()


def test_lfs_for_one_class_agree_by_nature_and_not_by_dependence() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 10_000)
    hits = rng.random((10_000, 2)) < np.where(truth == 0, 0.6, 0.1)[:, None]
    (pair,) = compare_pairs(Votes.hard(np.where(hits, 0, ABSTAIN), n_classes=2), gold=truth).pairs
    assert pair.agreement == 1.0
    assert pair.excess == pytest.approx(0.0, abs=1e-6)
    assert pair.dependence is None
    assert not pair.dependent


def test_sets_of_classes_agree_where_they_have_one_in_common() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 6000)
    # Two LFs that rule out one wrong class at random, independently: value 3 + c is "not c".
    sets = ((1, 2), (0, 2), (0, 1))
    out = [(truth + rng.integers(1, 3, 6000)) % 3 for _ in range(2)]
    wrong = rng.random((6000, 2)) < 0.2
    columns = [np.where(w, truth, o) + 3 for o, w in zip(out, wrong.T, strict=True)]
    columns.append(np.where(rng.random(6000) < 0.8, truth, (truth + 1) % 3))
    matrix = np.stack(columns, axis=1).astype(np.int8)
    votes = Votes(matrix, no_scores(matrix.shape), ("a", "b", "c"), ("x", "y", "z"), sets=sets)
    summary = compare_pairs(votes, gold=truth)
    assert summary.dependent() == ()
    assert found(summary, "x", "y").agreement == 1.0  # any two of these sets meet
    pair = found(summary, "x", "z")
    assert pair.agreement == pytest.approx((matrix[:, 0] - 3 != matrix[:, 2]).mean())
    assert pair.agreement == pytest.approx(pair.expected, abs=0.02)
    assert pair.same == 0
    # Now the third is right exactly where the first is.
    matrix[:, 2] = np.where(wrong[:, 0], (truth + 1) % 3, truth)
    matrix[wrong[:, 0], 0] = truth[wrong[:, 0]] + 3
    found_now = found(compare_pairs(votes, gold=truth), "x", "z")
    assert found_now.agreement == 1.0
    assert found_now.dependent


def test_copies_are_grouped_and_named() -> None:
    rng = np.random.default_rng(0)
    matrix, _ = noisy(rng, [0.8] * 6, n_items=1000)
    matrix[:, 3] = matrix[:, 0]
    matrix[:, 5] = np.where(rng.random(1000) < 0.98, matrix[:, 3], ABSTAIN)
    matrix[:, 4] = np.where(rng.random(1000) < 0.9, matrix[:, 2], ABSTAIN)
    summary = compare_pairs(Votes.hard(matrix, n_classes=4))
    assert summary.copies == (("lf_0", "lf_3", "lf_5"),)
    by_name = {r.name: (r.of, r.share) for r in summary.redundancy}
    assert by_name["lf_0"] == ("lf_3", 1.0)
    assert by_name["lf_4"] == ("lf_2", 1.0)
    assert by_name["lf_2"][0] == "lf_4"
    assert by_name["lf_2"][1] == pytest.approx(0.9, abs=0.03)


def test_rows_with_errors_are_left_out_and_blocks_add_up() -> None:
    rng = np.random.default_rng(0)
    matrix, truth = noisy(rng, [0.8, 0.7, 0.6], n_items=70_001)
    votes = thinned(rng, matrix)
    broken = rng.choice(70_001, 500, replace=False)
    kept = np.delete(np.arange(70_001), broken)
    probs = rng.dirichlet(np.ones(4), 70_001).astype(np.float32)
    left_out = compare_pairs(votes, probs=probs, errors=broken.tolist())
    assert left_out == compare_pairs(votes.rows(kept), probs=probs[kept])
    assert left_out.pairs[0].both == int((votes.classes[kept][:, :2] != ABSTAIN).all(axis=1).sum())
    assert (
        compare_pairs(votes, gold=truth, errors=broken.tolist()).pairs
        == compare_pairs(votes.rows(kept), gold=truth[kept]).pairs
    )


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (5, 1)])
def test_nothing_to_compare(shape: tuple[int, int]) -> None:
    votes = Votes.hard(np.full(shape, ABSTAIN), n_classes=2)
    summary = compare_pairs(votes, probs=np.full((shape[0], 2), 0.5))
    assert len(summary.redundancy) == shape[1]
    assert len(summary.pairs) == shape[1] * max(shape[1] - 1, 0) // 2
    assert summary.dependent() == () == summary.copies


def test_what_does_not_fit_is_refused() -> None:
    votes = Votes.hard([[0, 1], [1, 1]])
    with pytest.raises(InvalidRequest, match=r"shape \(2, 2\), got \(2,\)"):
        compare_pairs(votes, probs=np.ones(2))
    with pytest.raises(InvalidRequest, match=r"shape \(2,\), got \(1,\)"):
        compare_pairs(votes, gold=np.array([0]))
