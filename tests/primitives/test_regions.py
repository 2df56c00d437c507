"""Crops of detected objects: what is cut out, whose boxes are used, and how often anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from manyeyes.errors import InvalidRecipe
from manyeyes.labeler import Labeler
from manyeyes.primitives import reading
from manyeyes.primitives.base import DecodedImage, Primitive, Rows
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.detection import DTYPE
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.images import decode_image
from manyeyes.primitives.regions import Regions, RegionsSpec, build, crop_of
from manyeyes.primitives.toy import ToySpec
from manyeyes.recipe import Recipe
from manyeyes.types import Item


class Halves:
    """A detector that finds the left half of every image, and less surely the right one; nothing in small images."""

    name, version, modality, dtype, ragged = "halves", "halves 1", "image", DTYPE, True
    info: Mapping[str, Any] = {"names": ["left", "right"]}

    def setup(self) -> None:
        """There is nothing to load."""

    def compute(self, batch: Sequence[DecodedImage]) -> list[Rows]:
        if any(image.width == 13 for image in batch):
            raise RuntimeError("13")
        rows = np.zeros(2, dtype=DTYPE)
        rows["fraction"] = [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]
        rows["label"], rows["score"] = [0, 1], [0.9, 0.6]
        return [rows if image.width > 10 else rows[:0] for image in batch]


def extractor(cache: Cache | None = None, **options: Any) -> Extractor:
    spec = RegionsSpec(kind="regions", boxes="halves", encoder="toy", margin=0, **options)
    specs = {"regions": spec, "toy": ToySpec(kind="toy")}
    return Extractor.for_specs(specs, also={"halves": Halves()}, cache=cache, batch_size=3)


def flag(left: str, right: str, width: int = 60, height: int = 40) -> Image.Image:
    image = Image.new("RGB", (width, height), right)
    image.paste(left, (0, 0, width // 2, height))
    return image


FLAGS = [
    Item("a", image=flag("red", "blue")),
    Item("b", image=flag("lime", "red")),
    Item("c", image=flag("red", "red", 8, 8)),
]


def test_each_box_is_embedded_by_itself() -> None:
    block = extractor().extract([*FLAGS, Item("t", text="no image")], ["regions"])["regions"]
    assert block.present.tolist() == [True, True, True, False]
    assert block.offsets is not None and np.diff(block.offsets).tolist() == [2, 2, 0, 0]
    assert block["embedding"].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert block["label"].tolist() == [0, 1, 0, 1]
    assert block["fraction"][1].tolist() == [0.5, 0, 1, 1]
    assert block.info["names"] == ["left", "right"]
    assert (block.info["encoder"], block.info["logit_scale"]) == ("toy", 10)


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"max_regions": 1}, [0, 0]),
        ({"classes": ("right",)}, [1, 1]),
        ({"min_score": 0.8}, [0, 0]),
        ({"min_score": 0.95}, []),
    ],
)
def test_which_boxes(options: dict[str, Any], labels: list[int]) -> None:
    block = extractor(**options).extract(FLAGS, ["regions"])["regions"]
    assert block["label"].tolist() == labels
    plain, other = extractor(), extractor(**options)
    assert plain.versions(["regions"]) != other.versions(["regions"])


def test_an_unknown_class_is_told() -> None:
    with pytest.raises(InvalidRecipe, match="did you mean 'left'"):
        extractor(classes=("lefft",)).extract(FLAGS, ["regions"])


def test_boxes_come_from_the_cache_and_images_are_decoded_once(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = reading.decode_image
    monkeypatch.setattr(reading, "decode_image", lambda *a, **k: (decoded.append(a), decode(*a, **k))[1])
    first = extractor(cache)
    features = first.extract(FLAGS, ["regions", "halves"])
    assert list(features.blocks) == ["halves", "regions"]
    assert dict(first.counter.items) == {"halves": 3, "regions": 3}
    assert len(decoded) == 3
    second = extractor(cache)  # everything is known
    assert second.extract(FLAGS, ["regions"])["regions"].rows.tobytes() == features["regions"].rows.tobytes()
    assert second.counter.total == 0
    third = extractor(cache, max_regions=1)  # the boxes are known, other regions are wanted
    assert list(third.extract(FLAGS, ["regions"]).blocks) == ["regions"]
    assert dict(third.counter.items) == {"regions": 3}
    assert len(decoded) == 6


def test_an_image_on_which_the_detector_fails_is_one_error() -> None:
    items = [*FLAGS, Item("bad", image=flag("red", "blue", 13))]
    features = extractor().extract(items, ["regions"])
    assert list(features.errors) == [3]
    assert "halves" in str(features.errors[3])
    assert features["regions"].present.tolist() == [True, True, True, False]
    assert len(features["regions"].rows) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boxes": "toy"}, "gives none"),
        ({"encoder": "halves"}, "encoder"),
        ({"boxes": "nothing"}, "declare it"),
    ],
)
def test_what_cannot_be_put_together(options: dict[str, str], words: str) -> None:
    spec = RegionsSpec(kind="regions", **{"boxes": "halves", "encoder": "toy", **options})  # type: ignore[arg-type]
    with pytest.raises(InvalidRecipe, match=words):
        Extractor.for_specs({"regions": spec, "toy": ToySpec(kind="toy")}, also={"halves": Halves()})


def test_regions_of_regions_are_refused() -> None:
    other = build("other", RegionsSpec(kind="regions", boxes="regions"))["other"]
    regions = build("regions", RegionsSpec(kind="regions", boxes="other"))["regions"]
    primitives: dict[str, Primitive] = {"other": other, "regions": regions}
    assert isinstance(other, Regions)
    with pytest.raises(InvalidRecipe, match="reads one itself"):
        other.bind({**primitives, "clip": regions})


def test_a_crop_has_surroundings_and_is_never_too_narrow() -> None:
    image = decode_image(Image.new("RGB", (200, 100)))
    assert crop_of(image, np.array([0.25, 0.25, 0.75, 0.75]), margin=0).pixels.size == (100, 70)
    assert crop_of(image, np.array([0.25, 0.2, 0.5, 0.7]), margin=0).pixels.size == (50, 50)
    assert crop_of(image, np.array([0.25, 0.2, 0.5, 0.7]), margin=0.1).pixels.size == (60, 60)
    assert crop_of(image, np.array([0.5, 0, 0.51, 1]), margin=0).pixels.size == (70, 100)
    assert crop_of(image, np.array([0, 0, 1, 1]), margin=1).pixels.size == (200, 100)
    for box in ([1, 1, 1, 1], [0, 0, 0, 0], [0.999, 0, 1, 0.001]):
        width, height = crop_of(image, np.array(box), margin=0.1).pixels.size
        assert width >= 1 and height >= 1


RECIPE = {
    "name": "staff",
    "classes": ["woman", "cat"],
    "primitives": {"regions": {"classes": ["person", "cat"]}},
    "lfs": [
        {
            "name": "who",
            "kind": "region_prompt",
            "prompts": {"woman": "a photo of a woman", "cat": "a photo of a cat"},
        }
    ],
}


def test_a_recipe_names_what_regions_read() -> None:
    recipe = Recipe.parse(RECIPE)
    assert list(recipe.primitives) == ["clip", "detector", "regions"]
    assert Recipe.parse(recipe.to_yaml()) == recipe
    assert recipe.to_yaml() == Recipe.parse(recipe.to_yaml()).to_yaml()
    wrong = {**RECIPE, "primitives": {"regions": {"boxes": "detectr"}}}
    with pytest.raises(InvalidRecipe, match=r"regions.*'detectr'.*did you mean 'detector'"):
        Recipe.parse(
            {
                **wrong,
                "lfs": [
                    *RECIPE["lfs"],
                    {"name": "d", "kind": "detect", "when": "count(cat) > 0", "vote": "cat"},
                ],
            }
        )  # type: ignore[misc]


@pytest.mark.slow
def test_detect_then_classify() -> None:
    """The starter finds people and a cup that it takes for a hat; prompts on the crops know better."""
    from importlib import metadata

    from skimage import data

    recipe = Recipe.parse(
        {
            "name": "tell",
            "classes": ["person", "cup"],
            "lfs": [
                {
                    "name": "who",
                    "kind": "region_prompt",
                    "prompts": {"person": "a photo of a man", "cup": "a cup of coffee"},
                }
            ],
        }
    )
    zidane = next(
        str(file.locate()) for file in metadata.files("ultralytics") or [] if file.name == "zidane.jpg"
    )
    items = [
        Item("men", image=zidane),
        Item("cup", image=Image.fromarray(data.coffee())),
        Item("nothing", image=Image.new("RGB", (300, 200), "gray")),
    ]
    labeler = Labeler(recipe)
    votes, errors, _ = labeler.votes(items)
    assert not errors
    assert votes.classes[:, 0].tolist() == [0, 1, -1]
    passes = labeler.counter.total
    labeler.votes(items)
    assert labeler.counter.total == passes
