"""Recipes, as they are listed, read, kept, compared and checked."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from manyeyes.service.schemas.base import Shape
from manyeyes.service.schemas.labels import EXAMPLE_RECIPE

EXAMPLE_CREATE: Final[dict[str, Any]] = {"recipe": EXAMPLE_RECIPE, "note": "First draft"}
EXAMPLE_VERSION: Final[dict[str, Any]] = {
    "name": "paint",
    "version": "0f1e2d3c4b5a6978",
    "number": 1,
    "is_active": True,
    "source": "store",
    "author": "env-1f2e3d4c",
    "note": "First draft",
    "created_at": "2026-11-23T12:47:12.297119Z",
}
EXAMPLE_VALIDATE: Final[dict[str, Any]] = {"recipe": "name: paint\nclasses: [red]\nlfs: []\n"}
EXAMPLE_PROBLEMS: Final[dict[str, Any]] = {
    "valid": False,
    "problems": [
        {
            "path": "classes",
            "line": 2,
            "code": "invalid_recipe",
            "message": "expected at least 2, got 1",
        }
    ],
}
EXAMPLE_ACTIVATE: Final[dict[str, Any]] = {"version": "0f1e2d3c4b5a6978"}


class RecipeLine(Shape):
    """A recipe in the list.

    fitted: whether a fitted label model labels for it. source: the operator's folder, or the store. number: which
    version of the store.
    """

    name: str
    version: str
    description: str
    classes: list[str]
    fitted: bool
    source: Literal["folder", "store"]
    number: int | None = None


class RecipeFault(Shape):
    """A recipe that cannot be used as it is."""

    name: str
    code: str
    message: str


class RecipeList(Shape):
    """The recipes that have names, and what is wrong with those that cannot be used.

    The first page holds all of the operator's folder; those of the store follow, the newest first.
    """

    recipes: list[RecipeLine]
    broken: list[RecipeFault]
    has_more: bool = False
    next_cursor: str | None = None


class StoredRecipe(BaseModel):
    """A recipe as it is used; it can come back as the `recipe` of a call."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [EXAMPLE_RECIPE]})

    name: str
    classes: list[str]
    lfs: list[dict[str, Any]]


class RecipeCreate(Shape):
    """A recipe to keep, or a new version of one. activate: label with it from now on, where one is there already."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_CREATE]})

    recipe: str | dict[str, Any] = Field(
        description="A whole recipe as an object, or as YAML or JSON text. Its name is the name it is kept under."
    )
    note: str = Field(default="", max_length=2000, description="What is new, for whoever reads the versions.")
    activate: bool = False


class RecipeVersionOut(Shape):
    """One version of a recipe. version: what its text hashes to. number: 1, 2, … in the store; null in the folder."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_VERSION]})

    name: str
    version: str
    number: int | None
    is_active: bool
    source: Literal["folder", "store"]
    author: str | None = None
    note: str = ""
    created_at: str | None = None


class RecipeVersionFull(RecipeVersionOut):
    """One version of a recipe, with the recipe."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [EXAMPLE_VERSION | {"recipe": EXAMPLE_RECIPE}]}
    )

    recipe: StoredRecipe


class RecipeVersionList(Shape):
    """Versions of a recipe, the newest first."""

    data: list[RecipeVersionOut]
    has_more: bool
    next_cursor: str | None = None


class Names(Shape):
    """What one version has and the other has not."""

    added: list[str]
    removed: list[str]


class ClassesDiff(Names):
    """Classes. reordered: whether those in both stand in another order."""

    reordered: bool


class FieldChange(Shape):
    """A field that says something else; null where it is not written."""

    field: str
    before: Any = Field(alias="from")
    after: Any = Field(alias="to")


class Changed(Shape):
    """Something of the same name that is not the same."""

    name: str
    fields: list[FieldChange]


class PartsDiff(Names):
    """Labeling functions or primitives."""

    changed: list[Changed]


class RecipeDiff(Shape):
    """What differs between two versions of a recipe."""

    name: str
    before: str = Field(alias="from", description="The version that is compared.")
    after: str = Field(alias="to", description="The version that it is compared with.")
    same: bool
    classes: ClassesDiff
    lfs: PartsDiff
    primitives: PartsDiff
    settings: list[FieldChange]
    unified: str = Field(description="The same as a unified diff of the YAML.")


class RecipeValidate(Shape):
    """A recipe to look at; nothing is kept."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_VALIDATE]})

    recipe: str | dict[str, Any]


class RecipeProblem(Shape):
    """One thing that is wrong. path: where, such as `lfs[2].prompts`; line: of the text, counted from 1."""

    path: str
    line: int | None = None
    code: str
    message: str


class RecipeValidated(Shape):
    """Whether a recipe can be used here, and all that is wrong with it. version: what it would be kept as."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_PROBLEMS]})

    valid: bool
    problems: list[RecipeProblem]
    name: str | None = None
    version: str | None = None


class RecipeActivate(Shape):
    """Which version to label with. version: its hash, or its number."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_ACTIVATE]})

    version: str | int
