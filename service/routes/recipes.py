"""The recipes that callers may name: those of the operator's folder, and those of the store, in versions."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.recipes import ServedRecipe
from manyeyes.service.routes.answers import answers, ref
from manyeyes.service.routes.recipe_changes import version_row
from manyeyes.service.routes.recipe_diff import diff_recipes
from manyeyes.service.routes.resources import (
    Cursor,
    Limit,
    paged,
    told,
    with_status,
)
from manyeyes.service.schemas.recipes import (
    RecipeDiff,
    RecipeFault,
    RecipeLine,
    RecipeList,
    RecipeVersionFull,
    RecipeVersionList,
    RecipeVersionOut,
    StoredRecipe,
)

SHAPES: Final = (
    RecipeDiff,
    RecipeFault,
    RecipeLine,
    RecipeList,
    RecipeVersionFull,
    RecipeVersionList,
    RecipeVersionOut,
    StoredRecipe,
)

_Name = Annotated[str, Path(max_length=200, examples=["garments"])]
_Version = Annotated[
    str, Path(max_length=64, description="The hash of a version, or its number.", examples=["1"])
]


def make_router(service: Service) -> APIRouter:
    """Return the routes of recipes."""
    router = APIRouter(tags=["recipes"])
    recipes = service.recipes

    @router.get(
        "/v1/recipes",
        summary="List the recipes",
        responses=with_status(answers("RecipeList", 422), 304),
        dependencies=[needs("read")],
    )
    async def list_recipes(request: Request, limit: Limit = 100, cursor: Cursor = None) -> Response:
        """List the recipes of the operator's folder, on the first page, and those of the store."""

        def work() -> Response:
            folder = recipes.survey() if cursor is None else ([], {})
            page = None if service.store is None else service.store.recipes.list(limit, cursor)
            hidden = [one.name for one in page or () if not recipes.in_folder(one.name)]
            stored = recipes.survey(hidden)
            return told(
                request,
                {
                    "recipes": [_line(served) for served in (*folder[0], *stored[0])],
                    "broken": [
                        {"name": name, "code": error.code, "message": str(error)}
                        for name, error in (*folder[1].items(), *stored[1].items())
                    ],
                    "has_more": page is not None and page.next_cursor is not None,
                    "next_cursor": None if page is None else page.next_cursor,
                },
            )

        return await anyio.to_thread.run_sync(work)

    @router.get(
        "/v1/recipes/{name}/versions",
        summary="The versions of a recipe",
        responses=with_status(answers("RecipeVersionList", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def versions(request: Request, name: _Name, limit: Limit = 50, cursor: Cursor = None) -> Response:
        """List the versions of a recipe, the newest first. A recipe of the folder has the one that lies there."""

        def work() -> Response:
            if service.store is None or recipes.in_folder(name):
                return told(
                    request,
                    {"data": [_version_of(recipes.get(name))], "has_more": False, "next_cursor": None},
                )
            return told(request, paged(service.store.recipes.versions(name, limit, cursor), version_row))

        return await anyio.to_thread.run_sync(work)

    @router.get(
        "/v1/recipes/{name}/versions/{version}",
        summary="One version of a recipe",
        responses=with_status(answers("RecipeVersionFull", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def version(request: Request, name: _Name, version: _Version) -> Response:
        served = await anyio.to_thread.run_sync(recipes.get, f"{name}@{version}")
        return told(request, _version_of(served) | {"recipe": served.recipe.document()})

    @router.get(
        "/v1/recipes/{name}/diff",
        summary="What differs between two versions",
        responses=with_status(answers("RecipeDiff", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def diff(
        request: Request,
        name: _Name,
        before: Annotated[str, Query(alias="from", max_length=64, description="A version: hash or number.")],
        after: Annotated[
            str, Query(alias="to", max_length=64, description="Another; left out, the active one.")
        ] = "",
    ) -> Response:
        """Return which classes, labeling functions, primitives and settings differ, and a unified diff of the YAML."""

        def work() -> Response:
            old = recipes.get(f"{name}@{before}")
            new = recipes.get(f"{name}@{after}" if after else name)
            return told(request, diff_recipes(name, old.recipe, new.recipe))

        return await anyio.to_thread.run_sync(work)

    # Last, since such a path takes in those above.
    @router.get(
        "/v1/recipes/{name:path}",
        summary="One recipe, as JSON or YAML",
        responses=with_status(
            answers("StoredRecipe", 404, 422, others={"application/yaml": {"schema": ref("StoredRecipe")}}),
            304,
        ),
        dependencies=[needs("read")],
    )
    async def recipe(
        request: Request,
        name: _Name,
        format: Annotated[Literal["json", "yaml"], Query(description="How to write it.")] = "json",
    ) -> Response:
        """Return the recipe as it is used, in its canonical form; the `ETag` is its version.

        `name@version` names a version.
        """
        served = await anyio.to_thread.run_sync(recipes.get, name)
        told_as = served.recipe
        if format == "yaml":
            return told(request, told_as.to_yaml(), etag=told_as.version, media_type="application/yaml")
        return told(request, told_as.to_json(), etag=told_as.version)

    return router


def _line(served: ServedRecipe) -> dict[str, Any]:
    return {
        "name": served.name,
        "version": served.recipe.version,
        "description": served.recipe.description,
        "classes": list(served.recipe.classes),
        "fitted": served.label_model is not None,
        "source": "folder" if served.version is None else "store",
        "number": None if served.version is None else served.version.number,
    }


def _version_of(served: ServedRecipe) -> dict[str, Any]:
    if served.version is not None:
        return version_row(served.version)
    return {
        "name": served.name,
        "version": served.recipe.version,
        "number": None,
        "is_active": True,
        "source": "folder",
        "author": None,
        "note": "",
        "created_at": None,
    }
