"""Having items labeled."""

from __future__ import annotations

from typing import Final

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.intake.body import read_call
from manyeyes.service.pipeline.engine import Labeled
from manyeyes.service.recipes import resolve
from manyeyes.service.routes.answers import answers, as_json, ref
from manyeyes.service.schemas.labels import EXAMPLE_CALL, LabelAnswer, LabelCall, LabelForm

SHAPES: Final = (LabelAnswer, LabelCall, LabelForm)

_LABEL_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ref("LabelCall"), "example": EXAMPLE_CALL},
            "multipart/form-data": {"schema": ref("LabelForm")},
        },
    }
}


def make_router(service: Service) -> APIRouter:
    """Return the routes that label."""
    router = APIRouter(tags=["labels"])
    settings, recipes, engine = service.settings, service.recipes, service.engine

    @router.post(
        "/v1/label",
        summary="Label items",
        responses=answers("LabelAnswer", 404, 408, 413, 415, 422, 501),
        openapi_extra=_LABEL_BODY,
        dependencies=[needs("label")],
    )
    async def label(request: Request) -> Response:
        """Label images, texts, or both, as a stored recipe or one that comes with the call says.

        What is wrong with one item is a row with status `error` in an answer with status 200; the others are labeled.
        A stored recipe with a fitted label model labels each item by itself; otherwise the label model is fitted on the
        items of the call.
        """
        engine.admit()
        call = await read_call(request, settings)
        served = await anyio.to_thread.run_sync(
            lambda: resolve(call.recipe, store=recipes, settings=settings)
        )
        done = await engine.label(call.rows, served, is_gone=request.is_disconnected)
        request.state.facts |= {
            "recipe": served.name if served.stored else None,
            "recipe_version": done.versions.recipe,
            "n_items": len(done.labels),
            "n_errors": sum(label.status == "error" for label in done.labels),
        }
        return await anyio.to_thread.run_sync(_answer, done, served.name)

    return router


def _answer(done: Labeled, name: str) -> Response:
    return as_json(
        {
            "labels": [label.to_dict() for label in done.labels],
            "versions": {
                "recipe": done.versions.recipe,
                "primitives": dict(done.versions.primitives),
                "label_model": done.versions.label_model,
            },
            "recipe": name,
        }
    )
