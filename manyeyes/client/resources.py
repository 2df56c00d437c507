"""Groups of calls, such as ``client.recipes``. Lists are iterators, which ask for the next page when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from manyeyes.client import resource_routes as routes
from manyeyes.client.calls import Call, T
from manyeyes.client.items import RecipeLike, recipe_text
from manyeyes.client.kept import (
    Batch,
    Comparison,
    Key,
    LabelModel,
    Page,
    RecipeCheck,
    RecipeDiff,
    RecipeLine,
    RecipeVersion,
)
from manyeyes.client.resource_routes import BatchLike, Rows, Scope
from manyeyes.types import Label


class Ask(Protocol):
    """Sends a call and returns its answer."""

    def __call__(self, call: Call[T], /) -> T:
        """Send it."""
        ...


class Group:
    """Calls of one client. ask: sends one and returns its answer."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def _pages(self, page: Callable[[str | None], Call[Page[T]]]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            told = self._ask(page(cursor))
            yield from told.items
            cursor = told.next_cursor
            if cursor is None:
                return


class Recipes(Group):
    """The recipes that callers may name, and their versions."""

    def __call__(self) -> Rows:
        """Return all recipes as the service tells of them; ``list()`` has the same as records."""
        return list(self._pages(routes.recipe_rows))

    def list(self) -> Iterator[RecipeLine]:
        """Yield the recipes of the operator's folder, then those of the store, the newest first."""
        return self._pages(routes.recipe_lines)

    def get(self, name: str, version: str | int | None = None) -> RecipeVersion:
        """Return a version with its recipe. version: hash or number; None for the active one. Raises RecipeNotFound."""
        wanted: str | int | None = version
        if wanted is None:
            wanted = self._ask(routes.active_version(name))
        return self._ask(routes.recipe_version(name, wanted))

    def create(
        self, recipe: RecipeLike, *, note: str = "", activate: bool = False, expect: str | None = None
    ) -> RecipeVersion:
        """Keep a recipe, or a new version of one; what is kept already is returned as it is.

        The first version is active at once, a later one with ``activate``. expect: the version that is active now.
        Raises InvalidRecipe, UntrustedRecipe, AlreadyExists if one of that name lies in the operator's folder,
        VersionConflict if another version than the one expected is active.
        """
        return self._ask(routes.create_recipe(recipe_text(recipe), note, activate, expect))

    def versions(self, name: str) -> Iterator[RecipeVersion]:
        """Yield the versions of a recipe, the newest first. Raises RecipeNotFound."""
        return self._pages(lambda cursor: routes.recipe_versions(name, cursor))

    def diff(self, name: str, before: str | int, after: str | int | None = None) -> RecipeDiff:
        """Return what differs between two versions; after: None for the active one. Raises RecipeNotFound."""
        return self._ask(routes.diff(name, before, after))

    def validate(self, recipe: RecipeLike) -> RecipeCheck:
        """Return whether a recipe can be used on the service, and all that is wrong with it. Nothing is kept."""
        return self._ask(routes.validate(recipe_text(recipe)))

    def activate(self, name: str, version: str | int, *, expect: str | None = None) -> RecipeVersion:
        """Label with a version from now on. Raises RecipeNotFound, VersionConflict."""
        return self._ask(routes.activate_recipe(name, version, expect))

    def delete(self, name: str, *, purge: bool = False, expect: str | None = None) -> None:
        """Take a recipe out of use; with ``purge``, remove its versions and label models. Raises RecipeNotFound."""
        self._ask(routes.delete_recipe(name, purge, expect))


class LabelModels(Group):
    """Label models, fitted on what was labeled before."""

    def fit(
        self,
        recipe: str,
        batches: Sequence[BatchLike],
        *,
        version: str | int | None = None,
        label_model: str | Mapping[str, Any] | None = None,
        gold: Mapping[str, str] | None = None,
        activate: bool = False,
    ) -> LabelModel:
        """Fit a label model on the votes of stored batches.

        batches: their ids, or what came back when they were labeled. version: of the recipe; None for the active one.
        label_model: as in a recipe; None for the recipe's. gold: known labels, by label id or item id. activate: label
        with it from now on.
        Raises RecipeNotFound, NotFound if a batch is not kept, InvalidRequest if batches do not fit the recipe.
        """
        return self._ask(
            routes.fit(
                recipe, batches, version=version, label_model=label_model, gold=gold, activate=activate
            )
        )

    def list(self, *, recipe: str | None = None, recipe_version: str | None = None) -> Iterator[LabelModel]:
        """Yield label models, the newest first."""
        return self._pages(lambda cursor: routes.label_models(recipe, recipe_version, cursor))

    def get(self, id: str) -> LabelModel:
        """Return a label model. Raises NotFound."""
        return self._ask(routes.label_model(id))

    def activate(self, id: str, *, expect: str | None = None) -> LabelModel:
        """Label with a label model from now on. expect: the id of the one that labels now. Raises VersionConflict."""
        return self._ask(routes.activate_label_model(id, expect))

    def compare(
        self, ids: Sequence[str], batches: Sequence[BatchLike], *, gold: Mapping[str, str] | None = None
    ) -> Comparison:
        """Return how far label models agree, and with known labels how good they are."""
        return self._ask(routes.compare(ids, batches, gold))

    def delete(self, id: str) -> None:
        """Remove a label model that does not label. Raises NotFound, VersionConflict while it labels."""
        self._ask(routes.delete_label_model(id))


class Batches(Group):
    """The calls whose labels a service keeps."""

    def list(self, *, recipe: str | None = None) -> Iterator[Batch]:
        """Yield batches, the newest first."""
        return self._pages(lambda cursor: routes.batches(recipe, cursor))

    def get(self, id: str) -> Batch:
        """Return a batch. Raises NotFound."""
        return self._ask(routes.batch(id))

    def labels(self, id: str) -> Iterator[Label]:
        """Yield the labels of a batch, in the order of the call. Raises NotFound."""
        return self._pages(lambda cursor: routes.batch_labels(id, cursor))

    def delete(self, id: str) -> None:
        """Remove a batch with its labels and votes. Raises NotFound."""
        self._ask(routes.delete_batch(id))


class Keys(Group):
    """The API keys of a service."""

    def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        expires_at: datetime | None = None,
        rate_per_minute: int | None = None,
    ) -> Key:
        """Make a key; its ``secret`` is in this answer and nowhere else. What may have been heard is not sent again."""
        return self._ask(routes.create_key(name, scopes, expires_at, rate_per_minute))

    def list(self) -> Iterator[Key]:
        """Yield the keys of the store, the newest first."""
        return self._pages(routes.keys)

    def get(self, id: str) -> Key:
        """Return a key without its secret. Raises NotFound, also where it was revoked."""
        return self._ask(routes.key(id))

    def revoke(self, id: str) -> Key:
        """End a key for good. Raises NotFound."""
        return self._ask(routes.revoke(id))
