"""What a ``detect`` expression can ask of the boxes of many images at once.

Boxes come as one flat array in item order, so counting is a bincount and pairing is arithmetic on offsets; no Python
loop runs over items. A relation is true where any pair of different boxes satisfies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.columns import Column
from manyeyes.lfs.vocabulary import Function, Vocabulary
from manyeyes.primitives.base import Features

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

INSIDE_SHARE: Final = 0.9
"""How much of a box must lie in another one to be inside it: detectors' edges are not exact."""
NEAR_SHARE: Final = 0.5
"""How wide a gap may be between boxes that are near, in mean diagonals of the two: a picture has depth."""
_BLOCK: Final = 1 << 18
"""How many pairs of boxes, or cells of a sweep, are held at once."""

VOCABULARY: Final = Vocabulary(
    functions={
        "count": Function(("label",), "number", "how many boxes have the label"),
        "area": Function(
            ("label",), "number", "share of the image that the label's boxes cover together, 0 to 1"
        ),
        "mask_area": Function(
            ("label",),
            "number",
            "the same by masks, where the detector has them: their shares added up, at most 1",
        ),
        "largest": Function(("label",), "number", "share of the image of the label's largest box, 0 to 1"),
        "score": Function(
            ("label",), "number", "the best score among the label's boxes, 0 where there is none"
        ),
        "x": Function(
            ("label",), "number", "centre of the surest box, 0 left to 1 right; unknown where there is none"
        ),
        "y": Function(
            ("label",), "number", "centre of the surest box, 0 top to 1 bottom; unknown where there is none"
        ),
        "width": Function(("label",), "number", "width of the surest box, as a share of the image's"),
        "height": Function(("label",), "number", "height of the surest box, as a share of the image's"),
        "centered": Function(
            ("label",), "truth", "a box whose centre lies in the middle third of the image both ways"
        ),
        "left_of": Function(
            ("label", "label"), "truth", "an a whose centre is left of a b, and the b's right of the a"
        ),
        "right_of": Function(("label", "label"), "truth", "left_of(b, a)"),
        "above": Function(
            ("label", "label"), "truth", "an a whose centre is above a b, and the b's below the a"
        ),
        "below": Function(("label", "label"), "truth", "above(b, a)"),
        "inside": Function(
            ("label", "label"), "truth", "an a that lies in a b with at least 90 % of its area"
        ),
        "overlap": Function(
            ("label", "label"), "number", "the greatest intersection over union of an a and a b"
        ),
        "near": Function(
            ("label", "label"), "truth", "an a and a b whose gap is at most half their mean diagonal"
        ),
    },
    variables=False,
)


class Pairs(NamedTuple):
    """Boxes of the same item, paired. left, right: float64, shape (n_pairs, 4); x0, y0, x1, y1."""

    left: Floats
    right: Floats


