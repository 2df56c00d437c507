"""What calibration finds in similarities that were made up so that one knows what it should find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from manyeyes.errors import InvalidRequest
from manyeyes.lfs.prompt_calibration import fit_calibration, two_heaps

NAMES = ("a", "b", "c", "d")
SCALE = 20.0


def world(
    n: int,
    *,
    seed: int = 0,
    shares: tuple[float, ...] = (0.25,) * 4,
    generic: float = 0.0,
    strangers: int = 0,
) -> tuple[Any, Any, Any]:
    """Similarities of items of four classes and of strangers; ``generic`` is added to the first class always."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(4, size=n, p=shares)
    logits = rng.normal(0, 1, size=(n, 4))
    logits[np.arange(n), gold] += 3.0
    background = rng.normal(1.0, 0.7, size=n)
    logits = np.concatenate([logits, rng.normal(-2, 1, size=(strangers, 4))])
    background = np.concatenate([background, rng.normal(5.0, 0.7, size=strangers)])
    logits[:, 0] += generic
    return logits, background, np.concatenate([gold, np.full(strangers, -1)])


def calibrated(found: Any, logits: Any) -> Any:
    return logits * np.array(list(found.gain.values())) + np.array(list(found.bias.values()))


def accuracy(logits: Any, gold: Any) -> float:
    known = gold >= 0
    return float((logits[known].argmax(axis=1) == gold[known]).mean())


def test_a_prompt_that_fits_everything_is_discounted() -> None:
    logits, background, gold = world(2_000, generic=1.5)
    found = fit_calibration(logits, background, names=NAMES, scale=SCALE)
    assert found.bias["a"] < min(found.bias[name] for name in "bcd") - 0.5
    assert accuracy(calibrated(found, logits), gold) > accuracy(logits, gold) + 0.04


def test_a_frequent_class_is_not_taken_for_a_generic_prompt() -> None:
    logits, background, gold = world(2_000, shares=(0.85, 0.05, 0.05, 0.05))
    found = fit_calibration(logits, background, names=NAMES, scale=SCALE)
    assert accuracy(calibrated(found, logits), gold) > accuracy(logits, gold) - 0.01


def test_it_is_the_same_for_shuffled_items() -> None:
    logits, background, gold = world(500, generic=1.0, strangers=400)
    gold[50:] = -1
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(logits))
        for known in (None, gold):
            there = fit_calibration(
                logits[order],
                background[order],
                names=NAMES,
                scale=SCALE,
                gold=None if known is None else known[order],
            )
            assert there == fit_calibration(logits, background, names=NAMES, scale=SCALE, gold=known)


def test_the_order_of_classes_changes_nothing() -> None:
    logits, background, _ = world(500, generic=1.0, strangers=400)
    order = [2, 0, 3, 1]
    here = fit_calibration(logits, background, names=NAMES, scale=SCALE)
    there = fit_calibration(logits[:, order], background, names=tuple(NAMES[i] for i in order), scale=SCALE)
    assert {k: pytest.approx(v, abs=2e-4) for k, v in here.bias.items()} == there.bias
    assert {k: pytest.approx(v, abs=2e-4) for k, v in here.gain.items()} == there.gain
    assert here.in_class and there.in_class
    assert here.in_class.bias == pytest.approx(there.in_class.bias, abs=1e-2)


def test_two_heaps_set_the_point_between_the_classes_and_the_rest() -> None:
    # All lie on one side: uncalibrated, every item would pass for one of the classes, or none.
    for shift in (-6.0, 6.0):
        logits, background, gold = world(600, strangers=500)
        background = background + shift
        found = fit_calibration(logits, background, names=NAMES, scale=SCALE)
        assert found.in_class is not None
        moved = calibrated(found, logits)
        odds = np.log(np.exp(moved).sum(axis=1)) - background
        inside = found.in_class.gain * odds + found.in_class.bias > 0
        assert (inside == (gold >= 0)).mean() > 0.97


def test_without_a_gap_nothing_is_moved() -> None:
    logits, background, _ = world(600)
    assert fit_calibration(logits, background, names=NAMES, scale=SCALE).in_class is None
    assert fit_calibration(logits, None, names=NAMES, scale=SCALE).in_class is None


def test_gold_refines_and_a_little_of_it_does_little() -> None:
    logits, background, gold = world(2_000, generic=3.0, seed=1)
    logits = logits * 3.0  # too sure of itself, too
    blind = fit_calibration(logits, background, names=NAMES, scale=SCALE)

    def loss(found: Any) -> float:
        moved = calibrated(found, logits)
        return float((np.log(np.exp(moved).sum(axis=1)) - moved[np.arange(len(gold)), gold]).mean())

    def known(n: int) -> Any:
        return np.where(np.arange(len(gold)) < n, gold, -1)

    few, many = (
        fit_calibration(logits, background, names=NAMES, scale=SCALE, gold=known(n)) for n in (4, 400)
    )
    assert loss(many) < 0.7 * loss(blind)
    assert loss(few) < 1.05 * loss(blind)
    assert accuracy(calibrated(many, logits), gold) > accuracy(calibrated(blind, logits), gold)


def test_one_class_has_nothing_to_be_compared_with() -> None:
    logits, background, _ = world(300, strangers=300)
    found = fit_calibration(logits[:, :1] + 3.0, background, names=("a",), scale=SCALE)
    assert (found.gain, found.bias) == ({"a": 1.0}, {"a": 0.0})


def test_a_few_items_are_too_few() -> None:
    logits, background, _ = world(49)
    with pytest.raises(InvalidRequest, match="50 items or more, got 49"):
        fit_calibration(logits, background, names=NAMES, scale=SCALE)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_items_that_are_all_alike_do_no_harm(value: float) -> None:
    logits = np.full((60, 4), value)
    found = fit_calibration(logits, np.full(60, value), names=NAMES, scale=SCALE)
    assert np.isfinite(calibrated(found, logits)).all() and found.in_class is None


def test_heaps_are_found_where_they_are() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(-3, 1, 900), rng.normal(5, 1, 100)])
    heaps = two_heaps(values, low=values.min(), high=values.max())
    assert (heaps.low, heaps.high) == (pytest.approx(-3, abs=0.2), pytest.approx(5, abs=0.3))
    assert (heaps.sd, heaps.share) == (pytest.approx(1, abs=0.1), pytest.approx(0.1, abs=0.02))
