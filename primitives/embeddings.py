"""Rows of embeddings: one column, float32, of length 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.base import Rows


def dtype_of(dim: int) -> np.dtype[Any]:
    """Return the dtype of a row that holds one embedding."""
    return np.dtype([("embedding", "<f4", (dim,))])


def rows_of(vectors: Sequence[npt.NDArray[np.float32]]) -> list[Rows]:
    """Return one array of one row for each vector, L2-normalised one by one, so that no vector depends on another.

    vectors: float32, shape (dim,) each. Raises ValueError if one has no direction: zero, infinite or NaN.

    >>> rows_of([np.array([3, 4], dtype=np.float32)])[0]["embedding"].round(2).tolist()
    [[0.6, 0.8]]
    """
    rows = []
    for vector in vectors:
        length = float(np.sqrt(np.square(vector, dtype=np.float64).sum()))
        if not np.isfinite(length) or length == 0:
            raise ValueError(f"the model answered with a vector of length {length}, which has no direction")
        row = np.zeros(1, dtype=dtype_of(len(vector)))
        row["embedding"] = vector / length
        rows.append(row)
    return rows
