"""Splits: groups stay whole, fractions hold, and neither the order nor a few more rows turn everything over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.service.jobs.sinks.splits import split_key, split_rows

EIGHTY = (0.8, 0.1, 0.1)


def keys_of(n: int, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([split_key(seed, f"row {i}") for i in range(n)], dtype=np.int64)


def shares(split: np.ndarray[tuple[int], np.dtype[np.int8]], n: int = 3) -> list[float]:
    return (np.bincount(split, minlength=n) / len(split)).tolist()


def test_rows_alone_are_split_exactly_in_all_and_in_each_class() -> None:
    n = 1000
    strata = np.random.default_rng(0).integers(0, 7, n)
    split = split_rows(np.arange(n), strata, keys_of(n), EIGHTY)
    assert np.bincount(split).tolist() == [800, 100, 100]
    for c in range(7):
        own = split[strata == c]
        assert np.abs(np.bincount(own, minlength=3) - np.array(EIGHTY) * len(own)).max() <= 2


def test_classes_of_one_row_add_up_to_the_fractions_too() -> None:
    split = split_rows(np.arange(1000), np.arange(1000), keys_of(1000), EIGHTY)
    assert shares(split) == pytest.approx(EIGHTY, abs=0.003)


def test_groups_go_to_every_split_and_the_fractions_hold() -> None:
    rng = np.random.default_rng(1)
    groups = np.sort(rng.integers(0, 4_000, 10_000))
    strata = groups % 10
    split = split_rows(groups, strata, keys_of(10_000), EIGHTY)
    assert all(len(set(split[groups == group].tolist())) == 1 for group in np.unique(groups)[:500])
    assert shares(split) == pytest.approx(EIGHTY, abs=0.001)
    several = np.bincount(groups, minlength=4_000)[groups] > 1
    assert shares(split[several]) == pytest.approx(EIGHTY, abs=0.02)  # copies are not all in one split
    for c in range(10):
        assert shares(split[strata == c]) == pytest.approx(EIGHTY, abs=0.01)


def test_a_group_that_is_larger_than_a_split_goes_where_there_is_room() -> None:
    groups = np.array([0] * 30 + list(range(30, 100)))
    for seed in range(20):
        split = split_rows(groups, np.zeros(100, np.int64), keys_of(100, seed), EIGHTY)
        assert set(split[:30].tolist()) == {0}
        assert np.bincount(split).tolist() == [80, 10, 10]


def test_one_more_row_in_a_hundred_moves_hardly_any() -> None:
    keys = keys_of(10_100)
    before = split_rows(np.arange(10_000), np.zeros(10_000, np.int64), keys[:10_000], EIGHTY)
    after = split_rows(np.arange(10_100), np.zeros(10_100, np.int64), keys, EIGHTY)
    assert (before != after[:10_000]).mean() < 0.01


def test_the_order_of_rows_does_not_matter_but_the_seed_does() -> None:
    n, rng = 500, np.random.default_rng(2)
    keys, strata = keys_of(n), rng.integers(0, 3, n)
    groups = rng.integers(0, 300, n)
    split = split_rows(groups, strata, keys, EIGHTY)
    order = rng.permutation(n)
    assert (split_rows(groups[order], strata[order], keys[order], EIGHTY) == split[order]).all()
    assert (split_rows(groups, strata, keys_of(n, seed=1), EIGHTY) != split).any()


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 30), min_size=1, max_size=120),
    n_classes=st.integers(1, 6),
    fractions=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 5),
)
def test_no_group_is_divided_and_no_split_is_far_off(
    groups: list[int], n_classes: int, fractions: list[int], seed: int
) -> None:
    told = np.array(groups, dtype=np.int64)
    n = len(told)
    strata = np.random.default_rng(seed).integers(0, n_classes, n)
    wanted = np.array(fractions) / sum(fractions)
    split = split_rows(told, strata, keys_of(n, seed), wanted.tolist())
    assert all(len(set(split[told == group].tolist())) == 1 for group in groups)
    assert ((split >= 0) & (split < len(wanted))).all()
    largest = int(np.bincount(told).max())
    assert np.abs(np.bincount(split, minlength=len(wanted)) - wanted * n).max() <= n_classes * (largest + 1)