class Boxes:
    """The boxes of some items, as a source of values for expressions. See ``columns.Source``."""

    def __init__(self, features: Features, *, min_score: float = 0.0) -> None:
        self._features = features
        self._names = label_names(features.info)
        kept = features["score"] >= min_score
        self._items = features.row_items()[kept]
        self._label = features["label"][kept]
        self._score = features["score"][kept]
        self._kept = kept
        self._n_items = len(features.present)
        self._rows: dict[str, Indices] = {}

    @cached_property
    def _fraction(self) -> Floats:
        return self._features["fraction"][self._kept].astype(np.float64)

    @cached_property
    def _pixels(self) -> Floats:
        return self._features["box"][self._kept].astype(np.float64)

    def variable(self, name: str) -> Column:
        raise TypeError(f"{name!r} is not a value: the vocabulary of boxes has none")

    def call(self, function: str, arguments: Sequence[str | Column]) -> Column:
        return _FUNCTIONS[function](self, *(str(argument) for argument in arguments))

    def count(self, label: str) -> Column:
        return Column.numbers(self._counts(self.rows(label)))

    def score(self, label: str) -> Column:
        rows = self.rows(label)
        best = np.zeros(self._n_items)
        np.maximum.at(best, self._items[rows], self._score[rows])
        # Scores are float32, whose 0.6 is a bit more than 0.6; rounded, comparisons say what is written.
        return Column.numbers(np.round(best, 6))

    def area(self, label: str) -> Column:
        rows = self.rows(label)
        return Column.numbers(union_area(self._fraction[rows], self._items[rows], self._n_items))

    def mask_area(self, label: str) -> Column:
        rows = self.rows(label)
        if "mask" not in (self._features.rows.dtype.names or ()):
            return self.area(label)
        mask = self._features["mask"][self._kept][rows].astype(np.float64)
        unmasked = rows[np.isnan(mask)]
        masked = np.bincount(self._items[rows], weights=np.nan_to_num(mask), minlength=self._n_items)
        others = union_area(self._fraction[unmasked], self._items[unmasked], self._n_items)
        return Column.numbers(np.round(np.minimum(masked + others, 1.0), 6))

    def largest(self, label: str) -> Column:
        rows = self.rows(label)
        best = np.zeros(self._n_items)
        np.maximum.at(best, self._items[rows], _box_area(self._fraction[rows]))
        return Column.numbers(best)

    def surest(self, label: str, of: Callable[[Floats], Floats]) -> Column:
        """Return a number of each item's box with the best score, the first of equals; missing where there is none."""
        rows = self.rows(label)
        ranked = rows[np.lexsort((-self._score[rows], self._items[rows]))]
        items, first = np.unique(self._items[ranked], return_index=True)
        numbers = np.full(self._n_items, np.nan)
        # Fractions are float32, whose 0.6 is a bit more than 0.6.
        numbers[items] = np.round(of(self._fraction[ranked[first]]), 6)
        return Column.numbers(numbers)

    def centered(self, label: str) -> Column:
        rows = self.rows(label)
        middle = (np.abs(_centre(self._fraction[rows]) - 0.5) <= 1 / 6).all(axis=1)
        found = np.zeros(self._n_items, dtype=np.bool_)
        found[self._items[rows[middle]]] = True
        return Column.truths(found)

    def overlap(self, a: str, b: str) -> Column:
        best = np.zeros(self._n_items)
        for items, pairs in self._pairs(a, b, self._fraction):
            np.maximum.at(best, items, _intersection_over_union(pairs))
        return Column.numbers(best)

    def relate(
        self, a: str, b: str, holds: Callable[[Pairs], npt.NDArray[np.bool_]], boxes: Floats
    ) -> Column:
        found = np.zeros(self._n_items, dtype=np.bool_)
        for items, pairs in self._pairs(a, b, boxes):
            found[items[holds(pairs)]] = True
        return Column.truths(found)

    def rows(self, label: str) -> Indices:
        """Return which boxes have a label, in item order."""
        if label not in self._rows:
            wanted = [i for i, name in enumerate(self._names) if name == label]
            self._rows[label] = np.flatnonzero(np.isin(self._label, wanted))
        return self._rows[label]

    def _counts(self, rows: Indices) -> Indices:
        return np.bincount(self._items[rows], minlength=self._n_items)

    def _pairs(self, a: str, b: str, boxes: Floats) -> Iterator[tuple[Indices, Pairs]]:
        """Yield, in blocks, every pair of different boxes of an item with the labels a and b, and the pair's item."""
        left, right = self.rows(a), self.rows(b)
        per_item = self._counts(right)
        first = np.concatenate([[0], np.cumsum(per_item)])
        partners = per_item[self._items[left]]
        done = np.concatenate([[0], np.cumsum(partners)])
        start = 0
        while start < len(left):
            stop = max(start + 1, int(np.searchsorted(done, done[start] + _BLOCK, side="right")) - 1)
            block, n = left[start:stop], partners[start:stop]
            each_left = np.repeat(block, n)
            within = np.arange(len(each_left)) - np.repeat(done[start:stop] - done[start], n)
            each_right = right[np.repeat(first[self._items[block]], n) + within]
            different = each_left != each_right
            each_left, each_right = each_left[different], each_right[different]
            yield self._items[each_left], Pairs(boxes[each_left], boxes[each_right])
            start = stop


def label_names(info: object) -> tuple[str, ...]:
    """Return a detector's label names by index. info: what it says of itself; names are a list, or index → name."""
    names = info.get("names", ()) if hasattr(info, "get") else ()
    if hasattr(names, "items"):
        by_index = {int(index): str(name) for index, name in names.items()}
        return tuple(by_index.get(i, "") for i in range(max(by_index, default=-1) + 1))
    return tuple(str(name) for name in names)


