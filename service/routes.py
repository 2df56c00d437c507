"""What can be asked over HTTP, and how each question reads in OpenAPI."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from manyeyes.service.calls import Call, call_from_form, call_from_json
from manyeyes.service.errors import MEDIA_TYPE
from manyeyes.service.labeling import LabelingLine
from manyeyes.service.multipart import read_parts
from manyeyes.service.recipes import RecipeStore, ServedRecipe, resolve
from manyeyes.service.schemas import EXAMPLE_CALL
from manyeyes.service.settings import ServiceSettings
from manyeyes.types import Label, Versions


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answers(shape: str, *problems: int, **others: Any) -> dict[int | str, dict[str, Any]]:
    told = {
        401: "No key, or a wrong one",
        403: "The recipe asks for what only the operator may ask for",
        404: "No recipe of that name is stored",
        408: "The body took too long to arrive",
        413: "More bytes or items than the service takes at once",
        415: "Neither JSON nor a form",
        422: "The call or the recipe cannot be used as written",
        500: "The service failed",
        501: "An optional package is not installed on the service",
        503: "Too much waits already; come back after `Retry-After` seconds",
    }
    return {
        200: {"description": "OK", "content": {"application/json": {"schema": _ref(shape)}} | others},
        **{
            status: {"description": told[status], "content": {MEDIA_TYPE: {"schema": _ref("Problem")}}}
            for status in problems
        },
    }


_LABEL_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _ref("LabelCall"), "example": EXAMPLE_CALL},
            "multipart/form-data": {"schema": _ref("LabelForm")},
        },
    }
}


def make_router(*, settings: ServiceSettings, store: RecipeStore, line: LabelingLine) -> APIRouter:
    """Return every route, bound to one service's settings, recipes and waiting line."""
    router = APIRouter()

    @router.get("/healthz", summary="Does the process answer?", responses=_answers("Health"))
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @router.post(
        "/v1/label",
        summary="Label items",
        responses=_answers("LabelAnswer", 401, 403, 404, 408, 413, 415, 422, 500, 501, 503),
        openapi_extra=_LABEL_BODY,
    )
    async def label(request: Request) -> Response:
        """Label images, texts, or both, as a stored recipe or one that comes with the call says.

        What is wrong with one item is a row with status `error` in an answer with status 200; the others are labeled.
        A stored recipe with a fitted label model labels each item by itself; otherwise the label model is fitted on the
        items of the call.
        """
        line.refuse_if_full()
        call = await _read(request, settings)
        served = await anyio.to_thread.run_sync(lambda: resolve(call.recipe, store=store, settings=settings))
        labels, versions = await line.label(call.rows, served, is_gone=request.is_disconnected)
        request.state.facts |= {
            "recipe": served.name if served.stored else None,
            "recipe_version": versions.recipe,
            "n_items": len(labels),
            "n_errors": sum(label.status == "error" for label in labels),
        }
        return await anyio.to_thread.run_sync(_answer, labels, versions, served.name)

    @router.get("/v1/recipes", summary="List the stored recipes", responses=_answers("RecipeList", 401, 500))
    async def recipes() -> Response:
        sound, broken = await anyio.to_thread.run_sync(store.survey)
        return _json(
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
        responses=_answers(
            "StoredRecipe", 401, 404, 422, 500, **{"application/yaml": {"schema": {"type": "string"}}}
        ),
    )
    async def recipe(
        name: Annotated[str, Path(max_length=200, examples=["garments"])],
        format: Annotated[Literal["json", "yaml"], Query(description="How to write it.")] = "json",
    ) -> Response:
        """Return the recipe as it is used, in its canonical form; the `ETag` is its version."""
        served = await anyio.to_thread.run_sync(store.get, name)
        headers = {"ETag": f'"{served.recipe.version}"'}
        if format == "yaml":
            return Response(served.recipe.to_yaml(), media_type="application/yaml", headers=headers)
        return Response(served.recipe.to_json(), media_type="application/json", headers=headers)

    return router


async def _read(request: Request, settings: ServiceSettings) -> Call:
    """Read the body of a call to label; base64 and JSON are undone off the event loop."""
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        parts = await read_parts(content_type, request.stream(), max_parts=2 * settings.max_items + 2)
        return await anyio.to_thread.run_sync(lambda: call_from_form(parts, max_items=settings.max_items))
    if media_type == "application/json":
        body = await request.body()
        return await anyio.to_thread.run_sync(lambda: call_from_json(body, max_items=settings.max_items))
    raise HTTPException(
        415,
        f"the Content-Type is {content_type[:100]!r}; send application/json, or multipart/form-data for image files",
    )


def _answer(labels: list[Label], versions: Versions, name: str) -> Response:
    return _json(
        {
            "labels": [label.to_dict() for label in labels],
            "versions": {
                "recipe": versions.recipe,
                "primitives": dict(versions.primitives),
                "label_model": versions.label_model,
            },
            "recipe": name,
        }
    )


def _line(served: ServedRecipe) -> dict[str, Any]:
    return {
        "name": served.name,
        "version": served.recipe.version,
        "description": served.recipe.description,
        "classes": list(served.recipe.classes),
        "fitted": served.label_model is not None,
    }


def _json(content: Any) -> Response:
    # repr of a float is read back as the same float, so labels come out as they went in; NaN would be no JSON.
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")
