"""Groups of calls for async code, such as ``client.recipes``; what they do and raise is told in ``resources``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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


class AsyncAsk(Protocol):
    """Sends a call and returns its answer."""

    async def __call__(self, call: Call[T], /) -> T:
        """Send it."""
        ...


class AsyncGroup:
    """Calls of one client. ask: sends one and returns its answer."""

    def __init__(self, ask: AsyncAsk) -> None:
        self._ask = ask

    async def _pages(self, page: Callable[[str | None], Call[Page[T]]]) -> AsyncIterator[T]:
        cursor: str | None = None
        while True:
            told = await self._ask(page(cursor))
            for one in told.items:
                yield one
            cursor = told.next_cursor
            if cursor is None:
                return


class AsyncRecipes(AsyncGroup):
    """The recipes that callers may name, and their versions."""

    async def __call__(self) -> Rows:
        """Return all recipes as the service tells of them; see :meth:`Recipes.__call__`."""
        return [row async for row in self._pages(routes.recipe_rows)]

    def list(self) -> AsyncIterator[RecipeLine]:
        """Yield the recipes of the operator's folder, then those of the store; see :meth:`Recipes.list`."""
        return self._pages(routes.recipe_lines)

    async def get(self, name: str, version: str | int | None = None) -> RecipeVersion:
        """Return a version with its recipe; see :meth:`Recipes.get`."""
        wanted: str | int | None = version
        if wanted is None:
            wanted = await self._ask(routes.active_version(name))
        return await self._ask(routes.recipe_version(name, wanted))

    async def create(
        self, recipe: RecipeLike, *, note: str = "", activate: bool = False, expect: str | None = None
    ) -> RecipeVersion:
        """Keep a recipe, or a new version of one; see :meth:`Recipes.create`."""
        return await self._ask(
            routes.create_recipe(await asyncio.to_thread(recipe_text, recipe), note, activate, expect)
        )

    def versions(self, name: str) -> AsyncIterator[RecipeVersion]:
        """Yield the versions of a recipe; see :meth:`Recipes.versions`."""
        return self._pages(lambda cursor: routes.recipe_versions(name, cursor))

    async def diff(self, name: str, before: str | int, after: str | int | None = None) -> RecipeDiff:
        """Return what differs between two versions; see :meth:`Recipes.diff`."""
        return await self._ask(routes.diff(name, before, after))

    async def validate(self, recipe: RecipeLike) -> RecipeCheck:
        """Return whether a recipe can be used, and all that is wrong; see :meth:`Recipes.validate`."""
        return await self._ask(routes.validate(await asyncio.to_thread(recipe_text, recipe)))

    async def activate(self, name: str, version: str | int, *, expect: str | None = None) -> RecipeVersion:
        """Label with a version from now on; see :meth:`Recipes.activate`."""
        return await self._ask(routes.activate_recipe(name, version, expect))

    async def delete(self, name: str, *, purge: bool = False, expect: str | None = None) -> None:
        """Take a recipe out of use; see :meth:`Recipes.delete`."""
        await self._ask(routes.delete_recipe(name, purge, expect))


class AsyncLabelModels(AsyncGroup):
    """Label models, fitted on what was labeled before."""

    async def fit(
        self,
        recipe: str,
        batches: Sequence[BatchLike],
        *,
        version: str | int | None = None,
        label_model: str | Mapping[str, Any] | None = None,
        gold: Mapping[str, str] | None = None,
        activate: bool = False,
    ) -> LabelModel:
        """Fit a label model on the votes of stored batches; see :meth:`LabelModels.fit`."""
        return await self._ask(
            routes.fit(
                recipe, batches, version=version, label_model=label_model, gold=gold, activate=activate
            )
        )

    def list(
        self, *, recipe: str | None = None, recipe_version: str | None = None
    ) -> AsyncIterator[LabelModel]:
        """Yield label models; see :meth:`LabelModels.list`."""
        return self._pages(lambda cursor: routes.label_models(recipe, recipe_version, cursor))

    async def get(self, id: str) -> LabelModel:
        """Return a label model; see :meth:`LabelModels.get`."""
        return await self._ask(routes.label_model(id))

    async def activate(self, id: str, *, expect: str | None = None) -> LabelModel:
        """Label with a label model from now on; see :meth:`LabelModels.activate`."""
        return await self._ask(routes.activate_label_model(id, expect))

    async def compare(
        self, ids: Sequence[str], batches: Sequence[BatchLike], *, gold: Mapping[str, str] | None = None
    ) -> Comparison:
        """Return how far label models agree, and with known labels how good; see :meth:`LabelModels.compare`."""
        return await self._ask(routes.compare(ids, batches, gold))

    async def delete(self, id: str) -> None:
        """Remove a label model that does not label; see :meth:`LabelModels.delete`."""
        await self._ask(routes.delete_label_model(id))


class AsyncBatches(AsyncGroup):
    """The calls whose labels a service keeps."""

    def list(self, *, recipe: str | None = None) -> AsyncIterator[Batch]:
        """Yield batches; see :meth:`Batches.list`."""
        return self._pages(lambda cursor: routes.batches(recipe, cursor))

    async def get(self, id: str) -> Batch:
        """Return a batch; see :meth:`Batches.get`."""
        return await self._ask(routes.batch(id))

    def labels(self, id: str) -> AsyncIterator[Label]:
        """Yield the labels of a batch, in the order of the call; see :meth:`Batches.labels`."""
        return self._pages(lambda cursor: routes.batch_labels(id, cursor))

    async def delete(self, id: str) -> None:
        """Remove a batch with its labels and votes; see :meth:`Batches.delete`."""
        await self._ask(routes.delete_batch(id))


class AsyncKeys(AsyncGroup):
    """The API keys of a service."""

    async def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        expires_at: datetime | None = None,
        rate_per_minute: int | None = None,
    ) -> Key:
        """Make a key; see :meth:`Keys.create`."""
        return await self._ask(routes.create_key(name, scopes, expires_at, rate_per_minute))

    def list(self) -> AsyncIterator[Key]:
        """Yield the keys of the store; see :meth:`Keys.list`."""
        return self._pages(routes.keys)

    async def get(self, id: str) -> Key:
        """Return a key without its secret; see :meth:`Keys.get`."""
        return await self._ask(routes.key(id))

    async def revoke(self, id: str) -> Key:
        """End a key for good; see :meth:`Keys.revoke`."""
        return await self._ask(routes.revoke(id))
