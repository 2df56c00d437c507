"""What agreement between three LFs tells of their accuracies, and what it cannot tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from manyeyes.models.evidence import ACCURACY_OF_A_HARD_VOTE
from manyeyes.models.majority import MajorityVote
from manyeyes.models.triplet import Triplet
from manyeyes.types import ABSTAIN, Votes

KNOWN = [0.9, 0.8, 0.7, 0.55, 0.4]


def drawn(
    accuracies: list[float],
    k: int,
    *,
    n: int = 8000,
    coverage: float = 1.0,
    balance: list[float] | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return votes, shape (n, n_lfs), and the truth; wrong votes fall on the other classes alike."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(k, n, p=balance)
    right = rng.random((n, len(accuracies))) < accuracies
    votes = np.where(right, truth[:, None], (truth[:, None] + rng.integers(1, k, right.shape)) % k)
    votes[rng.random(votes.shape) >= coverage] = ABSTAIN
    return votes, truth


@pytest.mark.parametrize(("k", "coverage"), [(2, 1.0), (4, 1.0), (4, 0.4), (30, 1.0)])
def test_accuracies_are_found(k: int, coverage: float) -> None:
    known = [max(a, 1 / k) for a in KNOWN]
    votes, _ = drawn(known, k, coverage=coverage)
    found = Triplet().fit(Votes.hard(votes, n_classes=k)).accuracy_
    np.testing.assert_allclose(found, known, atol=0.06)


def test_good_lfs_outvote_many_bad_ones() -> None:
    votes, truth = drawn([0.92, 0.9, 0.45, 0.45, 0.45, 0.45], 4, n=4000)
    matrix = Votes.hard(votes, n_classes=4)

    def accuracy(model: Triplet | MajorityVote) -> float:
        return float((model.fit(matrix).predict_proba(matrix).argmax(axis=1) == truth).mean())

    assert accuracy(Triplet()) > accuracy(MajorityVote()) + 0.05


def test_always_voting_for_the_frequent_class_is_no_skill() -> None:
    votes, _ = drawn([0.9, 0.85, 0.8], 2, balance=[0.9, 0.1])
    rng = np.random.default_rng(1)
    habit = (rng.random((len(votes), 2)) < 0.1).astype(int)  # right 82 times in 100, and knows nothing
    found = Triplet().fit(Votes.hard(np.hstack([votes, habit]), n_classes=2)).accuracy_
    assert (found[3:] < 0.6).all() and (found[:3] > 0.7).all()


def test_worse_than_chance_is_silenced_and_not_reversed() -> None:
    votes, _ = drawn([0.9, 0.85, 0.8, 0.2], 2)
    found = Triplet().fit(Votes.hard(votes, n_classes=2)).accuracy_
    assert 0.5 < found[3] < 0.52


@pytest.mark.parametrize(
    "votes",
    [
        drawn([0.9, 0.8], 2)[0],  # two LFs
        np.where(np.arange(4) == np.arange(400)[:, None] % 4, 1, ABSTAIN),  # that never meet
        np.tile([0, 0, 1, 1], (400, 1)),  # that always say the same
        np.zeros((0, 4), dtype=int),
    ],
    ids=["two", "apart", "unipolar", "no items"],
)
def test_what_no_triplet_tells_is_the_first_guess(votes: np.ndarray) -> None:
    found = Triplet().fit(Votes.hard(votes, n_classes=2)).accuracy_
    np.testing.assert_allclose(found, ACCURACY_OF_A_HARD_VOTE)


def test_copies_neither_vouch_for_each_other_nor_count_twice() -> None:
    votes, _ = drawn([0.9, 0.8, 0.7, 0.6], 3)
    once = Votes.hard(votes, n_classes=3)
    often = Votes.hard(np.hstack([votes, *[votes[:, 3:]] * 9]), n_classes=3)
    alone, crowd = Triplet().fit(once), Triplet().fit(often)
    np.testing.assert_allclose(crowd.accuracy_[:4], alone.accuracy_)
    np.testing.assert_allclose(crowd.predict_proba(often), alone.predict_proba(once), atol=0.02)


def test_scores_do_not_matter() -> None:
    votes, _ = drawn([0.9, 0.8, 0.7], 3, n=500)
    hard = Votes.hard(votes, n_classes=3)
    scored = replace(hard, scores=np.random.default_rng(0).random(votes.shape).astype(np.float32))
    assert Triplet().fit(hard).accuracy_.tobytes() == Triplet().fit(scored).accuracy_.tobytes()


def test_known_labels_set_right_what_agreement_gets_wrong() -> None:
    votes, truth = drawn([0.6, 0.9], 2, n=2000)
    together = np.where(np.random.default_rng(2).random((2000, 3)) < 0.9, votes[:, :1], 1 - votes[:, :1])
    matrix = Votes.hard(np.hstack([together, votes[:, 1:]]), n_classes=2)
    gold = np.where(np.arange(2000) < 500, truth, ABSTAIN)
    fooled, told = Triplet().fit(matrix), Triplet().fit(matrix, gold)
    assert (fooled.accuracy_[:3] > 0.8).all() and (told.accuracy_[:3] < 0.65).all()
    assert told.accuracy_[3] > fooled.accuracy_[3] + 0.1


def test_a_vote_for_several_classes_says_less_than_one_for_one() -> None:
    votes, _ = drawn([0.9, 0.8, 0.7], 4, n=1000)
    partial = replace(Votes.hard(votes, n_classes=4), sets=((0, 1), (1, 2, 3)))
    model = Triplet().fit(partial)
    asked = replace(
        partial,
        classes=np.array([[0, -1, -1], [4, -1, -1], [5, -1, -1]], dtype=np.int8),
        scores=np.full((3, 3), np.nan, np.float32),
    )
    probs = model.predict_proba(asked)
    assert probs[0, 0] > 0.85
    np.testing.assert_allclose(probs[1], [probs[1, 0]] * 2 + [probs[1, 2]] * 2, rtol=1e-5)
    assert 0.3 < probs[1, 0] < 0.5 and 0.25 < probs[2, 1] < 1 / 3 and probs[2, 0] < 0.25
