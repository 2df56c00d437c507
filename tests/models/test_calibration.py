"""Calibration errors are told right, and a few known labels mend them without harm where nothing is amiss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.errors import InvalidVotes, NotFitted
from manyeyes.models.calibration import Calibrator, brier, expected_calibration_error, log_loss
from manyeyes.models.evidence import softmax
from manyeyes.types import ABSTAIN


def drawn(rng: np.random.Generator, n: int, k: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return log-posteriors and labels drawn from them: perfectly calibrated."""
    logits = scale * rng.normal(size=(n, k))
    gold = (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, k - 1)
    return logits, gold


class TestMeasures:
    def test_the_calibration_error_is_the_gap_in_each_bin(self) -> None:
        probs = np.array([[0.95, 0.05]] * 10 + [[0.4, 0.6]] * 30)
        gold = np.array([0] * 5 + [1] * 5 + [1] * 27 + [0] * 3)
        expected = (10 * abs(0.5 - 0.95) + 30 * abs(0.9 - 0.6)) / 40
        assert expected_calibration_error(probs, gold) == pytest.approx(expected)
        assert expected_calibration_error(probs, gold, adaptive=True) == pytest.approx(expected)

    def test_bins_of_equal_mass_part_what_equal_width_mixes(self) -> None:
        # Two levels in one of two bins of equal width, whose errors cancel out there.
        probs = np.array([[0.95, 0.05]] * 50 + [[0.85, 0.15]] * 50)
        gold = np.array([0] * 40 + [1] * 10 + [0] * 50)
        assert expected_calibration_error(probs, gold, bins=2) == pytest.approx(0.0, abs=1e-12)
        assert expected_calibration_error(probs, gold, bins=2, adaptive=True) == pytest.approx(0.15)

    def test_items_without_gold_do_not_count(self) -> None:
        probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
        gold = np.array([0, ABSTAIN, 1])
        for measure in (expected_calibration_error, log_loss, brier):
            assert measure(probs, gold) == measure(probs[[0, 2]], gold[[0, 2]])
            assert np.isnan(measure(probs, np.full(3, ABSTAIN)))

    def test_log_loss_and_brier_of_a_known_case(self) -> None:
        probs, gold = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]), np.array([0, 1])
        assert log_loss(probs, gold) == pytest.approx(np.log(2) / 2)
        assert brier(probs, gold) == pytest.approx((0.25 + 0.0625 + 0.0625) / 2)
        assert log_loss(probs, np.array([0, 0])) < 20  # one sure mistake is not an infinite one

    @pytest.mark.parametrize("adaptive", [False, True])
    def test_debiasing_takes_off_noise_and_leaves_error(self, adaptive: bool) -> None:
        plain, mended, real = [], [], []
        for seed in range(30):
            logits, gold = drawn(np.random.default_rng(seed), 300, 3)
            probs = softmax(logits)
            plain.append(expected_calibration_error(probs, gold, adaptive=adaptive))
            mended.append(expected_calibration_error(probs, gold, adaptive=adaptive, debias=True))
            real.append(expected_calibration_error(softmax(4 * logits), gold, adaptive=adaptive, debias=True))
        assert np.mean(mended) < 0.7 * np.mean(plain)
        assert np.mean(real) > 0.1

    def test_gold_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(InvalidVotes, match="must have shape"):
            log_loss(np.ones((2, 2)) / 2, np.zeros(3, dtype=int))
        with pytest.raises(InvalidVotes, match="below 2"):
            brier(np.ones((2, 2)) / 2, np.array([0, 2]))


class TestCalibrator:
    @pytest.mark.parametrize("factor", [0.4, 3.0])
    def test_the_temperatureis_found(self, factor: float) -> None:
        logits, gold = drawn(np.random.default_rng(0), 4000, 4)
        assert Calibrator().fit(factor * logits, gold).temperature == pytest.approx(factor, rel=0.1)

    def test_the_biasis_found(self) -> None:
        logits, gold = drawn(np.random.default_rng(1), 6000, 3)
        off = np.array([1.0, -0.5, -0.5])
        found = Calibrator(classwise=True).fit(logits + off, gold)
        np.testing.assert_allclose(found.bias, -off, atol=0.15)
        assert found.temperature == pytest.approx(1, abs=0.1)

    @pytest.mark.parametrize("classwise", [False, True])
    def test_fifty_labels_help_where_the_model_boasts_and_hardly_harm_where_it_does_not(
        self, classwise: bool
    ) -> None:
        for factor, least in ((3.0, 0.1), (1.0, -0.03)):
            gains = []
            for seed in range(20):
                logits, gold = drawn(np.random.default_rng(seed), 2050, 3)
                logits = factor * logits
                calibrator = Calibrator(classwise=classwise).fit(logits[:50], gold[:50])
                before = log_loss(softmax(logits[50:]), gold[50:])
                gains.append(before - log_loss(softmax(calibrator.transform(logits[50:])), gold[50:]))
            assert np.mean(gains) > least

    def test_the_prior_speaks_where_labels_are_few(self) -> None:
        logits = np.log([[0.9, 0.1]])
        pulled = [
            Calibrator(prior_labels=prior).fit(logits, np.array([1])).temperature for prior in (1, 10, 1000)
        ]
        assert pulled[0] > pulled[1] > pulled[2] == pytest.approx(1, abs=0.02)
        assert Calibrator().fit(logits, np.array([ABSTAIN])).temperature == 1

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 10_000), st.sampled_from([0.01, 1.0, 50.0]))
    def test_a_temperaturechanges_no_label_and_every_fit_is_a_minimum(
        self, n: int, k: int, seed: int, scale: float
    ) -> None:
        rng = np.random.default_rng(seed)
        logits, gold = scale * rng.normal(size=(n, k)), rng.integers(0, k, n)
        calibrated = Calibrator().fit(logits, gold)
        np.testing.assert_array_equal(calibrated.transform(logits).argmax(axis=1), logits.argmax(axis=1))

        def loss(inverse: float) -> float:
            target = softmax(logits) * (10 / n)
            target[np.arange(n), gold] += 1
            return float(-(target * np.log(np.maximum(softmax(inverse * logits), 1e-300))).sum())

        inverse = 1 / calibrated.temperature
        for other in (inverse * 0.97, inverse * 1.03):
            if 0.05 <= other <= 4:
                assert loss(inverse) <= loss(other) + 1e-6 * (1 + abs(loss(other)))

    def test_plain_numbers_bring_it_back(self) -> None:
        logits, gold = drawn(np.random.default_rng(2), 100, 3)
        first = Calibrator(classwise=True).fit(logits, gold)
        again = Calibrator.of(float(first.temperature), np.array(first.bias.tolist()))
        assert again.transform(logits).tobytes() == first.transform(logits).tobytes()

    def test_the_order_of_labels_and_constants_of_items_do_not_matter(self) -> None:
        rng = np.random.default_rng(3)
        logits, gold = drawn(rng, 80, 4)
        order = rng.permutation(80)
        one = Calibrator(classwise=True).fit(logits, gold)
        other = Calibrator(classwise=True).fit(logits[order] + 700.0, gold[order])
        assert other.temperature == pytest.approx(one.temperature, rel=1e-6)
        np.testing.assert_allclose(other.bias, one.bias, atol=1e-6)

    def test_asking_before_fit_and_fitting_on_nonsense_are_refused(self) -> None:
        with pytest.raises(NotFitted, match="fit"):
            Calibrator().transform(np.zeros((1, 2)))
        with pytest.raises(InvalidVotes, match="finite"):
            Calibrator().fit(np.array([[np.nan, 0.0]]), np.array([0]))
