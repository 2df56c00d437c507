"""What was labeled and kept, and why each label is what it is."""

from __future__ import annotations

from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.routes.answers import answers
from manyeyes.service.routes.resources import (
    Cursor,
    Limit,
    Only,
    Position,
    by_whom,
    iso,
    paged,
    store_of,
    told,
    with_status,
)
from manyeyes.service.schemas.batches import (
    BatchLabels,
    BatchList,
    BatchOut,
    Explanation,
)
from manyeyes.service.store.records import Batch, StoredLabel

SHAPES: Final = (BatchLabels, BatchList, BatchOut, Explanation)

_Id = Annotated[str, Path(max_length=100, examples=["01a2087235a972199e0e12e0faf7d7a2"])]
_LabelId = Annotated[str, Path(max_length=100, examples=["01a2087235a972199e0e12e0faf7d7a2-0"])]


def make_router(service: Service) -> APIRouter:
    """Return the routes of what was labeled."""
    router = APIRouter(tags=["labels"])

    @router.get(
        "/v1/batches",
        summary="List what was labeled",
        responses=with_status(answers("BatchList", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def batches(
        request: Request, limit: Limit = 50, cursor: Cursor = None, recipe: Only = None
    ) -> Response:
        """List the calls that were labeled and kept, the newest first."""
        store = store_of(service)
        page = await anyio.to_thread.run_sync(
            lambda: store.batches.list(limit, cursor, recipe_name=recipe or None)
        )
        return told(request, paged(page, _batch))

    @router.get(
        "/v1/batches/{batch_id}",
        summary="One call that was labeled",
        responses=with_status(answers("BatchOut", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def batch(request: Request, batch_id: _Id) -> Response:
        store = store_of(service)
        return told(request, _batch(await anyio.to_thread.run_sync(store.batches.get, batch_id)))

    @router.get(
        "/v1/batches/{batch_id}/labels",
        summary="The labels of a call",
        responses=with_status(answers("BatchLabels", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def labels(
        request: Request, batch_id: _Id, limit: Limit = 100, cursor: Position = None
    ) -> Response:
        """Return labels in the order of the call."""
        store = store_of(service)
        start = int(cursor or 0)

        def work() -> Response:
            found = store.batches.get(batch_id)
            rows = store.batches.labels(batch_id)
            shown = rows[start : start + limit]
            more = start + len(shown) < len(rows)
            return told(
                request,
                {
                    "data": [
                        {"label_id": found.label_id(start + n), **label.to_dict()}
                        for n, label in enumerate(shown)
                    ],
                    "has_more": more,
                    "next_cursor": str(start + len(shown)) if more else None,
                },
            )

        return await anyio.to_thread.run_sync(work)

    @router.delete(
        "/v1/batches/{batch_id}",
        summary="Delete the labels of a call",
        status_code=204,
        responses=answers(None, 404, 422, status=204),
        dependencies=[needs("admin")],
    )
    async def delete(request: Request, batch_id: _Id) -> Response:
        """Remove a batch with its labels and votes; label models that were fitted from it stay."""
        store = store_of(service)
        who = by_whom(request)
        await anyio.to_thread.run_sync(lambda: store.batches.delete(batch_id, **who))
        return Response(status_code=204)

    @router.get(
        "/v1/explain/{label_id}",
        summary="Why a label is what it is",
        responses=with_status(answers("Explanation", 404, 422), 304),
        dependencies=[needs("read")],
    )
    async def explain(request: Request, label_id: _LabelId) -> Response:
        """Return what each labeling function said of an item, and how far that moved its label, in nats.

        `prior` and all that `moved` add up to `log_odds`, the log-odds of `top` against `runner_up`.
        """
        store = store_of(service)
        return told(request, _explained(await anyio.to_thread.run_sync(store.batches.label, label_id)))

    return router


def _batch(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "created_at": iso(batch.created_at),
        "recipe": batch.recipe_name,
        "versions": {
            "recipe": batch.recipe_version,
            "primitives": dict(batch.primitives),
            "label_model": batch.label_model,
        },
        "n_items": batch.n_items,
        "n_errors": batch.n_errors,
        "has_votes": batch.has_votes,
        "key_id": batch.key_id,
        "request_id": batch.request_id,
    }


def _explained(stored: StoredLabel) -> dict[str, Any]:
    label = stored.label
    answer: dict[str, Any] = {
        "label_id": stored.id,
        "batch": _batch(stored.batch),
        "label": {"label_id": stored.id, **label.to_dict()},
    }
    if label.error is not None or label.prior is None:
        return answer
    # The first of equals, as everywhere.
    top = max(label.probs, key=lambda name: label.probs[name])
    reasons = sorted(label.reasons, key=lambda reason: -abs(reason.moved))
    return answer | {
        "top": top,
        "runner_up": label.runner_up,
        "prior": label.prior,
        "reasons": [reason.to_dict() for reason in reasons],
        "log_odds": label.prior + sum(reason.moved for reason in label.reasons),
    }
