"""Recipes of the store, as they are changed: kept in versions, checked, put to use, taken out of use."""

from __future__ import annotations

from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from manyeyes.errors import AlreadyExists, InvalidRecipe, ManyeyesError, NotPermitted, RecipeNotFound
from manyeyes.recipe import Recipe
from manyeyes.recipe_errors import path_text
from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.recipes import read_untrusted
from manyeyes.service.routes.answers import answers
from manyeyes.service.routes.resources import (
    by_whom,
    iso,
    read_shape,
    require_match,
    store_of,
    takes,
    told,
    with_status,
)
from manyeyes.service.schemas.recipes import (
    EXAMPLE_ACTIVATE,
    EXAMPLE_CREATE,
    EXAMPLE_VALIDATE,
    RecipeActivate,
    RecipeCreate,
    RecipeProblem,
    RecipeValidate,
    RecipeValidated,
    RecipeVersionFull,
    RecipeVersionOut,
)
from manyeyes.service.store.records import RecipeVersion

SHAPES: Final = (
    RecipeActivate,
    RecipeCreate,
    RecipeProblem,
    RecipeValidate,
    RecipeValidated,
    RecipeVersionFull,
    RecipeVersionOut,
)

_Name = Annotated[str, Path(max_length=200, examples=["garments"])]
_WRITES: Final = (404, 408, 409, 412, 413, 415, 422)


def make_router(service: Service) -> APIRouter:
    """Return the routes that change recipes."""
    router = APIRouter(tags=["recipes"])
    recipes, settings = service.recipes, service.settings

    @router.post(
        "/v1/recipes",
        summary="Keep a recipe, or a new version of one",
        status_code=201,
        responses=with_status(answers("RecipeVersionFull", *_WRITES, status=201), 200),
        openapi_extra=takes("RecipeCreate", EXAMPLE_CREATE),
        dependencies=[needs("admin")],
    )
    async def create(request: Request) -> Response:
        """Keep a recipe under its name. Its first version is active at once, a later one with `activate`.

        A text that is there already is answered with its version and status 200. With `If-Match`, nothing is done
        unless the active version is the one named.
        """
        store = store_of(service)
        asked = await read_shape(request, RecipeCreate, EXAMPLE_CREATE)
        who = by_whom(request)

        def work() -> Response:
            recipe = read_untrusted(asked.recipe, settings)
            if recipes.in_folder(recipe.name):
                raise AlreadyExists(
                    f"a recipe {recipe.name!r} lies in the operator's folder, and goes before the store; choose another"
                    " name"
                )
            try:
                active = store.recipes.get(recipe.name)
            except RecipeNotFound:
                active = None
            matched = require_match(request, active.version if active else "")
            known = active is not None and _is_known(service, recipe)
            kept = store.recipes.create(recipe.name, recipe.canonical(), note=asked.note, **who)
            if asked.activate and not kept.is_active:
                expect = active.version if matched and active is not None else None
                kept = store.recipes.activate(recipe.name, kept.version, expect=expect, **who)
            recipes.forget(recipe.name)
            return told(
                request,
                version_row(kept) | {"recipe": recipe.document()},
                status=200 if known else 201,
                etag=kept.version,
                location=f"/v1/recipes/{kept.name}/versions/{kept.version}",
            )

        return await anyio.to_thread.run_sync(work)

    @router.post(
        "/v1/recipes/validate",
        summary="Look whether a recipe can be used",
        responses=with_status(answers("RecipeValidated", 408, 409, 413, 415, 422)),
        openapi_extra=takes("RecipeValidate", EXAMPLE_VALIDATE),
        dependencies=[needs("read")],
    )
    async def validate(request: Request) -> Response:
        """Return all that is wrong with a recipe, with paths and lines. Nothing is kept."""
        asked = await read_shape(request, RecipeValidate, EXAMPLE_VALIDATE)

        def work() -> Response:
            try:
                recipe = read_untrusted(asked.recipe, settings)
            except (InvalidRecipe, ManyeyesError) as error:
                return told(request, {"valid": False, "problems": _problems(error)})
            return told(
                request,
                {"valid": True, "problems": [], "name": recipe.name, "version": recipe.version},
            )

        return await anyio.to_thread.run_sync(work)

    @router.post(
        "/v1/recipes/{name}/activate",
        summary="Label with a version from now on",
        responses=with_status(answers("RecipeVersionOut", *_WRITES)),
        openapi_extra=takes("RecipeActivate", EXAMPLE_ACTIVATE),
        dependencies=[needs("admin")],
    )
    async def activate(request: Request, name: _Name) -> Response:
        """Make a version the one that calls by name are labeled with; every replica does so within seconds.

        With `If-Match`, only where the version that is active now is the one named.
        """
        store = store_of(service)
        asked = await read_shape(request, RecipeActivate, EXAMPLE_ACTIVATE)
        who = by_whom(request)

        def work() -> Response:
            _refuse_folder(service, name)
            expect = None
            if "if-match" in request.headers:
                active = store.recipes.get(name).version
                require_match(request, active)
                expect = active
            kept = store.recipes.activate(name, _number(asked.version), expect=expect, **who)
            recipes.forget(name)
            return told(request, version_row(kept), etag=kept.version)

        return await anyio.to_thread.run_sync(work)

    @router.delete(
        "/v1/recipes/{name}",
        summary="Take a recipe out of use, or remove it",
        status_code=204,
        responses=answers(None, 404, 412, 422, status=204),
        dependencies=[needs("admin")],
    )
    async def delete(
        request: Request,
        name: _Name,
        purge: Annotated[bool, Query(description="Remove all versions and label models for good.")] = False,
    ) -> Response:
        """Take a recipe out of use. Its versions can still be named; sending one again brings the recipe back."""
        store = store_of(service)
        who = by_whom(request)

        def work() -> None:
            _refuse_folder(service, name)
            if "if-match" in request.headers:
                require_match(request, store.recipes.get(name).version)
            (store.recipes.delete if purge else store.recipes.archive)(name, **who)
            recipes.forget(name)

        await anyio.to_thread.run_sync(work)
        return Response(status_code=204)

    return router


def _refuse_folder(service: Service, name: str) -> None:
    if service.recipes.in_folder(name):
        raise NotPermitted(
            f"recipe {name!r} lies in the operator's folder, which is changed on the machine and not over HTTP"
        )


def _is_known(service: Service, recipe: Recipe) -> bool:
    assert service.store is not None
    try:
        service.store.recipes.get(recipe.name, recipe.version)
    except RecipeNotFound:
        return False
    return True


def _number(version: str | int) -> str | int:
    if isinstance(version, str) and version.isascii() and version.isdecimal() and len(version) < 10:
        return int(version)
    return version


def _problems(error: ManyeyesError) -> list[dict[str, Any]]:
    found = error.problems if isinstance(error, InvalidRecipe) else ()
    if not found:
        return [{"path": "", "line": None, "code": error.code, "message": str(error)}]
    return [
        {
            "path": path_text(problem.path),
            "line": problem.line,
            "code": error.code,
            "message": problem.message,
        }
        for problem in found
    ]


def version_row(kept: RecipeVersion) -> dict[str, Any]:
    """Return a version of the store, as the shape ``RecipeVersionOut``."""
    return {
        "name": kept.name,
        "version": kept.version,
        "number": kept.number,
        "is_active": kept.is_active,
        "source": "store",
        "author": kept.author,
        "note": kept.note,
        "created_at": iso(kept.created_at),
    }
