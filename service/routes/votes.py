"""What the labeling functions of a recipe say, before a label model weighs it."""

from __future__ import annotations

import math
from typing import Any, Final

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from manyeyes.fitting import Collected
from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.intake.body import read_call
from manyeyes.service.pipeline.versions import versions_of
from manyeyes.service.recipes import ServedRecipe, resolve
from manyeyes.service.routes.answers import WITH_ITEMS, answers, as_json, body_of, item_error
from manyeyes.service.schemas.labels import EXAMPLE_CALL, LabelCall, LabelForm
from manyeyes.service.schemas.votes import VotesAnswer
from manyeyes.types import ABSTAIN, Versions

SHAPES: Final = (VotesAnswer, LabelCall, LabelForm)


def make_router(service: Service) -> APIRouter:
    """Return the route of votes."""
    router = APIRouter(tags=["labels"])
    settings, recipes, engine = service.settings, service.recipes, service.engine

    @router.post(
        "/v1/votes",
        summary="What each labeling function says of each item",
        responses=answers("VotesAnswer", *WITH_ITEMS),
        openapi_extra=body_of("LabelCall", "LabelForm", EXAMPLE_CALL),
        dependencies=[needs("label")],
    )
    async def votes(request: Request) -> Response:
        """Return the label matrix of a recipe: who votes what, and how sure. No label model is fitted or asked."""
        engine.admit()
        call = await read_call(request, settings)

        def begin() -> tuple[ServedRecipe, Versions]:
            served = resolve(call.recipe, store=recipes, settings=settings)
            return served, versions_of(served, settings)

        served, versions = await anyio.to_thread.run_sync(begin)
        found = await engine.collect(call.rows, served, is_gone=request.is_disconnected)
        request.state.facts |= {
            "recipe": served.name if served.stored else None,
            "recipe_version": versions.recipe,
            "n_items": len(found.ids),
            "n_errors": len(found.errors),
        }
        return await anyio.to_thread.run_sync(_answer, found, versions, served.name)

    return router


def _answer(found: Collected, versions: Versions, name: str) -> Response:
    votes = found.votes
    said = votes.value_names
    rows: list[dict[str, Any]] = []
    for i, (id, classes, scores) in enumerate(
        zip(found.ids, votes.classes.tolist(), votes.scores.tolist(), strict=True)
    ):
        if i in found.errors:
            rows.append({"id": id, "status": "error", "error": item_error(found.errors[i])})
            continue
        row = [
            {
                "lf": lf,
                "vote": None if voted == ABSTAIN else said[voted],
                "score": None if math.isnan(score) else score,
            }
            for lf, voted, score in zip(votes.lf_names, classes, scores, strict=True)
        ]
        rows.append({"id": id, "status": "voted", "votes": row})
    return as_json(
        {
            "votes": rows,
            "classes": list(votes.class_names),
            "lfs": list(votes.lf_names),
            "versions": {"recipe": versions.recipe, "primitives": dict(versions.primitives)},
            "recipe": name,
        }
    )
