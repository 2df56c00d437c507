"""What label models learn from: different rows once, a bounded sample of too many, a thinned stream."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyeyes.errors import InvalidVotes
from manyeyes.models import observed as module
from manyeyes.models.observed import Observed, observe, sample
from manyeyes.types import ABSTAIN, Votes

K = 3


def scored(classes: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> Votes:
    hard = Votes.hard(classes, K)
    return replace(hard, scores=np.where(classes == ABSTAIN, np.float32(np.nan), scores).astype(np.float32))


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Votes, npt.NDArray[np.int64] | None]:
    """Votes with or without scores, few of each so that rows repeat, and gold labels or none."""
    n, m = draw(st.integers(0, 60)), draw(st.integers(1, 11))
    classes = draw(hnp.arrays(np.int64, (n, m), elements=st.integers(ABSTAIN, K - 1)))
    votes = Votes.hard(classes, K)
    if draw(st.booleans()):
        levels = [np.float32(s) for s in (0.25, 0.5, np.nan)]
        votes = scored(classes, draw(hnp.arrays(np.float32, (n, m), elements=st.sampled_from(levels))))
    gold = draw(st.none() | hnp.arrays(np.int64, n, elements=st.sampled_from([ABSTAIN, ABSTAIN, 0, K - 1])))
    return votes, gold


def keys(votes: Votes) -> list[tuple[bytes, bytes]]:
    """One key a row: what is voted, and how surely."""
    scores = np.nan_to_num(votes.scores, nan=-1.0)
    return [(row.tobytes(), how.tobytes()) for row, how in zip(votes.classes, scores, strict=True)]


def told(observed: Observed) -> list[tuple[tuple[bytes, bytes], int, float]]:
    """All that is learned from, in an order of its own."""
    return sorted(
        zip(keys(observed.votes), observed.gold.tolist(), observed.weight.round(9).tolist(), strict=True)
    )


@settings(max_examples=150, deadline=None)
@given(case=matrices())
def test_each_different_row_appears_once_with_its_count_and_every_gold_row_by_itself(
    case: tuple[Votes, npt.NDArray[np.int64] | None],
) -> None:
    votes, gold = case
    observed = observe(votes, gold)
    known = np.full(votes.n_items, ABSTAIN) if gold is None else gold
    counts = Counter(key for key, label in zip(keys(votes), known, strict=True) if label == ABSTAIN)
    expected = [(key, ABSTAIN, float(count)) for key, count in counts.items()]
    expected += [
        (key, int(label), 1.0) for key, label in zip(keys(votes), known, strict=True) if label != ABSTAIN
    ]
    assert told(observed) == sorted(expected)
    # And `item` says where each row stands.
    assert keys(votes.rows(observed.item)) == keys(observed.votes)
    np.testing.assert_array_equal(known[observed.item], observed.gold)
    np.testing.assert_array_equal(observed.covered, (observed.votes.classes != ABSTAIN).any(axis=1))


@settings(max_examples=150, deadline=None)
@given(case=matrices(), max_rows=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_sample_is_bounded_stands_for_all_and_does_not_hang_on_the_order_of_items(
    case: tuple[Votes, npt.NDArray[np.int64] | None], max_rows: int, seed: int
) -> None:
    votes, gold = case
    observed = observe(votes, gold, max_rows=max_rows)
    n_known = 0 if gold is None else int((gold != ABSTAIN).sum())
    assert len(observed.weight) <= max_rows + n_known
    assert int((observed.gold != ABSTAIN).sum()) == n_known
    assert observed.weight.sum() == pytest.approx(votes.n_items)
    assert (observed.weight > 0).all()
    assert keys(votes.rows(observed.item)) == keys(observed.votes)
    order = np.random.default_rng(seed).permutation(votes.n_items)
    again = observe(votes.rows(order), None if gold is None else gold[order], max_rows=max_rows)
    assert told(again) == told(observed)


def marginals(votes: Votes, weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How often each LF says what, and each pair of LFs agrees."""
    shares = [
        np.bincount(column.astype(int) + 1, weights=weight, minlength=K + 1) / weight.sum()
        for column in votes.classes.T
    ]
    first = votes.classes[:, :1]
    agree = ((votes.classes[:, 1:] == first).T @ weight) / weight.sum()
    return np.concatenate([*shares, agree])


