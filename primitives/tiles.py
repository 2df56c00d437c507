"""Large images in tiles: where the tiles lie, and how the boxes of all of them become one set.

A detector sees an image reduced to its own size, where what is small is lost. In tiles the image is seen piece by piece
at its full size, and once as a whole, so that what is large is not cut. Source of the scheme: Akyon et al. 2022,
"Slicing aided hyper inference"; merging differs, see `merge`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_TILES: Final = 256
"""An image that would take more is reduced until it does not: an item may not cost without bound."""
_CUT_SHARE: Final = 0.5
"""How much of a cut box must lie in another box of its label to be a part of the same object."""
_EDGE: Final = 0.01
"""How near the edge of a tile a box must end to count as cut, in tile sides."""

Floats: TypeAlias = npt.NDArray[np.float64]
Window: TypeAlias = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""


class Tiling(BaseModel):
    """How an image is cut. size: the side of a tile, in pixels of the image. overlap: of neighbours, in sides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=160, le=4096)
    overlap: float = Field(default=0.2, ge=0.0, le=0.5)


def _spelled_out(value: Any) -> Any:
    return {"size": value} if isinstance(value, int) and not isinstance(value, bool) else value


TilingField = Annotated[Tiling, BeforeValidator(_spelled_out, json_schema_input_type=int | Tiling)]
"""``640``, or ``{size: 640, overlap: 0.2}``."""


def fitted_size(width: int, height: int, tiling: Tiling) -> tuple[int, int]:
    """Return the size at which an image is cut: its own, or smaller where that would take more than MAX_TILES."""
    while len(windows(width, height, tiling)) > MAX_TILES:
        width, height = max(1, round(width * 0.9)), max(1, round(height * 0.9))
    return width, height


def windows(width: int, height: int, tiling: Tiling) -> list[Window]:
    """Return the tiles of an image, row by row; none where one tile would hold all of it.

    They are of equal size, lie inside the image, and neighbours share at least the overlap.

    >>> windows(1000, 600, Tiling(size=640, overlap=0.25))
    [(0, 0, 640, 600), (360, 0, 1000, 600)]
    >>> windows(600, 400, Tiling(size=640))
    []
    """
    if max(width, height) <= tiling.size:
        return []
    across, down = _starts(width, tiling), _starts(height, tiling)
    return [
        (left, top, left + min(tiling.size, width), top + min(tiling.size, height))
        for top in down
        for left in across
    ]


def cut_by(boxes: Floats, window: Window, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Tell which boxes end at an edge of their tile that is no edge of the image: bool, shape (n,).

    boxes: float64, shape (n, 4), in pixels of the image. size: its width and height.
    """
    margin = _EDGE * max(window[2] - window[0], window[3] - window[1])
    inner = np.array([window[0] > 0, window[1] > 0, window[2] < size[0], window[3] < size[1]])
    near = np.abs(boxes - np.array(window, dtype=np.float64)) <= margin
    return np.asarray((near & inner).any(axis=1))


def merge(
    boxes: Floats,
    labels: npt.NDArray[np.int64],
    scores: Floats,
    cut: npt.NDArray[np.bool_],
    *,
    iou: float,
) -> npt.NDArray[np.int64]:
    """Return which of the boxes of all tiles to keep, in the order in which they were given.

    Of two boxes of one label that overlap more than `iou`, the better stays, as within one tile; a whole one is better
    than a cut one, then the higher score counts. A cut box goes too where half of it lies in a better one.

    boxes: float64, shape (n, 4). labels, scores, cut: shape (n,).

    >>> whole, part = [0, 0, 10, 4], [6, 0, 10, 4]
    >>> merge(np.array([part, whole]), np.zeros(2, int), np.array([0.9, 0.5]), np.array([True, False]), iou=0.5)
    array([1])
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    order = np.lexsort((*boxes.T, -scores, cut))
    area = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    alive = np.ones(len(boxes), dtype=np.bool_)
    kept: list[int] = []
    for i in order:
        if not alive[i]:
            continue
        kept.append(int(i))
        sides = np.minimum(boxes[i, 2:], boxes[:, 2:]) - np.maximum(boxes[i, :2], boxes[:, :2])
        shared = np.maximum(sides, 0).prod(axis=1)
        same = labels == labels[i]
        alive &= ~(same & (shared > iou * (area + area[i] - shared)))
        alive &= ~(same & cut & (shared > _CUT_SHARE * area))
    return np.array(sorted(kept), dtype=np.int64)


def _starts(length: int, tiling: Tiling) -> list[int]:
    if length <= tiling.size:
        return [0]
    step = max(1.0, tiling.size * (1 - tiling.overlap))
    n = math.ceil((length - tiling.size) / step) + 1
    return [round(i * (length - tiling.size) / (n - 1)) for i in range(n)]