def union_area(boxes: Floats, items: Indices, n_items: int) -> Floats:
    """Return the area that each item's boxes cover together, exactly: float64, shape (n_items,).

    boxes: float64, shape (n_boxes, 4), as fractions; clipped to [0, 1]. items: int64, shape (n_boxes,), ascending.
    Items with about equally many boxes are swept together: in each strip between two neighbouring edges, the covered
    length is that of the union of the intervals that span the strip.
    """
    boxes = np.clip(boxes, 0.0, 1.0)
    area = np.zeros(n_items)
    counts = np.bincount(items, minlength=n_items)
    first = np.cumsum(counts) - counts
    single = np.flatnonzero(counts == 1)
    area[single] = _box_area(boxes[first[single]])
    width = 2
    while width < 2 * int(counts.max(initial=0)):
        group = np.flatnonzero((counts > width // 2) & (counts <= width))
        for block in np.array_split(group, max(1, len(group) * width * width * 2 // _BLOCK)):
            # Padding repeats the item's first box, which covers nothing new.
            at = first[block, None] + np.where(np.arange(width) < counts[block, None], np.arange(width), 0)
            area[block] = _sweep(boxes[at])
        width *= 2
    return area


def _sweep(boxes: Floats) -> Floats:
    """Return the union areas of float64 boxes of shape (n, k, 4): shape (n,)."""
    order = np.argsort(boxes[:, :, 1], axis=1, kind="stable")
    x0, y0, x1, y1 = np.moveaxis(np.take_along_axis(boxes, order[:, :, None], axis=1), 2, 0)
    edges = np.sort(np.concatenate([x0, x1], axis=1), axis=1)
    left, right = edges[:, :-1, None], edges[:, 1:, None]
    spans = (x0[:, None] <= left) & (x1[:, None] >= right)
    ends = np.where(spans, y1[:, None], 0.0)
    reached = np.maximum.accumulate(ends, axis=2)
    before = np.concatenate([np.zeros_like(reached[:, :, :1]), reached[:, :, :-1]], axis=2)
    covered = np.where(spans, np.maximum(ends - np.maximum(y0[:, None], before), 0.0), 0.0).sum(axis=2)
    return np.asarray((covered * (right - left)[:, :, 0]).sum(axis=1))


def _box_area(boxes: Floats) -> Floats:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def _intersection(pairs: Pairs) -> Floats:
    low = np.maximum(pairs.left[:, :2], pairs.right[:, :2])
    high = np.minimum(pairs.left[:, 2:], pairs.right[:, 2:])
    return _box_area(np.concatenate([low, high], axis=1))


def _intersection_over_union(pairs: Pairs) -> Floats:
    shared = _intersection(pairs)
    union = _box_area(pairs.left) + _box_area(pairs.right) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _centre(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2)


def _before(pairs: Pairs, axis: int) -> npt.NDArray[np.bool_]:
    """Tell where left comes before right along an axis. Centres are held against edges, so boxes may overlap a bit."""
    a, b = pairs
    return np.asarray((_centre(a)[:, axis] < b[:, axis]) & (_centre(b)[:, axis] > a[:, axis + 2]))


def _inside(pairs: Pairs) -> npt.NDArray[np.bool_]:
    a, b = pairs
    centre = _centre(a)
    centred = ((centre >= b[:, :2]) & (centre <= b[:, 2:])).all(axis=1)
    return np.asarray(centred & (_intersection(pairs) >= INSIDE_SHARE * _box_area(a)))


def _near(pairs: Pairs) -> npt.NDArray[np.bool_]:
    a, b = pairs
    gap = np.maximum(np.maximum(a[:, :2] - b[:, 2:], b[:, :2] - a[:, 2:]), 0.0)
    diagonals = [np.hypot(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) for box in pairs]
    return np.asarray(np.hypot(gap[:, 0], gap[:, 1]) <= NEAR_SHARE * (diagonals[0] + diagonals[1]) / 2)


_FUNCTIONS: Final[dict[str, Callable[..., Column]]] = {
    "count": Boxes.count,
    "area": Boxes.area,
    "mask_area": Boxes.mask_area,
    "largest": Boxes.largest,
    "score": Boxes.score,
    "x": lambda boxes, a: boxes.surest(a, lambda corners: _centre(corners)[:, 0]),
    "y": lambda boxes, a: boxes.surest(a, lambda corners: _centre(corners)[:, 1]),
    "width": lambda boxes, a: boxes.surest(a, lambda corners: corners[:, 2] - corners[:, 0]),
    "height": lambda boxes, a: boxes.surest(a, lambda corners: corners[:, 3] - corners[:, 1]),
    "centered": Boxes.centered,
    "left_of": lambda boxes, a, b: boxes.relate(a, b, lambda pairs: _before(pairs, 0), boxes._fraction),
    "right_of": lambda boxes, a, b: boxes.relate(b, a, lambda pairs: _before(pairs, 0), boxes._fraction),
    "above": lambda boxes, a, b: boxes.relate(a, b, lambda pairs: _before(pairs, 1), boxes._fraction),
    "below": lambda boxes, a, b: boxes.relate(b, a, lambda pairs: _before(pairs, 1), boxes._fraction),
    "inside": lambda boxes, a, b: boxes.relate(a, b, _inside, boxes._fraction),
    "overlap": Boxes.overlap,
    # Pixels, because fractions stretch one axis of an image that is not square.
    "near": lambda boxes, a, b: boxes.relate(a, b, _near, boxes._pixels),
}
