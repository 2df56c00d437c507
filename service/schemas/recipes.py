"""Recipes, as they are listed and read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from manyeyes.service.schemas.base import Shape
from manyeyes.service.schemas.labels import EXAMPLE_RECIPE


class RecipeLine(Shape):
    """A stored recipe in the list. fitted: whether a fitted label model lies beside it."""

    name: str
    version: str
    description: str
    classes: list[str]
    fitted: bool


class RecipeFault(Shape):
    """A recipe file that cannot be used as it is."""

    name: str
    code: str
    message: str


class RecipeList(Shape):
    """Every stored recipe, and what is wrong with the files that are none."""

    recipes: list[RecipeLine]
    broken: list[RecipeFault]


class StoredRecipe(BaseModel):
    """A recipe as it is used; it can come back as the `recipe` of a call."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [EXAMPLE_RECIPE]})

    name: str
    classes: list[str]
    lfs: list[dict[str, Any]]
