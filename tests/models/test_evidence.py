"""Sums of evidence, looked up jointly and in blocks, against plain loops."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.models import evidence as module
from manyeyes.models.evidence import (
    JointTables,
    block_size,
    blocks,
    in_blocks,
    members,
    score_logits,
    softmax,
)
from manyeyes.types import Votes, no_scores


@settings(max_examples=120, deadline=None)
@given(
    n=st.integers(0, 40),
    k=st.integers(2, 40),
    m=st.integers(0, 14),
    n_sets=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
    wide=st.booleans(),
)
def test_joint_tables_add_what_a_loop_adds(
    n: int, k: int, m: int, n_sets: int, seed: int, wide: bool
) -> None:
    rng = np.random.default_rng(seed)
    tables = rng.normal(size=(2, m, k + n_sets + 1, k))
    columns = rng.integers(-1, k + n_sets, (m, n)).astype(np.int16 if wide else np.int8)
    second = rng.random(n) < 0.5
    start = rng.normal(size=(n, k))
    expected = start.copy()
    for i in range(n):
        for j in range(m):
            expected[i] += tables[int(second[i]), j, columns[j, i] + 1]
    joint = JointTables(tables)
    out = start.copy()
    joint.add_to(out, columns, second)
    np.testing.assert_allclose(out, expected, atol=1e-12 * max(m, 1))
    # Every LF is read once, and no table is larger than allowed unless one LF alone is.
    covered = [j for first, last, _ in joint.groups for j in range(first, last)]
    assert covered == list(range(m))
    for first, last, table in joint.groups:
        assert table.size <= module._TABLE_CELLS or last - first == 1


def test_few_classes_take_few_look_ups_and_many_still_work() -> None:
    assert len(JointTables(np.zeros((2, 20, 3, 2))).groups) == 3
    big = JointTables(np.ones((2, 3, 501, 500)))
    assert len(big.groups) == 3
    out = np.zeros((2, 500))
    big.add_to(out, np.full((3, 2), 499, dtype=np.int16), np.array([False, True]))
    assert (out == 3).all()


@pytest.mark.parametrize("n_cores", [1, 2, 7])
@pytest.mark.parametrize(("n", "size"), [(0, 5), (1, 5), (5, 5), (6, 5), (103, 10)])
def test_blocks_cover_every_row_once(
    n: int, size: int, n_cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cores", lambda: n_cores)
    seen = np.zeros(n, dtype=int)
    threads = set()

    def work(rows: slice) -> None:
        assert 0 < rows.stop - rows.start <= size
        seen[rows] += 1
        threads.add(threading.current_thread())

    in_blocks(n, work, size=size)
    assert (seen == 1).all()
    if n <= size or n_cores == 1:
        assert threads <= {threading.current_thread()}
    assert np.concatenate([np.arange(n)[rows] for rows in blocks(n, size)] or [[]]).tolist() == list(range(n))


@pytest.mark.parametrize("n_cores", [1, 3])
def test_an_error_in_a_block_reaches_the_caller(n_cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: n_cores)

    def work(rows: slice) -> None:
        if rows.start == 70:
            raise LookupError("block at 70")

    with pytest.raises(LookupError, match="block at 70"):
        in_blocks(100, work, size=10)


def test_blocks_hold_about_as_many_numbers_whatever_the_classes() -> None:
    assert block_size(2) == block_size(10) == 32_768
    assert block_size(100) == 3_276
    assert block_size(1_000_000) == 256


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 30), k=st.integers(1, 300), seed=st.integers(0, 999), scale=st.sampled_from([1, 800]))
def test_softmax_is_normalised_monotone_and_the_same_alone_and_in_company(
    n: int, k: int, seed: int, scale: int
) -> None:
    logits = np.random.default_rng(seed).normal(size=(n, k)) * scale
    before = logits.copy()
    probs = softmax(logits)
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-12)
    assert np.isfinite(probs).all() and (probs >= 0).all()
    for i in range(n):
        assert softmax(logits[i : i + 1]).tobytes() == probs[i : i + 1].tobytes()
        assert probs[i].argmax() == logits[i].argmax()
        naive = [np.exp(x - logits[i].max()) for x in logits[i]]
        np.testing.assert_allclose(probs[i], np.array(naive) / sum(naive), atol=1e-12)


def test_softmax_of_nothing_and_of_certainty() -> None:
    assert softmax(np.zeros((0, 3))).shape == (0, 3)
    assert softmax(np.zeros((3, 0))).shape == (3, 0)
    assert softmax(np.array([[0.0, -np.inf]])).tolist() == [[1.0, 0.0]]


def test_members_are_the_classes_that_a_vote_names() -> None:
    classes = np.array([[-1, 0, 1, 2, 3, 4]], dtype=np.int8)
    names = tuple("abcdef")
    votes = Votes(classes, no_scores((1, 6)), ("a", "b", "c"), names, sets=((0, 2), (1,)))
    named = members(votes)
    assert named.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert named[classes[0]].tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 0, 1],
        [0, 1, 0],
    ]


def test_no_score_is_certain_and_none_is_nothing() -> None:
    scores = np.array([[0.0, 0.25, 0.5, 1.0, np.nan]], dtype=np.float32)
    logits: npt.NDArray[np.float64] = score_logits(scores)
    limit = np.log(999)
    np.testing.assert_allclose(logits, [[-limit, -np.log(3), 0.0, limit, 0.0]], atol=1e-6)
    assert logits.dtype == np.float64
