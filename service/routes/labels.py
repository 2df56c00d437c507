"""Having items labeled."""

from __future__ import annotations

from typing import Any, Final

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from manyeyes.errors import InvalidRequest
from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.errors import Refusal, request_id_of
from manyeyes.service.intake.body import read_call
from manyeyes.service.intake.calls import Asks
from manyeyes.service.intake.options import read_options
from manyeyes.service.operations.spans import span
from manyeyes.service.pipeline.engine import Labeled
from manyeyes.service.recipes import resolve
from manyeyes.service.routes.answers import WITH_ITEMS, answers, as_json, body_of
from manyeyes.service.routes.resources import key_id_of
from manyeyes.service.schemas.batches import LabelOptions, StoringCall, StoringForm
from manyeyes.service.schemas.labels import EXAMPLE_CALL, LabelAnswer, LabelCall, LabelForm
from manyeyes.service.store.batches import ToKeep
from manyeyes.service.store.records import Batch
from manyeyes.service.store.store import Store

SHAPES: Final = (LabelAnswer, LabelCall, LabelForm, StoringCall, StoringForm)

_FEW: Final = 4
"""Items whose answer is written sooner than a thread is found for it."""

_ASKS: Final = Asks(options=("store",), example=EXAMPLE_CALL)


def make_router(service: Service) -> APIRouter:
    """Return the routes that label."""
    router = APIRouter(tags=["labels"])
    settings, recipes, engine = service.settings, service.recipes, service.engine

    @router.post(
        "/v1/label",
        summary="Label items",
        responses=answers("LabelAnswer", *WITH_ITEMS, 409),
        openapi_extra=body_of("StoringCall", "StoringForm", EXAMPLE_CALL),
        dependencies=[needs("label")],
    )
    async def label(request: Request) -> Response:
        """Label images, texts, or both, as a stored recipe or one that comes with the call says.

        What is wrong with one item is a row with status `error` in an answer with status 200; the others are labeled.
        A stored recipe with a fitted label model labels each item by itself; otherwise the label model is fitted on the
        items of the call. Where labels are kept, the answer is sent once they are; texts and images never are.
        """
        engine.admit()
        call = await read_call(request, settings, asks=_ASKS)
        store = _store_for(service, read_options(LabelOptions, call.options, example=EXAMPLE_CALL).store)
        served = recipes.at_hand(call.recipe)
        if served is None:
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

        few = len(done.labels) <= _FEW
        batch = None
        if store is not None:
            told = ToKeep(
                key_id=key_id_of(request),
                recipe_name=served.name,
                versions=done.versions,
                labels=done.labels,
                collected=done.collected,
                request_id=request_id_of(request),
            )
            # Rows that wait are written together, on a thread of their own: this is how long the call waits for it.
            with span("store", operation="keep"):
                if few:
                    batch = await store.batches.add_soon(**told)
                else:
                    batch = await anyio.to_thread.run_sync(lambda: store.batches.add(**told))
            request.state.facts["batch"] = batch.id
        if few:
            return as_json(_told(done, served.name, batch))
        return await anyio.to_thread.run_sync(lambda: as_json(_told(done, served.name, batch)))

    return router


def _store_for(service: Service, wanted: bool | None) -> Store | None:
    """Return where the labels of a call are kept, or None where they are not."""
    if wanted and service.store is None:
        raise Refusal(
            InvalidRequest("`store`: this service keeps nothing; leave it out, or send false"),
            example=EXAMPLE_CALL,
        )
    keep = service.settings.store_labels if wanted is None else wanted
    return service.store if keep else None


def _told(done: Labeled, name: str, batch: Batch | None) -> dict[str, Any]:
    rows = [label.to_dict() for label in done.labels]
    if batch is not None:
        rows = [{"label_id": batch.label_id(n), **row} for n, row in enumerate(rows)]
    return {
        **({"batch_id": batch.id} if batch is not None else {}),
        "labels": rows,
        "versions": {
            "recipe": done.versions.recipe,
            "primitives": dict(done.versions.primitives),
            "label_model": done.versions.label_model,
        },
        "recipe": name,
    }
