"""Named templates and backgrounds: a set never changes once recipes can name it."""

from __future__ import annotations

import hashlib
import json

import pytest

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.prompt_sets import (
    STANDARD,
    background,
    background_names,
    filled_in,
    template_names,
    template_set,
)

# Recipes name sets, and versions name recipes: give a changed set a new name, and leave these as they are.
TEMPLATES = {
    "photo": "734118d7517ecb8f",
    "text": "2e4d997707c64f8a",
    "imagenet-short": "2104fe2593416a8a",
    "small": "e8e30f40c7ce24fc",
    "shop": "f1f0852507c70529",
    "indoors": "2099e759354867d8",
    "drawn": "829ce9c816e2730b",
    "from-above": "a0b9c153672e34d2",
    "topic": "59c631991d2b835c",
    "opinion": "0d2d13a0013999cd",
}
BACKGROUNDS = {
    "standard": "fb2cd39322c39c04",
    "animals": "a214f7e34ad83926",
    "plants": "dd5d0f396321a83f",
    "food": "6d2b04a46be48878",
    "drinks": "1cd1f43ea72660d1",
    "kitchen": "7538935e2f1b89d0",
    "furniture": "d3c7edea50a31128",
    "rooms": "88a4e6de93b3fa44",
    "buildings": "15bba22d99559acc",
    "vehicles": "c94a467210d2236a",
    "tools": "0902e091bbd014e6",
    "machines": "a6ebef2fa77ce799",
    "music": "36b93df06f20bd62",
    "sports": "f0b1a1a1dd996cb9",
    "things": "32c5949ac86298f6",
    "clothing": "c7af5920ebfc0327",
    "people": "42332a48f945ba37",
    "nature": "e0bf1fde273d9a4b",
    "towns": "b044dc4813ea9e66",
    "surfaces": "51104fa187539209",
    "pictures": "4e772a220c90b9a7",
}


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def test_no_set_of_templates_has_changed() -> None:
    assert {name: digest(template_set(name)) for name in template_names()} == TEMPLATES


def test_no_background_has_changed() -> None:
    found = {name: digest(background([name], "image")) for name in background_names()}
    assert found == BACKGROUNDS


@pytest.mark.parametrize("name", template_names())
def test_a_set_holds_templates(name: str) -> None:
    templates = template_set(name)
    assert templates and len(set(templates)) == len(templates)
    assert all(template.count("{}") == 1 for template in templates)


def test_standard_is_every_kind_each_thing_once() -> None:
    every = background([STANDARD], "image")
    kinds = [kind for kind in background_names() if kind != STANDARD]
    assert len(every) == len(set(every)) > 300
    assert set(every) == {text for kind in kinds for text in background([kind], "image")}
    assert background([STANDARD, "rooms"], "image") == every
    assert background(["rooms", "food"], "image") == background(["food", "rooms"], "image")
    assert background([], "image") == ()
    assert background(["rooms"], "text")[0].startswith("a text about")


def test_names_stand_for_their_templates() -> None:
    assert filled_in(["photo", "a {} here", "a photo of a {}"]) == (*template_set("photo"), "a {} here")


def test_a_wrong_name_is_told_what_is_allowed() -> None:
    with pytest.raises(InvalidRecipe, match=r"name a set: photo, text, .*did you mean 'photo'"):
        filled_in(["phot"])
    with pytest.raises(InvalidRecipe, match="stand under against; did you mean 'standard'"):
        background(["standrd"], "image")
