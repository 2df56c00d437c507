"""The models that callers may name, as OpenAI's clients list them."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, Path
from starlette.responses import Response

from manyeyes.errors import ManyeyesError
from manyeyes.primitives.base import Primitive
from manyeyes.recipe_parts import default_primitive
from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.pipeline.offered import Offered, find, has_embeddings, offered
from manyeyes.service.routes.answers import answers, as_json
from manyeyes.service.schemas.models import ModelList, ModelOut

SHAPES: Final = (ModelList, ModelOut)

_AGPL: Final = (
    "detectors run in ultralytics (AGPL-3.0), which asks those who offer a service with it to offer its source too,"
    " unless they bought another licence"
)


def make_router(service: Service) -> APIRouter:
    """Return the routes of models."""
    router = APIRouter(tags=["models"])
    allowed = service.settings.allowed_models

    @router.get(
        "/v1/models",
        summary="List the models that callers may name",
        responses=answers("ModelList"),
        dependencies=[needs("read")],
    )
    async def models() -> Response:
        """Return the usual model of each kind, and those that the operator listed; OpenAI's clients can read it."""
        told = await anyio.to_thread.run_sync(lambda: [_told(one) for one in offered(allowed)])
        return as_json({"object": "list", "data": told})

    @router.get(
        "/v1/models/{id:path}",
        summary="One model",
        responses=answers("ModelOut", 404, 422),
        dependencies=[needs("read")],
    )
    async def model(id: Annotated[str, Path(min_length=1, max_length=500, examples=["clip"])]) -> Response:
        return as_json(await anyio.to_thread.run_sync(lambda: _told(find(id, allowed))))

    return router


def _told(one: Offered) -> dict[str, Any]:
    primitives = one.primitives
    main = [
        primitive
        for name, primitive in primitives.items()
        if name in (one.spec.kind, f"{one.spec.kind}.text")
    ]
    versions: dict[str, str] = {}
    with suppress(ManyeyesError):  # the checkpoint is not here; `available` says so
        versions = {primitive.name: primitive.version for primitive in main}
    loaded = all(getattr(primitive, "is_loaded", True) for primitive in main)
    note = one.listed.note if one.listed is not None else "listed by the operator"
    return {
        "id": one.id,
        "object": "model",
        "created": 0,
        "owned_by": "manyeyes",
        "kind": one.spec.kind,
        "model": one.spec.model,
        "task": one.task,
        "modalities": sorted({primitive.modality for primitive in main}),
        "dim": _dim(one, main[0], known=bool(versions) and loaded),
        "available": bool(versions),
        "loaded": bool(versions) and loaded,
        "versions": versions,
        "licence": one.listed.licence if one.listed is not None else None,
        "note": f"{note}; {_AGPL}" if one.task == "detect" else note,
    }


def _dim(one: Offered, primitive: Primitive, *, known: bool) -> int | None:
    """Return the length of embeddings, unless a model would have to be loaded to learn it."""
    usual = one.spec.model == default_primitive(one.spec.kind).model
    if one.task != "embed" or not (known or usual):
        return None
    dtype = primitive.dtype
    return int(dtype["embedding"].shape[0]) if has_embeddings(dtype) else None
