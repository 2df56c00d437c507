"""Where LFs over cells whose embeddings one can see, and the starter on a real photograph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from manyeyes.errors import ItemError
from manyeyes.labeler import Labeler
from manyeyes.lfs.grounding import ground
from manyeyes.lfs.heat import BACKGROUND
from manyeyes.lfs.where import WhereSpec
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.primitives.extractor import Extractor
from manyeyes.recipe import Recipe
from manyeyes.types import Item

SPACE = {
    "a photo of a dog": (1, 0, 0),
    "a photo of a red ball": (0, 1, 0),
    "wall": (0, 0, 1),
    "puppy": (1, 0, 0),
}
D, B, W = (1, 0, 0), (0, 1, 0), (0, 0, 1)
DOG_LEFT = [[W, W, W, W], [D, W, W, B], [D, W, W, W], [W, W, W, W]]
DOG_RIGHT = [[W, W, W, W], [W, W, W, D], [W, W, W, D], [W, W, W, W]]
EMPTY = [[W] * 4] * 4


def features(*maps: Any) -> FeatureSet:
    rows = np.zeros(len(maps), dtype=[("map", "<f2", (4, 4, 3))])
    for row, cells in zip(rows, maps, strict=True):
        row["map"] = 0 if cells is None else cells
    present = np.array([cells is not None for cells in maps])
    return FeatureSet([Item(str(i)) for i in range(len(maps))], {"clip.map": Features(rows, present)})


def holds(tools: Any, when: str, *maps: Any, **fields: Any) -> list[bool]:
    lf = tools.make_lf(kind="where", when=when, vote="hat", against="wall", **fields)
    lf.prepare(tools.Encoder(SPACE, logit_scale=50.0))
    return [vote is not None for vote in tools.votes_of(lf, features(*maps))]


def test_where_the_dog_is(tools: Any) -> None:
    maps = (DOG_LEFT, DOG_RIGHT, EMPTY, None)
    assert holds(tools, "x(dog) < 0.3", *maps) == [True, False, False, False]
    assert holds(tools, "score(dog) > 0.9", *maps) == [True, True, False, False]
    assert holds(tools, "count(dog) == 0", *maps) == [False, False, True, False]
    assert holds(tools, "left_of(dog, 'a red ball')", *maps) == [True, False, False, False]
    assert holds(tools, "area(dog) > 0.05 and area(dog) < 0.4", *maps) == [True, True, False, False]
    assert holds(tools, "centered(dog)", *maps) == [False] * 4


def test_prompts_of_ones_own(tools: Any) -> None:
    assert holds(tools, "x(it) < 0.3", DOG_LEFT, EMPTY, prompts={"it": "puppy"}) == [True, False]
    with pytest.raises(ValueError, match=r"'itt'.*did you mean 'it'"):
        WhereSpec(name="a", when="x(it) < 0.3", vote="hat", prompts={"itt": ("puppy",)})


def test_how_sure_it_must_be(tools: Any) -> None:
    faint = [[W, W, W, W], [(0.5, 0, 0.5), W, W, W], [W] * 4, [W] * 4]  # as much dog as wall
    assert holds(tools, "count(dog) == 1", faint, DOG_RIGHT, min_score=0.6) == [False, True]
    assert holds(tools, "count(dog) == 1", faint, DOG_RIGHT, min_score=0.4) == [True, True]


def test_many_items_are_read_as_one(tools: Any) -> None:
    maps = [DOG_LEFT, None, DOG_RIGHT, EMPTY] * 100
    assert holds(tools, "x(dog) < 0.3", *maps) == [True, False, False, False] * 100


def test_what_is_encoded_is_counted(tools: Any) -> None:
    lf = tools.make_lf(kind="where", when="x(dog) < y('a red ball')", vote="hat")
    encoder = tools.Encoder({**SPACE, **dict.fromkeys(BACKGROUND, W)}, logit_scale=50.0)
    lf.prepare(encoder)
    assert len(encoder.asked) == lf.spec.n_prompts == 2 + len(BACKGROUND)
    assert lf.reads == ("clip.map",)


RECIPE = """
name: places
classes: [left, right]
lfs:
  - {name: to_the_left, kind: where, when: "x('an astronaut') < 0.5", vote: left}
  - {name: to_the_right, kind: where, when: "x('an astronaut') > 0.5", vote: right}
"""


def canvas(photo: Image.Image, left: int) -> Image.Image:
    scene = Image.new("RGB", (1200, 500), (150, 160, 170))
    scene.paste(photo.resize((400, 400)), (left, 50))
    return scene


@pytest.mark.slow
def test_the_starter_points_at_a_cat() -> None:
    from skimage import data

    cat = Image.fromarray(data.chelsea())
    scenes = [canvas(cat, 20), canvas(cat, 780)]
    left, right = ground(scenes, "cat")
    assert left.heat.shape == (28, 28) and left.heat.dtype == np.float32
    assert left.score == pytest.approx(left.heat.max()) and left.score > 0.5
    assert 20 / 1200 < left.x < 420 / 1200 and 780 / 1200 < right.x < 1180 / 1200
    assert left.boxes.shape[1] == 4 and (np.diff(left.scores) <= 0).all()
    x0, _, x1, _ = left.boxes[0]
    assert x0 < left.x < x1 < 0.6
    with pytest.raises(ItemError):
        ground([b"no image"], "cat")


@pytest.mark.slow
def test_a_recipe_with_nothing_but_a_clip() -> None:
    from skimage import data

    recipe = Recipe.parse(RECIPE.replace("an astronaut", "a cat"))
    assert Recipe.parse(recipe.to_yaml()) == recipe
    assert recipe.primitives.keys() == {"clip"}
    cat = Image.fromarray(data.chelsea())
    items = [Item("l", image=canvas(cat, 20)), Item("r", image=canvas(cat, 780)), Item("t", text="a cat")]
    labeler = Labeler(recipe)
    votes, errors, _ = labeler.votes(items)
    assert not errors
    assert votes.classes.tolist() == [[0, -1], [-1, 1], [-1, -1]]
    assert isinstance(labeler.extractor, Extractor)
    passes = labeler.counter.total
    labeler.votes(items)
    assert labeler.counter.total == passes  # the maps are kept
