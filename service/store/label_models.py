"""Fitted label models, and which of them labels for which version of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyeyes.service.store.database import Database
from manyeyes.service.store.records import LabelModelRecord, Page


class LabelModels:
    """The label models of a store. Every change writes a row of the audit in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        *,
        recipe_name: str,
        recipe_version: str,
        files: Mapping[str, bytes],
        author: str,
        batches: Sequence[str] = (),
        metrics: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> LabelModelRecord:
        """Keep a label model; it does not label before ``activate``.

        files: name → content of every file in the folder that ``Labeler.save_label_model`` writes; kind and version
        are read from them.
        Raises RecipeNotFound if there is no such version of a recipe, InvalidRequest if the files are not those.
        """
        raise NotImplementedError

    def list(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        recipe_name: str | None = None,
        recipe_version: str | None = None,
    ) -> Page[LabelModelRecord]:
        """Return label models, the newest first. Raises InvalidRequest for a wrong cursor."""
        raise NotImplementedError

    def get(self, id: str) -> LabelModelRecord:
        """Return a label model without its files. Raises NotFound."""
        raise NotImplementedError

    def files(self, id: str) -> dict[str, bytes]:
        """Return name → content of each file, for a folder that ``Labeler.load_label_model`` reads.

        Raises NotFound, WeightsMismatch if they are not what was kept.
        """
        raise NotImplementedError

    def activate(
        self, id: str, *, author: str, expect: str | None = None, request_id: str | None = None
    ) -> LabelModelRecord:
        """Make a label model the one that labels for its version of its recipe.

        expect: the id of the one that does so now. Raises NotFound; VersionConflict if it is another one.
        """
        raise NotImplementedError

    def deactivate(
        self, recipe_name: str, recipe_version: str, *, author: str, request_id: str | None = None
    ) -> None:
        """Let no stored label model label for a version of a recipe."""
        raise NotImplementedError

    def active(self, recipe_name: str, recipe_version: str) -> LabelModelRecord | None:
        """Return the label model that labels for a version of a recipe, or None."""
        raise NotImplementedError

    def delete(self, id: str, *, author: str, request_id: str | None = None) -> None:
        """Remove a label model. Raises NotFound; VersionConflict while it labels."""
        raise NotImplementedError
