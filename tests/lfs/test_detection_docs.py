"""docs/detection.md: its recipes are recipes, and every field of the primitives that it speaks of is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from manyeyes.recipe import Recipe
from manyeyes.registry import load

PAGE = Path(__file__).resolve().parents[2] / "docs" / "detection.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```$", TEXT, flags=re.M | re.S))
def test_every_recipe_is_one(block: str) -> None:
    recipe = Recipe.parse(block)
    assert Recipe.parse(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("kind", ["detector", "regions"])
def test_every_field_is_explained(kind: str) -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.M))
    fields = set(load("manyeyes.primitives", kind).Spec.model_fields) - {"kind", "sha256"}
    assert fields - {"model"} <= told
