"""The real starter models behind a real socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manyeyes import Client, Item, Labeler, Recipe
from manyeyes.service.settings import ServiceSettings

SCENES = """
name: scenes
classes: [cat, coffee, rocket]
lfs:
  - {name: looks_like, kind: prompt, prompts: {cat: a photo of a cat, coffee: a cup of coffee, rocket: a rocket}}
  - {name: reads_like, kind: prompt, on: text, prompts: {cat: a cat, coffee: a cup of coffee, rocket: a rocket}}
  - {name: says, kind: keyword, on: text, votes: {cat: [kitten, cat], coffee: [espresso], rocket: [launch]}}
  - {name: bright, kind: metadata, when: "brightness > 0.9", vote: coffee}
"""


@pytest.mark.slow
def test_the_starters_label_the_same_over_http_as_in_python(
    serving: Callable[[ServiceSettings], Any], tmp_path: Path
) -> None:
    from skimage.data import data_dir

    photos = [Path(data_dir) / name for name in ("chelsea.png", "coffee.png", "rocket.jpg")]
    items = [Item(photo.stem, image=photo) for photo in photos]
    items += [
        Item("kitten", text="The kitten sleeps on the sofa."),
        Item("espresso", text="A double espresso, please."),
        Item("launch", text="Lift-off: the launch went well."),
        Item("both", image=photos[0], text="my kitten"),
        Item("broken", image=b"\x89PNG\r\n\x1a\n broken"),
    ]
    recipe = Recipe.parse(SCENES)
    (tmp_path / "scenes.yaml").write_text(SCENES)
    with serving(ServiceSettings(recipes_dir=tmp_path)) as url, Client(url) as client:
        answered = client.label(items, recipe="scenes")
        again = client.label(items, recipe=recipe)
    expected = Labeler(recipe).label(items)
    assert [label.to_dict() for label in answered] == [label.to_dict() for label in expected]
    assert [label.to_dict() for label in again] == [label.to_dict() for label in expected]
    assert answered.versions == expected.versions
    assert [label.label for label in answered][3:7] == ["cat", "coffee", "rocket", "cat"]
    assert answered[7].status == "error"
    assert {"clip", "clip.text", "text", "image"} & set(answered.versions.primitives)
