"""Recipes under names, in versions that never change."""

from __future__ import annotations

from manyeyes.service.store.database import Database
from manyeyes.service.store.records import Page, RecipeSummary, RecipeVersion


class Recipes:
    """The recipes of a store. Every change writes a row of the audit in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, text: str, *, author: str, note: str = "", request_id: str | None = None
    ) -> RecipeVersion:
        """Return the version that holds a text, a new one where no version of the recipe does.

        text: ``Recipe.canonical()``. The first version of a recipe is active at once; a later one once ``activate`` is
        called. A text for an archived recipe brings the recipe back.
        """
        raise NotImplementedError

    def list(
        self, limit: int = 50, cursor: str | None = None, *, archived: bool = False
    ) -> Page[RecipeSummary]:
        """Return recipes, the newest first. archived: also those. Raises InvalidRequest for a wrong cursor."""
        raise NotImplementedError

    def versions(self, name: str, limit: int = 50, cursor: str | None = None) -> Page[RecipeVersion]:
        """Return the versions of a recipe, the newest first. Raises RecipeNotFound."""
        raise NotImplementedError

    def get(self, name: str, version: str | int | None = None) -> RecipeVersion:
        """Return a version, by its hash or its number; None is the active one.

        Raises RecipeNotFound, with the nearest name; without a version, also for an archived recipe.
        """
        raise NotImplementedError

    def activate(
        self,
        name: str,
        version: str | int,
        *,
        author: str,
        expect: str | None = None,
        request_id: str | None = None,
    ) -> RecipeVersion:
        """Make a version the one that ``get(name)`` returns. expect: the version that is active now.

        Raises RecipeNotFound; VersionConflict if another version is active than the one expected.
        """
        raise NotImplementedError

    def archive(self, name: str, *, author: str, request_id: str | None = None) -> None:
        """Take a recipe out of use; its versions can still be read by number or hash. Raises RecipeNotFound."""
        raise NotImplementedError

    def delete(self, name: str, *, author: str, request_id: str | None = None) -> None:
        """Remove a recipe, its versions and its label models; labels made with it stay. Raises RecipeNotFound."""
        raise NotImplementedError
