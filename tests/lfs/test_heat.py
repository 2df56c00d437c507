"""Heat maps by hand, and boxes around what is hot against scipy's components."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from manyeyes.lfs.heat import finer, heat_maps, hot_boxes, peaks

DOG, CAT, WALL = np.eye(3)


def test_heat_is_the_probability_of_the_prompt_among_the_background() -> None:
    cells = np.array([[[DOG, WALL], [CAT, (DOG + WALL) / np.sqrt(2)]]])
    heat = heat_maps(cells, DOG[None], np.array([WALL]), scale=np.log(3))
    assert heat[0] == pytest.approx(np.array([[0.75, 0.25], [0.5, 0.5]]))
    # Wordings of one thing are averaged, and their length says nothing.
    assert heat_maps(cells, np.array([DOG, DOG]) * 5, np.array([WALL]), scale=np.log(3)) == pytest.approx(
        heat
    )
    assert heat_maps(cells, DOG[None], np.zeros((0, 3)), scale=9.0) == pytest.approx(1.0)


def test_company_changes_no_bit() -> None:
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(9, 7, 7, 16)).astype(np.float16)
    prompts, background = rng.normal(size=(2, 16)), rng.normal(size=(5, 16))
    together = finer(heat_maps(cells, prompts, background, scale=3.0))
    alone = np.concatenate([finer(heat_maps(one[None], prompts, background, scale=3.0)) for one in cells])
    assert together == pytest.approx(alone, abs=1e-12)
    for i, box in zip(*(lambda b: (b.items, b.corners))(hot_boxes(together, least=0.2)), strict=True):
        assert box.tolist() in hot_boxes(alone[i][None], least=0.2).corners.tolist()


def test_peaks_are_in_the_middle_of_points() -> None:
    heat = np.zeros((2, 2, 4))
    heat[0, 1, 3] = heat[1, 0, 0] = 1
    assert peaks(heat).tolist() == [[0.875, 0.75], [0.125, 0.25]]


@settings(deadline=None)
@given(arrays.arrays(np.float64, (2, 3, 5), elements=st.floats(0, 1)), st.integers(1, 5))
def test_finer_maps_stay_between_the_cells(heat: np.ndarray, times: int) -> None:  # type: ignore[type-arg]
    fine = finer(heat, times)
    assert fine.shape == (2, 3 * times, 5 * times)
    assert fine.min() >= heat.min() - 1e-12 and fine.max() <= heat.max() + 1e-12
    if times == 1:
        assert fine == pytest.approx(heat)
    assert finer(heat[:, :1, :1], times) == pytest.approx(np.broadcast_to(heat[:, :1, :1], (2, times, times)))


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(np.float64, (3, 8, 8), elements=st.sampled_from([0.0, 0.3, 0.7, 1.0])), st.floats(0.05, 1)
)
def test_boxes_are_those_of_connected_regions(heat: np.ndarray, share: float) -> None:  # type: ignore[type-arg]
    least = 0.5
    found = hot_boxes(heat, least=least, share=share)
    assert (np.diff(found.items) >= 0).all()
    for i, one in enumerate(heat):
        expected = []
        if one.max() >= least:
            labels, _ = ndimage.label(one >= share * one.max())
            for j, (rows, columns) in enumerate(ndimage.find_objects(labels)):
                score = one[labels == j + 1].max()
                if score >= least:
                    corners = (columns.start / 8, rows.start / 8, columns.stop / 8, rows.stop / 8)
                    expected.append((float(score), corners))
        mine = found.items == i
        assert (np.diff(found.scores[mine]) <= 0).all()
        got = [
            (float(s), tuple(c.tolist()))
            for s, c in zip(found.scores[mine], found.corners[mine], strict=True)
        ]
        assert sorted(got) == sorted(expected)
    assert len(hot_boxes(np.zeros((0, 8, 8)), least=0.5).items) == 0
