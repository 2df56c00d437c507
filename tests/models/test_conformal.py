"""Thresholds keep the precision that they promise, and labels are never asked of a model that has seen them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest

from manyeyes.errors import InvalidVotes
from manyeyes.models.conformal import Threshold, clone, out_of_fold, threshold_for_precision
from manyeyes.models.majority import MajorityVote
from manyeyes.models.pooled import Pooled
from manyeyes.types import ABSTAIN, Votes


def world(rng: np.random.Generator, n: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences, float32, and whether they were right; above 1 they are too modest, below it boastful."""
    confidence = 0.5 + 0.499 * rng.beta(3, 1, n)
    chance = 1 / (1 + ((1 - confidence) / confidence) ** sharpness)
    return confidence.astype(np.float32), rng.random(n) < chance


def precision_of(threshold: Threshold, confidence: np.ndarray, correct: np.ndarray) -> float:
    kept = confidence >= float(threshold)
    return float(correct[kept].mean()) if kept.any() else math.nan


class TestThreshold:
    def test_a_guarantee_holds_as_often_as_it_says(self) -> None:
        broken, given = 0, 0
        later = world(np.random.default_rng(99), 100_000)
        for seed in range(300):
            threshold = threshold_for_precision(*world(np.random.default_rng(seed), 300), 0.9)
            if threshold.guaranteed:
                given += 1
                broken += precision_of(threshold, *later) < 0.9
        assert given > 200
        assert broken <= 0.1 * 300 + 3 * math.sqrt(300 * 0.1 * 0.9)

    def test_a_guarantee_is_not_claimed_where_labels_are_too_few_for_one(self) -> None:
        confidence = np.linspace(0.9, 1, 44)
        assert not threshold_for_precision(confidence, np.ones(44, dtype=bool), 0.95).guaranteed
        more = np.linspace(0.9, 1, 45)
        assert threshold_for_precision(more, np.ones(45, dtype=bool), 0.95) == Threshold(0.9, True, 1.0)

    @pytest.mark.parametrize("sharpness", [0.8, 1.0, 2.0])
    def test_fifty_labels_give_the_precision_on_average_and_keep_something(self, sharpness: float) -> None:
        later = world(np.random.default_rng(99), 50_000, sharpness)
        reached, silent = [], 0
        for seed in range(60):
            threshold = threshold_for_precision(*world(np.random.default_rng(seed), 50, sharpness), 0.95)
            silent += math.isinf(threshold.value)
            reached.append(precision_of(threshold, *later))
        assert np.nanmean(reached) > 0.93
        assert silent <= 40

    def test_a_boastful_model_is_held_to_its_labels(self) -> None:
        rng = np.random.default_rng(5)
        confidence = rng.uniform(0.97, 1.0, 50)
        assert math.isinf(threshold_for_precision(confidence, rng.random(50) < 0.6, 0.95).value)

    def test_the_threshold_keeps_exactly_what_it_says_whatever_the_dtype(self) -> None:
        confidence, correct = world(np.random.default_rng(6), 200)
        for dtype in (np.float32, np.float64):
            threshold = threshold_for_precision(confidence.astype(dtype), correct, 0.9)
            assert 0 < threshold.coverage < 1
            assert (confidence.astype(dtype) >= float(threshold)).mean() == threshold.coverage

    def test_ties_are_kept_or_left_together_whatever_their_order(self) -> None:
        rng = np.random.default_rng(7)
        confidence = rng.choice([0.6, 0.8, 0.99], 120)
        correct = rng.random(120) < confidence
        first = threshold_for_precision(confidence, correct, 0.9)
        order = rng.permutation(120)
        assert threshold_for_precision(confidence[order], correct[order], 0.9) == first
        assert first.value in (0.6, 0.8, 0.99)

    def test_a_lower_precision_keeps_no_less(self) -> None:
        confidence, correct = world(np.random.default_rng(8), 50)
        kept = [threshold_for_precision(confidence, correct, p).coverage for p in (0.99, 0.95, 0.9, 0.8, 0.5)]
        assert kept == sorted(kept) and kept[-1] > kept[0]

    def test_no_labels_keep_nothing(self) -> None:
        assert threshold_for_precision(np.zeros(0), np.zeros(0, dtype=bool), 0.9) == Threshold(
            math.inf, False, 0
        )
        assert math.isinf(threshold_for_precision(np.ones(30), np.ones(30, dtype=bool), 1.0).value)

    @pytest.mark.parametrize(
        ("confidence", "precision", "match"),
        [
            ([0.5, 0.5], 0.9, "one shape"),
            ([1.5], 0.9, "NaN"),
            ([math.nan], 0.9, "NaN"),
            ([0.5], 1.5, "precision is"),
        ],
    )
    def test_nonsense_is_refused(self, confidence: list[float], precision: float, match: str) -> None:
        with pytest.raises(InvalidVotes, match=match):
            threshold_for_precision(np.array(confidence), np.array([True]), precision)


