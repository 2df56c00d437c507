"""Near-duplicate groups: by embeddings, by perceptual hashes, by both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.primitives import duplicates as module
from manyeyes.primitives.duplicates import duplicate_groups


def unit(rng: np.random.Generator, n: int, dim: int = 32) -> np.ndarray[Any, Any]:
    vectors = rng.normal(size=(n, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_close_embeddings_hang_together_through_each_other() -> None:
    angles = np.radians([0, 10, 20, 90])  # neighbours are close, the ends are not
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert duplicate_groups(vectors, cosine=0.98).tolist() == [0, 0, 0, 3]
    assert duplicate_groups(vectors).tolist() == [0, 1, 2, 3]


def test_hashes_and_embeddings_confirm_each_other() -> None:
    angles = np.radians([0, 20, 60])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    same = np.array([0xF0F0, 0xF0F1, 0xF0F0], dtype=np.uint64)
    assert duplicate_groups(vectors, same).tolist() == [0, 0, 2]
    assert duplicate_groups(vectors, same, hash_bits=0).tolist() == [0, 1, 2]


def test_hashes_alone_leave_plain_surfaces_alone() -> None:
    hashes = np.array([0, 0, 0xABCDEF123, 0xABCDEF122, 2**64 - 1, 2**64 - 1], dtype=np.uint64)
    assert duplicate_groups(None, hashes).tolist() == [0, 1, 2, 2, 4, 5]


def test_items_without_anything_stand_alone() -> None:
    vectors = np.ones((4, 2)) / np.sqrt(2)
    present = np.array([True, False, True, False])
    assert duplicate_groups(vectors, present=present).tolist() == [0, 1, 0, 3]
    assert duplicate_groups(np.empty((0, 4))).tolist() == []
    with pytest.raises(ValueError, match="neither"):
        duplicate_groups(None)


@pytest.mark.parametrize("exact", [True, False])
def test_copies_are_found_among_many(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    if not exact:
        monkeypatch.setattr(module, "_EXACT_UP_TO", 1_000)
    rng = np.random.default_rng(0)
    vectors = unit(rng, 3_000)
    noisy = vectors[:100] + 0.01 * rng.normal(size=(100, 32))
    everything = np.concatenate([vectors, noisy / np.linalg.norm(noisy, axis=1, keepdims=True)])
    groups = duplicate_groups(everything)
    assert groups[3_000:].tolist() == list(range(100))
    assert (groups[:3_000] == np.arange(3_000)).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_groups_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    group = module._united(np.array(pairs, dtype=np.int64).reshape(-1, 2), 20)
    assert all(group[a] == group[b] for a, b in pairs)
    assert (group <= np.arange(20)).all() and (group[group] == group).all()
    reached = {i: {i} for i in range(20)}
    for _ in range(20):
        for a, b in pairs:
            reached[a] |= reached[b]
            reached[b] |= reached[a]
    assert [min(reached[i]) for i in range(20)] == group.tolist()
