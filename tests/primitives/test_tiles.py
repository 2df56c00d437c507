"""Cutting images into tiles and putting the boxes together again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from manyeyes.primitives.tiles import MAX_TILES, Tiling, TilingField, cut_by, fitted_size, merge, windows

SIZES = st.integers(1, 6_000)


@settings(deadline=None, max_examples=200)
@given(SIZES, SIZES, st.integers(160, 2_000), st.floats(0, 0.5))
def test_tiles_cover_the_image_and_overlap(width: int, height: int, size: int, overlap: float) -> None:
    tiles = windows(width, height, Tiling(size=size, overlap=overlap))
    if max(width, height) <= size:
        assert tiles == []
        return
    for axis, length in ((0, width), (1, height)):
        spans = sorted({(tile[axis], tile[axis + 2]) for tile in tiles})
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(stop - start == min(size, length) for start, stop in spans)
        for (_, stop), (start, _) in pairwise(spans):
            assert stop - start >= overlap * size - 1.5  # whole pixels
    assert len(set(tiles)) == len(tiles)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30_000), st.integers(1, 30_000))
def test_an_image_costs_no_more_than_so_many_tiles(width: int, height: int) -> None:
    tiling = Tiling(size=640)
    fitted = fitted_size(width, height, tiling)
    assert len(windows(*fitted, tiling)) <= MAX_TILES
    if len(windows(width, height, tiling)) <= MAX_TILES:
        assert fitted == (width, height)


def test_a_box_at_an_inner_edge_is_cut_and_one_at_the_border_is_not() -> None:
    boxes = np.array([[0, 0, 50, 50], [580, 10, 640, 60], [100, 100, 200, 200], [10, 400, 30, 480]], float)
    assert cut_by(boxes, (0, 0, 640, 480), (1000, 480)).tolist() == [False, True, False, False]
    assert cut_by(boxes, (0, 0, 640, 480), (640, 480)).tolist() == [False] * 4


def kept(
    boxes: list[list[float]], scores: list[float], cut: list[bool], labels: list[int] | None = None
) -> list[int]:
    names = np.array(labels or [0] * len(boxes), dtype=np.int64)
    return merge(np.array(boxes, float), names, np.array(scores), np.array(cut), iou=0.5).tolist()


def test_merging() -> None:
    twice = [[0, 0, 10, 10], [0, 0, 10, 11]]
    assert kept(twice, [0.4, 0.9], [False, False]) == [1]
    assert kept(twice, [0.4, 0.9], [False, True]) == [0]  # the whole one, though it is less sure
    assert kept(twice, [0.4, 0.9], [False, False], labels=[0, 1]) == [0, 1]
    crowd_and_one = [[0, 0, 100, 50], [10, 10, 20, 40]]
    assert kept(crowd_and_one, [0.9, 0.5], [False, False]) == [0, 1]  # whole, so it is an object of its own
    assert kept(crowd_and_one, [0.9, 0.5], [False, True]) == [0]  # cut, so it is a part of the other
    apart = [[0, 0, 10, 10], [50, 50, 60, 60]]
    assert kept(apart, [0.9, 0.5], [True, True]) == [0, 1]
    assert (
        merge(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool), iou=0.5).tolist() == []
    )


def test_a_number_is_a_size() -> None:
    read = TypeAdapter(TilingField).validate_python
    assert read(640) == read({"size": 640}) == Tiling(size=640)
    for wrong in (True, 10, 10_000, {"size": 640, "overlap": 0.9}, {"overlap": 0.1}, "640px"):
        with pytest.raises(ValidationError):
            read(wrong)