class Remembering(MajorityVote):
    """Answers with the gold label of an item that it was fitted with, found by the votes on it."""

    seen: ClassVar[list[dict[bytes, int]]] = []
    fitted_items: ClassVar[list[int]] = []

    def _learn(self, votes: Votes, gold: Any, embeddings: Any, shared: Any) -> None:
        self.seen.append(
            {row.tobytes(): int(g) for row, g in zip(votes.classes, gold, strict=True) if g != ABSTAIN}
        )
        self.fitted_items.append(votes.n_items)
        self.known = self.seen[-1]

    def _log_posterior(self, votes: Votes, embeddings: Any) -> Any:
        logits = np.zeros((votes.n_items, votes.n_classes))
        for i, row in enumerate(votes.classes):
            if row.tobytes() in self.known:
                logits[i, self.known[row.tobytes()]] = 50.0
        return logits


class TestOutOfFold:
    def votes(self, n: int) -> Votes:
        digits = (np.arange(n)[:, None] // 3 ** np.arange(9)) % 3
        return Votes.hard(digits, n_classes=3)  # every row is another one

    def test_no_item_is_asked_of_a_model_that_saw_its_label(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Remembering, "seen", [])
        votes = self.votes(100)
        gold = np.full(100, ABSTAIN)
        gold[10:60] = np.arange(50) % 3
        probs = out_of_fold(Remembering(), votes, gold)
        assert probs.dtype == np.float32 and probs.shape == (50, 3)
        np.testing.assert_allclose(probs, 1 / 3, atol=1e-6)
        # Each fit but hid a fifth, of every class alike, and all of them together hid every label once.
        assert [len(known) for known in Remembering.seen] == [40] * 5
        for known in Remembering.seen:
            assert np.ptp(np.bincount(list(known.values()))) <= 2
        assert sum(len(known) for known in Remembering.seen) == 4 * 50

    def test_the_rows_come_in_the_order_of_the_items(self) -> None:
        rng = np.random.default_rng(0)
        truth = rng.integers(0, 3, 400)
        right = rng.random((400, 4)) < 0.85
        votes = Votes.hard(np.where(right, truth[:, None], (truth[:, None] + 1) % 3), n_classes=3)
        gold = np.where(rng.random(400) < 0.2, truth, ABSTAIN)
        model = Pooled()
        probs = out_of_fold(model, votes, gold)
        assert (probs.argmax(axis=1) == gold[gold != ABSTAIN]).mean() > 0.85
        assert not hasattr(model, "log_prior_")
        assert probs.tobytes() == out_of_fold(model, votes, gold).tobytes()

    def test_each_fit_is_of_a_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Remembering, "fitted_items", [])
        monkeypatch.setattr("manyeyes.models.conformal.MAX_UNLABELED", 30)
        gold = np.full(200, ABSTAIN)
        gold[:20] = 1
        out_of_fold(Remembering(), self.votes(200), gold, folds=4)
        assert Remembering.fitted_items == [50] * 4

    @pytest.mark.parametrize("n_gold", [0, 1, 3])
    def test_fewer_labels_than_folds_do(self, n_gold: int) -> None:
        gold = np.full(60, ABSTAIN)
        gold[:n_gold] = 1
        assert out_of_fold(Pooled(), self.votes(60), gold).shape == (n_gold, 3)

    def test_a_clone_has_the_hyperparameters_and_nothing_learned(self) -> None:
        model = Pooled(prior_votes=7.0, confusions=False).fit(self.votes(60))
        again = clone(model)
        assert type(again) is Pooled and again.prior_votes == 7.0 and again.confusions is False
        assert not hasattr(again, "table_")
