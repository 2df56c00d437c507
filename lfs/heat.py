"""From the cells of a ``clip.map`` to where a prompt is seen: heat maps, and boxes around what is hot.

Everything is computed for many images at once; no Python loop runs over items.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]

BACKGROUND: Final = (
    "a photo of an empty room", "a blank wall", "a blurry background", "an abstract texture", "sky", "grass", "water",
    "a road", "the ground", "trees", "a floor", "a table",
)  # fmt: skip
"""What fills images beside the things that are looked for."""
SHARPNESS: Final = 0.4
"""The softmax over cells takes this much of the model's logit scale: the cells are less sure than whole images are."""
SHARE: Final = 0.3
"""A point belongs to what is seen if its heat is at least this share of the hottest one's."""
FINER: Final = 4
"""Heat maps are read at so many points to a cell, along each axis, where boxes are drawn."""


class HotBoxes(NamedTuple):
    """Boxes around hot regions, of many images.

    items: int64, shape (n_boxes,), ascending; the index of the image. corners: float64, shape (n_boxes, 4), x0, y0, x1,
    y1 as fractions of the image. scores: float64, shape (n_boxes,), the heat of the hottest point.
    """

    items: npt.NDArray[np.int64]
    corners: Floats
    scores: Floats


def heat_maps(
    cells: npt.NDArray[Any], prompts: npt.NDArray[Any], background: npt.NDArray[Any], *, scale: float
) -> Floats:
    """Return how surely each cell of some images shows a prompt rather than the background: 0 to 1.

    cells: shape (n_items, rows, columns, dim). prompts: shape (n_wordings, dim), wordings of one thing, whose mean is
    looked for. background: shape (n_background, dim). scale: of the similarities in the softmax.
    Returns float64, shape (n_items, rows, columns).
    """
    wanted = np.asarray(prompts, dtype=np.float64).mean(axis=0)
    wanted /= max(float(np.linalg.norm(wanted)), 1e-12)
    against = np.concatenate([wanted[None], np.asarray(background, dtype=np.float64)])
    # In float64, so that the same item gets the same heat in every chunk.
    logits = np.asarray(cells, dtype=np.float64) @ against.T * scale
    logits -= logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(logits)
    return np.asarray(exponentials[..., 0] / exponentials.sum(axis=-1))


def finer(heat: Floats, times: int = FINER) -> Floats:
    """Return heat maps at more points, bilinear between the centres of cells: (n, rows · times, columns · times).

    >>> finer(np.array([[[0.0, 1.0]]]), 2).round(2).tolist()
    [[[0.0, 0.25, 0.75, 1.0], [0.0, 0.25, 0.75, 1.0]]]
    """
    for axis in (1, 2):
        n = heat.shape[axis]
        at = np.clip((np.arange(n * times) + 0.5) / times - 0.5, 0, n - 1)
        low = np.minimum(at.astype(np.int64), max(n - 2, 0))
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        high = np.minimum(low + 1, n - 1)
        heat = heat.take(low, axis) * (1 - part) + heat.take(high, axis) * part
    return heat


def peaks(heat: Floats) -> Floats:
    """Return the hottest point of each map: float64, shape (n_items, 2), x and y as fractions of the image."""
    n, rows, columns = heat.shape
    best = heat.reshape(n, -1).argmax(axis=1)
    return np.stack([(best % columns + 0.5) / columns, (best // columns + 0.5) / rows], axis=1)


def hot_boxes(heat: Floats, *, least: float, share: float = SHARE) -> HotBoxes:
    """Return boxes around the connected regions of each map that are hot, the hottest of an image first.

    heat: float64, shape (n_items, rows, columns). least: a region's hottest point has at least this heat.
    share: how hot a point must be to belong to a region, relative to the hottest of the image.

    >>> boxes = hot_boxes(np.array([[[0.9, 0.1, 0.8], [0.9, 0.1, 0.1]]]), least=0.5)
    >>> boxes.corners.round(2).tolist(), boxes.scores.tolist()
    ([[0.0, 0.0, 0.33, 1.0], [0.67, 0.0, 1.0, 0.5]], [0.9, 0.8])
    """
    rows, columns = heat.shape[1:]
    top = heat.max(axis=(1, 2), keepdims=True, initial=0.0)
    mask = (heat >= share * top) & (top >= least)
    labels = _components(mask)
    item, row, column = np.nonzero(mask)
    region = labels[mask]
    if not len(region):
        return HotBoxes(np.zeros(0, dtype=np.int64), np.zeros((0, 4)), np.zeros(0))
    by_region = np.argsort(region, kind="stable")
    starts = np.flatnonzero(np.diff(region[by_region], prepend=-1))
    item, row, column, hot = (values[by_region] for values in (item, row, column, heat[mask]))
    low = [np.minimum.reduceat(values, starts) for values in (column, row)]
    high = [np.maximum.reduceat(values, starts) + 1 for values in (column, row)]
    scores, items = np.maximum.reduceat(hot, starts), item[starts]
    kept = scores >= least
    corners = np.stack([*low, *high], axis=1) / (columns, rows, columns, rows)
    order = np.lexsort((*corners.T, -scores, items))
    order = order[kept[order]]
    return HotBoxes(items[order], corners[order], scores[order])


def _components(mask: Masks) -> npt.NDArray[np.int32]:
    """Return for each point the largest index of the region of four-neighbours that it lies in; −1 outside of all."""
    labels = np.where(mask, np.arange(mask.size, dtype=np.int32).reshape(mask.shape), np.int32(-1))
    while True:
        spread = labels.copy()
        for axis in (1, 2):
            # A running maximum in both directions reaches along whole rows at once, but not across a gap.
            for reverse in (False, True):
                spread = _along(spread, mask, axis, reverse=reverse)
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def _along(labels: npt.NDArray[np.int32], mask: Masks, axis: int, *, reverse: bool) -> npt.NDArray[np.int32]:
    labels, inside = np.moveaxis(labels, axis, 0).copy(), np.moveaxis(mask, axis, 0)
    steps = range(len(labels) - 2, -1, -1) if reverse else range(1, len(labels))
    for i in steps:
        before = labels[i + 1] if reverse else labels[i - 1]
        labels[i] = np.where(inside[i], np.maximum(labels[i], before), -1)
    return np.moveaxis(labels, 0, axis)
