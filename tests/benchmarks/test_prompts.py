"""The ruler that prompts are measured with."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from benchmarks.prompts import auroc, shrunk, spread_out
from manyeyes import Item


def test_auroc_is_how_often_the_right_one_scores_higher() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 9, 40) + 2.0, rng.integers(0, 9, 60) * 1.0
    pairs = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    assert np.isclose(auroc(inside, outside), pairs)
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5


def test_photos_are_spread_out_and_shrunk() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 90), (9, 99, 199)).save(buffer, "JPEG")
    items = [Item(str(i), image=buffer.getvalue()) for i in range(10)]
    assert [item.id for item in spread_out(items, 4)] == ["0", "2", "5", "7"]
    assert len(spread_out(items, 99)) == 10
    (small,) = shrunk(items[:1])
    assert isinstance(small.image, bytes)
    assert Image.open(io.BytesIO(small.image)).size == (32, 32)
