"""The nearest of some kept vectors, found exactly: the same cosines whatever else is asked for beside.

For as many vectors as fit in memory, such as the examples of a class. Millions are the business of
:mod:`manyeyes.primitives.index`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_FEW: Final = 1_024
"""Up to here, comparing with all of them is quicker than asking faiss first."""
_CANDIDATES: Final = 8
"""Neighbours fetched beyond those needed, so that ties at the edge are settled by exact cosines."""
_SETTLED: Final = 6
"""Decimals of a cosine that count: the last bits of a matrix product depend on how many rows are multiplied at once."""


class Nearest:
    """Vectors of length 1 that are asked for their nearest. vectors: shape (n_kept, dim), n_kept at least 1."""

    def __init__(self, vectors: npt.NDArray[np.floating[Any]]) -> None:
        self.vectors = np.asarray(vectors, dtype=np.float64)
        self._faiss: Any = None
        if len(vectors) > _FEW:
            import faiss

            self._faiss = faiss.IndexFlatIP(self.vectors.shape[1])
            self._faiss.add(np.ascontiguousarray(self.vectors, dtype=np.float32))

    def cosines(self, queries: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.float64]:
        """Return the cosines of the nearest kept vectors, greatest first: float64, shape (n, min(count, n_kept)).

        queries: shape (n, dim), of length 1.
        """
        return self.search(queries, count)[1]

    def search(
        self, queries: npt.NDArray[np.floating[Any]], count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return places and cosines of the nearest kept vectors, nearest first; of equals, the first kept comes first.

        Returns int64 and float64, shape (n, min(count, n_kept)) each.
        """
        count = min(count, len(self.vectors))
        wide = queries.astype(np.float64)
        if self._faiss is None:
            cosine = (wide @ self.vectors.T).round(_SETTLED)
            near = np.broadcast_to(np.arange(len(self.vectors)), cosine.shape)
        else:
            asked = min(count + _CANDIDATES, len(self.vectors))
            _, near = self._faiss.search(np.ascontiguousarray(queries, dtype=np.float32), asked)
            cosine = np.empty(near.shape)
            for place in range(asked):
                cosine[:, place] = np.einsum("ij,ij->i", wide, self.vectors[near[:, place]])
            cosine = cosine.round(_SETTLED)
        order = np.lexsort((near, -cosine))[:, :count]
        found = np.take_along_axis(near, order, axis=1).astype(np.int64)
        return found, np.take_along_axis(cosine, order, axis=1)
