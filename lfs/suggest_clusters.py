"""Presumed labels, where none is known: what the names of the classes say of whole clusters of items."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.suggest_view import Document, View
from manyeyes.types import ABSTAIN

_PER_CLASS: Final = 4
_AGREE: Final = 0.5
_SEED: Final = 20_260_103
_SAMPLE: Final = 20_000


def cluster_labels(view: View, document: Document) -> npt.NDArray[np.int64]:
    """Return what an LF votes on each item, where it says so of most of the item's cluster: int64, (n_items,)."""
    lf = view.lf(document)
    votes = lf.vote(view.features).classes.astype(np.int64)
    block = view.features[lf.reads[0]]
    here = np.flatnonzero(block.present)
    cluster = np.full(len(view), -1)
    cluster[here] = clusters(block["embedding"][here], _PER_CLASS * len(view.classes))
    labels = np.full(len(view), ABSTAIN, dtype=np.int64)
    for place in range(int(cluster.max(initial=-1)) + 1):
        members = np.flatnonzero(cluster == place)
        said = votes[members][votes[members] != ABSTAIN]
        if not len(said):
            continue
        counts = np.bincount(said, minlength=len(view.classes))
        if counts.max() >= _AGREE * len(members):
            agreeing = members[votes[members] == counts.argmax()]
            labels[agreeing] = counts.argmax()
    return labels


def clusters(vectors: npt.NDArray[Any], n_clusters: int) -> npt.NDArray[np.int64]:
    """Return the cluster of each vector: int64, shape (n,). Spherical k-means from a fixed seed."""
    import faiss

    unit = np.ascontiguousarray(vectors, dtype=np.float32)
    n_clusters = max(1, min(n_clusters, len(unit) // 5))
    means = faiss.Kmeans(
        unit.shape[1], n_clusters, niter=15, seed=_SEED, spherical=True, min_points_per_centroid=1
    )
    means.train(unit[:: max(1, len(unit) // _SAMPLE)])
    _, found = means.index.search(unit, 1)
    return np.asarray(found[:, 0], dtype=np.int64)
