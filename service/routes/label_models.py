"""Label models: fitted on what was labeled before, compared, and put to use."""

from __future__ import annotations

from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.pipeline.fits import Fits, compare, fit
from manyeyes.service.routes.answers import answers
from manyeyes.service.routes.resources import (
    Cursor,
    Limit,
    Only,
    by_whom,
    iso,
    paged,
    read_shape,
    require_match,
    store_of,
    takes,
    told,
    with_status,
)
from manyeyes.service.schemas.label_models import (
    EXAMPLE_COMPARE,
    EXAMPLE_FIT,
    Agreement,
    Compared,
    Comparison,
    LabelModelCompare,
    LabelModelFit,
    LabelModelList,
    LabelModelOut,
)
from manyeyes.service.store.records import LabelModelRecord

SHAPES: Final = (
    Agreement,
    Compared,
    Comparison,
    LabelModelCompare,
    LabelModelFit,
    LabelModelList,
    LabelModelOut,
)

_Id = Annotated[str, Path(max_length=100, examples=["01a2087235b57de4919a448d9bbe7d0f"])]
_TAKES: Final = (404, 408, 409, 413, 415, 422)


def make_router(service: Service) -> APIRouter:
    """Return the routes of label models."""
    router = APIRouter(tags=["label models"])
    recipes, settings, fits = service.recipes, service.settings, Fits()

    @router.post(
        "/v1/label-models",
        summary="Fit a label model",
        status_code=201,
        responses=with_status(answers("LabelModelOut", *_TAKES, status=201)),
        openapi_extra=takes("LabelModelFit", EXAMPLE_FIT),
        dependencies=[needs("admin")],
    )
    async def create(request: Request) -> Response:
        """Fit a label model on the votes of stored batches. With `activate`, it labels from now on.

        With gold labels, `accuracy` and `log_loss` are of labels that the label model had not seen.
        """
        store = store_of(service)
        asked = await read_shape(request, LabelModelFit, EXAMPLE_FIT)
        who = by_whom(request)

        def work() -> Response:
            name = asked.recipe if asked.version is None else f"{asked.recipe}@{asked.version}"
            record = fit(
                store,
                recipes.get(name),
                batches=asked.batches,
                label_model=asked.label_model,
                gold=asked.gold,
                allowed_models=settings.allowed_models,
                max_items=settings.max_fit_items,
                **who,
            )
            if asked.activate:
                record = store.label_models.activate(record.id, **who)
                recipes.forget(record.recipe_name)
            return told(request, _record(record), status=201, location=f"/v1/label-models/{record.id}")

        return await fits.run(work)

    @router.get(
        "/v1/label-models",
        summary="List the label models",
        responses=with_status(answers("LabelModelList", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def label_models(
        request: Request,
        limit: Limit = 50,
        cursor: Cursor = None,
        recipe: Only = None,
        recipe_version: Only = None,
    ) -> Response:
        """List the label models of the store, the newest first."""
        store = store_of(service)
        page = await anyio.to_thread.run_sync(
            lambda: store.label_models.list(
                limit, cursor, recipe_name=recipe or None, recipe_version=recipe_version or None
            )
        )
        return told(request, paged(page, _record))

    @router.post(
        "/v1/label-models/compare",
        summary="Hold label models beside each other",
        responses=with_status(answers("Comparison", *_TAKES)),
        openapi_extra=takes("LabelModelCompare", EXAMPLE_COMPARE),
        dependencies=[needs("read")],
    )
    async def compare_models(request: Request) -> Response:
        """Return how far label models agree on the items of some batches, and with gold labels how good they are.

        Give gold labels that none of them was fitted with, or the one that was looks better than it is.
        """
        store = store_of(service)
        asked = await read_shape(request, LabelModelCompare, EXAMPLE_COMPARE)

        def work() -> Response:
            found = compare(
                recipes,
                store,
                asked.ids,
                batches=asked.batches,
                gold=asked.gold,
                max_items=settings.max_fit_items,
            )
            return told(request, found)

        return await fits.run(work)

    @router.get(
        "/v1/label-models/{id}",
        summary="One label model",
        responses=with_status(answers("LabelModelOut", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def label_model(request: Request, id: _Id) -> Response:
        store = store_of(service)
        return told(request, _record(await anyio.to_thread.run_sync(store.label_models.get, id)))

    @router.post(
        "/v1/label-models/{id}/activate",
        summary="Label with a label model from now on",
        responses=with_status(answers("LabelModelOut", 404, 408, 409, 412, 413, 422)),
        dependencies=[needs("admin")],
    )
    async def activate(request: Request, id: _Id) -> Response:
        """Make a label model the one that labels for its version of its recipe; every replica does within seconds.

        With `If-Match`, only where the id of the one that labels now is the one named.
        """
        store = store_of(service)
        who = by_whom(request)

        def work() -> Response:
            expect = None
            if "if-match" in request.headers:
                wanted = store.label_models.get(id)
                active = store.label_models.active(wanted.recipe_name, wanted.recipe_version)
                require_match(request, active.id if active else "")
                expect = active.id if active else None
            record = store.label_models.activate(id, expect=expect, **who)
            recipes.forget(record.recipe_name)
            return told(request, _record(record))

        return await anyio.to_thread.run_sync(work)

    @router.post(
        "/v1/label-models/{id}/deactivate",
        summary="Label without a label model from now on",
        responses=with_status(answers("LabelModelOut", 404, 408, 409, 413, 422)),
        dependencies=[needs("admin")],
    )
    async def deactivate(request: Request, id: _Id) -> Response:
        """Let a label model label no more; calls are labeled with one that is fitted on their own items again."""
        store = store_of(service)
        who = by_whom(request)

        def work() -> Response:
            record = store.label_models.get(id)
            if record.is_active:
                store.label_models.deactivate(record.recipe_name, record.recipe_version, **who)
                recipes.forget(record.recipe_name)
            return told(request, _record(store.label_models.get(id)))

        return await anyio.to_thread.run_sync(work)

    @router.delete(
        "/v1/label-models/{id}",
        summary="Remove a label model",
        status_code=204,
        responses=answers(None, 404, 412, 422, status=204),
        dependencies=[needs("admin")],
    )
    async def delete(request: Request, id: _Id) -> Response:
        """Remove a label model that does not label; the one that does is refused with 412."""
        store = store_of(service)
        who = by_whom(request)
        await anyio.to_thread.run_sync(lambda: store.label_models.delete(id, **who))
        return Response(status_code=204)

    return router


def _record(record: LabelModelRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "created_at": iso(record.created_at),
        "recipe": record.recipe_name,
        "recipe_version": record.recipe_version,
        "kind": record.kind,
        "version": record.version,
        "batches": list(record.batches),
        "metrics": dict(record.metrics),
        "author": record.author,
        "is_active": record.is_active,
    }