@pytest.mark.parametrize("n_lfs", [9, 17])
@pytest.mark.parametrize("with_scores", [False, True])
def test_a_sample_of_too_many_rows_looks_like_all_of_them(n_lfs: int, with_scores: bool) -> None:
    rng = np.random.default_rng(0)
    n, max_rows = 60_000, 4_000
    shares = rng.dirichlet(np.ones(K + 1), n_lfs)
    classes = np.stack([rng.choice(K + 1, n, p=p) - 1 for p in shares], axis=1)
    classes[: n // 5] = classes[0]  # one row that is seen often
    classes[n // 2 :, 1] = classes[n // 2 :, 0]  # two LFs that go together
    votes = (
        scored(classes, rng.random((n, n_lfs), dtype=np.float32)) if with_scores else Votes.hard(classes, K)
    )
    observed = observe(votes, max_rows=max_rows)
    assert len(observed.weight) == max_rows
    assert observed.weight.sum() == pytest.approx(n)
    # Five standard errors of a share among as many rows.
    everything = marginals(votes, np.ones(n))
    np.testing.assert_allclose(
        marginals(observed.votes, observed.weight), everything, atol=2.5 / max_rows**0.5
    )


def test_a_row_that_is_seen_often_is_not_left_to_chance() -> None:
    rng = np.random.default_rng(1)
    classes = rng.integers(ABSTAIN, K, (20_000, 12))
    classes[rng.permutation(20_000)[:6_000]] = 2
    observed = observe(Votes.hard(classes, K), max_rows=500)
    often = (observed.votes.classes == 2).all(axis=1)
    assert observed.weight[often].tolist() == [6_000.0]
    assert observed.weight.sum() == pytest.approx(20_000)


@settings(max_examples=40, deadline=None)
@given(case=matrices(), limit=st.integers(1, 30))
def test_beyond_the_items_that_are_scanned_weights_still_stand_for_all(
    case: tuple[Votes, npt.NDArray[np.int64] | None], limit: int
) -> None:
    votes, gold = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_SCANNED", limit)
        observed = observe(votes, gold)
    assert observed.weight.sum() == pytest.approx(votes.n_items)
    n_known = 0 if gold is None else int((gold != ABSTAIN).sum())
    assert int((observed.gold != ABSTAIN).sum()) == n_known
    assert len(observed.weight) - n_known <= limit


@settings(max_examples=100, deadline=None)
@given(case=matrices(), max_rows=st.integers(1, 40))
def test_thinned_rows_are_at_most_so_many_and_stand_for_as_many_items(
    case: tuple[Votes, npt.NDArray[np.int64] | None], max_rows: int
) -> None:
    observed = observe(*case)
    thin = observed.thinned(max_rows)
    assert len(thin.weight) == min(max_rows, len(observed.weight))
    assert len(set(thin.item.tolist())) == len(thin.item)
    assert keys(case[0].rows(thin.item)) == keys(thin.votes)
    n_known, n_rest = int((observed.gold != ABSTAIN).sum()), int((observed.gold == ABSTAIN).sum())
    kept = int((thin.gold != ABSTAIN).sum())
    assert kept >= min(n_known, max_rows - max_rows // 2)
    assert len(thin.gold) - kept >= min(n_rest, max_rows // 2)
    if max_rows > 1:
        assert thin.weight.sum() == pytest.approx(observed.weight.sum())
    if kept == n_known:
        assert (thin.weight[thin.gold != ABSTAIN] == 1.0).all()


def test_known_labels_that_fill_the_sample_leave_room_for_the_rest() -> None:
    rng = np.random.default_rng(3)
    votes = Votes.hard(rng.integers(ABSTAIN, K, (5_000, 12)), K)
    gold = np.where(np.arange(5_000) < 1_000, 0, ABSTAIN)
    thin = observe(votes, gold).thinned(400)
    # No row stands for thousands of items, whose labels would then hang on it alone.
    assert thin.weight.max() < 60
    assert thin.weight[thin.gold == ABSTAIN].sum() == pytest.approx(4_000)
    assert thin.weight[thin.gold != ABSTAIN].sum() == pytest.approx(1_000)


def test_thinned_rows_come_from_everywhere() -> None:
    votes = Votes.hard(np.stack(np.unravel_index(np.arange(3**7), (3,) * 7), axis=1), K)
    thin = observe(votes).thinned(100)
    places = np.sort(np.searchsorted(np.sort(observe(votes).item), thin.item))
    assert np.diff(places).max() < 3**7 / 4
    np.testing.assert_allclose(marginals(thin.votes, thin.weight)[1:4], 1 / 3, atol=0.15)


# A stream


def numbered(start: int, stop: int) -> Votes:
    """Votes that spell the number of their item in base 3."""
    return Votes.hard(np.stack([np.arange(start, stop) // 3**j % 3 for j in range(9)], axis=1), K)


def numbers(votes: Votes) -> list[int]:
    return [int(n) for n in votes.classes.astype(np.int64) @ 3 ** np.arange(9)]


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=25), limit=st.integers(1, 120))
def test_a_sample_of_a_stream_is_bounded_and_evenly_spread(sizes: list[int], limit: int) -> None:
    edges = np.cumsum([0, *sizes]).tolist()
    kept = numbers(sample((numbered(a, b) for a, b in pairwise(edges)), limit=limit))
    total = edges[-1]
    assert len(kept) <= limit
    if total <= limit:
        assert kept == list(range(total))
        return
    assert len(kept) >= limit / 2 - 1
    step = kept[1] - kept[0] if len(kept) > 1 else total
    assert kept == list(range(0, step * len(kept), step))
    assert total - kept[-1] <= step
    assert step & (step - 1) == 0 or len(kept) == 1


def test_scores_of_a_stream_stay_with_their_votes() -> None:
    rng = np.random.default_rng(2)
    classes = rng.integers(0, K, (40, 2))
    scores = rng.random((40, 2), dtype=np.float32)
    whole = scored(classes, scores)
    kept = sample((whole.rows(slice(i, i + 7)) for i in range(0, 40, 7)), limit=15)
    np.testing.assert_array_equal(kept.classes, whole.classes[::4])
    np.testing.assert_array_equal(kept.scores, whole.scores[::4])
    assert sample([Votes.hard([[0, 1]]), Votes.hard([[1, 1]])]).is_hard


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(InvalidVotes, match="the stream is empty"):
        sample([])
    assert sample([numbered(0, 0)]).n_items == 0


def test_a_stream_whose_lfs_classes_or_sets_change_is_refused() -> None:
    first = Votes.hard([[0, 1]], K)
    for other in (
        Votes.hard([[0, 1, 1]], K),
        Votes.hard([[0, 1]], K + 1),
        replace(first, lf_names=("lf_0", "another")),
        replace(first, sets=((0, 1),)),
    ):
        with pytest.raises(InvalidVotes, match="same LFs and classes"):
            sample([first, other])


def test_blocks_of_a_stream_are_let_go() -> None:
    alive: list[weakref.ref[npt.NDArray[np.generic]]] = []
    most = 0

    def stream() -> Iterator[Votes]:
        nonlocal most
        for start in range(0, 2_000, 100):
            block = numbered(start, start + 100)
            alive.append(weakref.ref(block.classes))
            yield block
            del block
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))

    assert len(numbers(sample(stream(), limit=500))) == 500
    assert most <= 1  # at most the one just read
