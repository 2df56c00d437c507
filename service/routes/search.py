"""Searching the operator's indexes by words or by examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from manyeyes.errors import IndexUnusable, RequestTooLarge
from manyeyes.primitives.base import PrimitiveSpec
from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.intake.body import read_call
from manyeyes.service.intake.calls import Asks
from manyeyes.service.intake.items import Read
from manyeyes.service.intake.options import read_options
from manyeyes.service.pipeline.engine import Seen
from manyeyes.service.pipeline.indexes import Indexes, StoredIndex
from manyeyes.service.pipeline.offered import embedding_feature
from manyeyes.service.routes.answers import WITH_ITEMS, answers, as_json, body_of, item_error
from manyeyes.service.routes.features import Half, absent, split_halves
from manyeyes.service.schemas.search import (
    EXAMPLE_SEARCH,
    IndexFault,
    IndexLine,
    IndexList,
    SearchAnswer,
    SearchCall,
    SearchForm,
    SearchOptions,
)

SHAPES: Final = (IndexFault, IndexLine, IndexList, SearchAnswer, SearchCall, SearchForm)

_MOST_MATCHES: Final = 100_000
_SEARCH: Final = Asks(recipe=False, options=("index", "k"), one=True, example=EXAMPLE_SEARCH)


def make_router(service: Service) -> APIRouter:
    """Return the routes of search."""
    router = APIRouter(tags=["search"])
    settings, engine = service.settings, service.engine
    indexes = Indexes(settings.indexes_dir, allowed_models=settings.allowed_models)
    # A search uses every core that it gets; more at once would only be slower, and hold more memory.
    threads = anyio.CapacityLimiter(settings.workers)

    @router.get(
        "/v1/indexes",
        summary="List the indexes that can be searched",
        responses=answers("IndexList"),
        dependencies=[needs("read")],
    )
    async def list_indexes() -> Response:
        sound, broken = await anyio.to_thread.run_sync(indexes.survey)
        return as_json(
            {
                "indexes": [_line(stored) for stored in sound],
                "broken": [
                    {"name": name, "code": error.code, "message": str(error)}
                    for name, error in broken.items()
                ],
            }
        )

    @router.post(
        "/v1/search",
        summary="Find what looks like words or like an image",
        responses=answers("SearchAnswer", *WITH_ITEMS),
        openapi_extra=body_of("SearchCall", "SearchForm", EXAMPLE_SEARCH),
        dependencies=[needs("label")],
    )
    async def search(request: Request) -> Response:
        """Return the nearest items of an index for each query: a text, or an image where the model sees images."""
        engine.admit()
        call = await read_call(request, settings, asks=_SEARCH)
        options = read_options(SearchOptions, call.options, example=EXAMPLE_SEARCH)
        if (n_matches := len(call.rows) * options.k) > _MOST_MATCHES:
            raise RequestTooLarge(
                f"{len(call.rows):,} queries with {options.k:,} matches each are {n_matches:,} matches; one answer"
                f" holds {_MOST_MATCHES:,}. Send fewer queries, or ask for a smaller k"
            )
        rows, halves = split_halves(call.rows, None)

        def begin() -> tuple[StoredIndex, PrimitiveSpec, dict[Half, str]]:
            stored = indexes.get(options.index)
            if stored.spec is None:
                raise IndexUnusable(
                    f"the vectors of the index {stored.name!r} come from {stored.version}, which is no model that this"
                    " service offers; the operator has to list it in MANYEYES_ALLOWED_MODELS, or build the index again"
                )
            wanted = {half for half in halves if half is not None} or {"text"}
            return (
                stored,
                stored.spec,
                {half: embedding_feature(stored.spec, half) for half in sorted(wanted)},
            )

        stored, spec, features = await anyio.to_thread.run_sync(begin)
        seen = await engine.see(
            rows, {spec.kind: spec}, list(features.values()), is_gone=request.is_disconnected
        )
        request.state.facts |= {
            "index": stored.name,
            "n_items": len(rows),
            "n_errors": len(seen.features.errors),
        }
        return await anyio.to_thread.run_sync(
            lambda: _answer(indexes, stored, rows, halves, seen, features, options.k), limiter=threads
        )

    return router


def _answer(
    indexes: Indexes,
    stored: StoredIndex,
    rows: Sequence[tuple[str, Read]],
    halves: Sequence[Half | None],
    seen: Seen,
    features: Mapping[Half, str],
    k: int,
) -> Response:
    index = indexes.open(stored)
    asked = [(i, half) for i, half in enumerate(halves) if half is not None and i not in seen.features.errors]
    found: dict[int, list[dict[str, Any]]] = {}
    if asked:
        queries = np.stack([seen.features[features[half]]["embedding"][i] for i, half in asked])
        hits = index.search(queries, min(k, max(1, len(index))))
        found = {
            i: [{"id": hit.id, "cosine": hit.cosine} for hit in near]
            for (i, _), near in zip(asked, hits, strict=True)
        }
    results = [
        {"id": name, "status": "searched", "matches": found[i]}
        if i in found
        else {
            "id": name,
            "status": "error",
            "error": item_error(seen.features.errors.get(i) or absent("content")),
        }
        for i, (name, _) in enumerate(rows)
    ]
    return as_json(
        {
            "results": results,
            "index": stored.name,
            "n_items": len(index),
            "versions": {"primitives": {feature: seen.versions[feature] for feature in features.values()}},
        }
    )


def _line(stored: StoredIndex) -> dict[str, Any]:
    spec = stored.spec
    return {
        "name": stored.name,
        "n_items": stored.n_items,
        "dim": stored.dim,
        "primitive": stored.version,
        "model": None if spec is None else f"{spec.kind}:{spec.model}",
    }
