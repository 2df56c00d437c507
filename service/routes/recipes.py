"""The recipes that callers may name."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import anyio.to_thread
from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.recipes import ServedRecipe
from manyeyes.service.routes.answers import answers, as_json
from manyeyes.service.schemas.recipes import RecipeFault, RecipeLine, RecipeList, StoredRecipe

SHAPES: Final = (RecipeFault, RecipeLine, RecipeList, StoredRecipe)


def make_router(service: Service) -> APIRouter:
    """Return the routes of recipes."""
    router = APIRouter(tags=["recipes"])

    @router.get(
        "/v1/recipes",
        summary="List the stored recipes",
        responses=answers("RecipeList"),
        dependencies=[needs("read")],
    )
    async def recipes() -> Response:
        sound, broken = await anyio.to_thread.run_sync(service.recipes.survey)
        return as_json(
            {
                "recipes": [_line(served) for served in sound],
                "broken": [
                    {"name": name, "code": error.code, "message": str(error)}
                    for name, error in broken.items()
                ],
            }
        )

    @router.get(
        "/v1/recipes/{name:path}",
        summary="One stored recipe, as JSON or YAML",
        responses=answers(
            "StoredRecipe", 404, 422, others={"application/yaml": {"schema": {"type": "string"}}}
        ),
        dependencies=[needs("read")],
    )
    async def recipe(
        name: Annotated[str, Path(max_length=200, examples=["garments"])],
        format: Annotated[Literal["json", "yaml"], Query(description="How to write it.")] = "json",
    ) -> Response:
        """Return the recipe as it is used, in its canonical form; the `ETag` is its version."""
        served = await anyio.to_thread.run_sync(service.recipes.get, name)
        headers = {"ETag": f'"{served.recipe.version}"'}
        if format == "yaml":
            return Response(served.recipe.to_yaml(), media_type="application/yaml", headers=headers)
        return Response(served.recipe.to_json(), media_type="application/json", headers=headers)

    return router


def _line(served: ServedRecipe) -> dict[str, Any]:
    return {
        "name": served.name,
        "version": served.recipe.version,
        "description": served.recipe.description,
        "classes": list(served.recipe.classes),
        "fitted": served.label_model is not None,
    }
