"""What conditions over boxes say, against boxes whose relations one can see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs import boxes as boxes_module
from manyeyes.lfs.boxes import Boxes, label_names, union_area
from manyeyes.primitives.base import FeatureSet
from manyeyes.types import Item

PERSON = ("person", 0.1, 0.1, 0.4, 0.9, 0.9)
DOG = ("dog", 0.6, 0.5, 0.8, 0.9, 0.6)
LIGHT = ("traffic light", 0.62, 0.55, 0.7, 0.7, 0.5)  # inside the dog
HAT = ("hat", 0.15, 0.02, 0.3, 0.15, 0.7)  # above the person, overlapping a bit
SCENE = [PERSON, DOG, LIGHT, HAT]


def holds(tools: Any, when: str, *images: Any, **fields: Any) -> list[bool]:
    lf = tools.make_lf(kind="detect", when=when, vote="hat", **fields)
    lf.prepare(tools.Encoder({}))
    features = FeatureSet([Item(str(i)) for i in range(len(images))], {"detector": tools.boxes(images)})
    return [vote is not None for vote in tools.votes_of(lf, features)]


@pytest.mark.parametrize(
    ("when", "true"),
    [
        ("count(person) == 1", True),
        ("count('traffic light') == 1", True),
        ("count(person) + count(dog) == 2", True),
        ("area(person) > 0.239 and area(person) < 0.241", True),
        ("mask_area(person) == area(person)", True),  # these boxes have no masks
        ("largest(person) == area(person)", True),
        ("x(dog) == 0.7 and y(dog) == 0.7", True),
        ("width(dog) == 0.2 and height(dog) == 0.4", True),
        ("width(dog) / height(dog) == 0.5", True),
        ("x(person) < x(dog)", True),
        ("centered(dog)", False),
        ("centered('traffic light')", True),
        ("score(dog) == 0.6", True),
        ("score(dog) > 0.6", False),
        ("left_of(person, dog)", True),
        ("left_of(dog, person)", False),
        ("right_of(dog, person)", True),
        ("above(hat, person)", True),
        ("below(person, hat)", True),
        ("above(person, hat)", False),
        ("inside('traffic light', dog)", True),
        ("inside(dog, 'traffic light')", False),
        ("overlap(dog, 'traffic light') > 0.1", True),
        ("overlap(dog, 'traffic light') == overlap('traffic light', dog)", True),
        ("overlap(person, dog) == 0", True),
        ("overlap(person, person) == 0", True),  # a box is not its own partner
        ("near(hat, person)", True),
        ("near(hat, dog)", False),
        ("not near(hat, dog)", True),
    ],
)
def test_a_scene(tools: Any, when: str, true: bool) -> None:
    assert holds(tools, when, SCENE) == [true]


def test_no_boxes_are_not_no_image(tools: Any) -> None:
    assert holds(tools, "count(person) == 0", [], None, [PERSON]) == [True, False, False]
    assert holds(tools, "not near(person, dog)", [], None, SCENE) == [True, False, True]


def test_two_boxes_of_one_label_relate_to_each_other(tools: Any) -> None:
    two = [PERSON, ("person", 0.6, 0.1, 0.9, 0.9, 0.8)]
    assert holds(tools, "left_of(person, person)", [PERSON], two, two[::-1]) == [False, True, True]
    assert holds(tools, "count(person) >= 2", [PERSON], two) == [False, True]


def test_an_unsure_box_can_be_left_out(tools: Any) -> None:
    assert holds(tools, "count(dog) == 1", SCENE, min_score=0.7) == [False]
    assert holds(tools, "count(dog) == 0", SCENE, min_score=0.7) == [True]


def test_division_by_nothing_is_unknown(tools: Any) -> None:
    assert holds(tools, "area(hat) / area(person) < 1", SCENE, [HAT]) == [True, False]


def test_the_surest_box_says_where(tools: Any) -> None:
    two = [("dog", 0.0, 0.0, 0.2, 0.2, 0.5), ("dog", 0.5, 0.5, 0.9, 0.7, 0.8)]
    assert holds(tools, "x(dog) == 0.7 and y(dog) == 0.6 and width(dog) == 0.4", two, two[::-1], []) == [
        True,
        True,
        False,
    ]
    assert holds(tools, "largest(dog) > 0.079 and largest(dog) < 0.081 and area(dog) > 0.11", two) == [True]
    assert holds(tools, "not x(dog) < 0.5", two, [], None) == [True, False, False]
    assert holds(tools, "centered(dog)", two, [("dog", 0.4, 0.4, 0.6, 0.6, 0.9)]) == [False, True]


def test_masks_are_added_up(tools: Any) -> None:
    block = tools.boxes([SCENE, [PERSON, PERSON], []])
    dtype = np.dtype([*block.rows.dtype.descr, ("mask", "<f4")])
    rows = np.zeros(len(block.rows), dtype=dtype)
    for column in block.rows.dtype.names:
        rows[column] = block.rows[column]
    rows["mask"] = [0.1, np.nan, 0.05, 0.02, 0.7, 0.6]
    boxes = Boxes(replace(block, rows=rows))
    assert boxes.mask_area("person").number.tolist() == pytest.approx([0.1, 1.0, 0])
    assert boxes.mask_area("dog").number.tolist() == pytest.approx(
        [0.08, 0, 0]
    )  # its box, for want of a mask


def test_votes_are_hard(tools: Any) -> None:
    lf = tools.make_lf(kind="detect", when="count(person) >= 1", vote="hat")
    column = lf.vote(FeatureSet([Item("a")], {"detector": tools.boxes([SCENE])}))
    assert column.classes.tolist() == [1]
    assert np.isnan(column.scores).all()


def test_near_looks_at_pixels(tools: Any) -> None:
    # Side by side in fractions; in an image ten times as wide as high, far apart.
    pair = [("person", 0.1, 0.1, 0.2, 0.9, 0.9), ("dog", 0.25, 0.1, 0.35, 0.9, 0.9)]
    square = FeatureSet([Item("a")], {"detector": tools.boxes([pair], size=(100, 100))})
    wide = FeatureSet([Item("a")], {"detector": tools.boxes([pair], size=(10_000, 100))})
    lf = tools.make_lf(kind="detect", when="near(person, dog)", vote="hat")
    assert tools.votes_of(lf, square) == ["hat"]
    assert tools.votes_of(lf, wide) == ["hat"]  # the gap grew, and so did the boxes
    apart = [pair[0], ("dog", 0.5, 0.1, 0.6, 0.9, 0.9)]
    assert tools.votes_of(
        lf, FeatureSet([Item("a")], {"detector": tools.boxes([apart], size=(10_000, 100))})
    ) == [None]


def test_a_label_that_the_detector_does_not_know_is_told_before_any_vote(tools: Any) -> None:
    lf = tools.make_lf(kind="detect", when="count(persn) >= 1", vote="hat")
    with pytest.raises(InvalidRecipe, match=r"LF 'lf'.*'persn'.*person, dog.*did you mean 'person'"):
        lf.prepare(tools.Encoder({}))


def test_names_come_as_a_list_or_by_index() -> None:
    assert label_names({"names": ["a", "b"]}) == ("a", "b")
    assert label_names({"names": {"1": "b", "0": "a", "3": "d"}}) == ("a", "b", "", "d")
    assert label_names({}) == ()


corner = st.integers(0, 16).map(lambda i: i / 16)
rectangles = st.tuples(corner, corner, corner, corner).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(rectangles, max_size=9), max_size=6))
def test_the_union_is_exact(images: list[list[tuple[float, ...]]]) -> None:
    flat = np.array([box for image in images for box in image], dtype=np.float64).reshape(-1, 4)
    items = np.repeat(np.arange(len(images)), [len(image) for image in images])
    centres = (np.arange(16) + 0.5) / 16
    expected = []
    for image in images:
        covered = np.zeros((16, 16), dtype=bool)
        for x0, y0, x1, y1 in image:
            covered |= ((centres > y0) & (centres < y1))[:, None] & ((centres > x0) & (centres < x1))[None, :]
        expected.append(covered.mean())
    np.testing.assert_allclose(union_area(flat, items, len(images)), expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["person", "dog"]), rectangles), max_size=6) | st.none(),
        max_size=6,
    ),
    st.sampled_from([1, 3, 1 << 18]),
)
def test_pairs_agree_with_a_loop(tools: Any, images: list[Any], block: int) -> None:
    made = tools.boxes([image and [(label, *corners, 0.5) for label, corners in image] for image in images])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes_module, "_BLOCK", block)  # blocks change nothing
        source = Boxes(made)
        got = {
            name: source.call(name, ["person", other]).number.tolist()
            for name in ("left_of", "above", "overlap")
            for other in ("dog",)
        }
        own = source.call("overlap", ["person", "person"]).number.tolist()
    for i, image in enumerate(images):
        people = [c for label, c in image or () if label == "person"]
        dogs = [c for label, c in image or () if label == "dog"]
        pairs = [(a, b) for a in people for b in dogs]
        assert got["left_of"][i] == any(
            (a[0] + a[2]) / 2 < b[0] and (b[0] + b[2]) / 2 > a[2] for a, b in pairs
        )
        assert got["above"][i] == any((a[1] + a[3]) / 2 < b[1] and (b[1] + b[3]) / 2 > a[3] for a, b in pairs)
        assert got["overlap"][i] == pytest.approx(max((iou(a, b) for a, b in pairs), default=0.0))
        selves = [iou(a, b) for j, a in enumerate(people) for k, b in enumerate(people) if j != k]
        assert own[i] == pytest.approx(max(selves, default=0.0))


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0
