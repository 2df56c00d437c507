"""What foundation models see, without any recipe: embeddings and boxes."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import anyio.to_thread
import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from starlette.responses import Response

from manyeyes.errors import EmptyItem, InvalidRequest, ItemError, nearest
from manyeyes.primitives.base import PrimitiveSpec
from manyeyes.primitives.detection import DTYPE as BOXES
from manyeyes.recipe_parts import default_primitive
from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.intake.body import read_call
from manyeyes.service.intake.calls import Asks
from manyeyes.service.intake.items import Read
from manyeyes.service.intake.options import read_options
from manyeyes.service.pipeline.engine import Seen
from manyeyes.service.pipeline.offered import built, embedding_feature, spec_of
from manyeyes.service.routes.answers import WITH_ITEMS, answers, as_json, body_of, item_error
from manyeyes.service.schemas.features import (
    EXAMPLE_DETECT,
    EXAMPLE_EMBED,
    DetectAnswer,
    DetectCall,
    DetectForm,
    DetectOptions,
    EmbedAnswer,
    EmbedCall,
    EmbedForm,
    EmbedOptions,
)
from manyeyes.types import Item

SHAPES: Final = (EmbedAnswer, EmbedCall, EmbedForm, DetectAnswer, DetectCall, DetectForm)

_EMBED: Final = Asks(recipe=False, options=("primitive", "on", "encoding"), example=EXAMPLE_EMBED)
_DETECT: Final = Asks(
    recipe=False,
    options=("primitive", "min_score", "classes"),
    lists=("classes",),
    example=EXAMPLE_DETECT,
)

Half = Literal["image", "text"]

_FEW: Final = 2
"""Items whose embeddings are written sooner than a thread is found for it."""
_MOST_PLANS: Final = 64
_MOST_NAME: Final = 200


def make_router(service: Service) -> APIRouter:
    """Return the routes of embeddings and boxes."""
    router = APIRouter(tags=["features"])
    settings, engine = service.settings, service.engine
    # What a sound call asks for, by how it says so: the same each time.
    plans: dict[tuple[Any, ...], tuple[PrimitiveSpec, dict[Half, str]]] = {}

    @router.post(
        "/v1/embed",
        summary="Embed items",
        responses=answers("EmbedAnswer", *WITH_ITEMS),
        openapi_extra=body_of("EmbedCall", "EmbedForm", EXAMPLE_EMBED),
        dependencies=[needs("label")],
    )
    async def embed(request: Request) -> Response:
        """Return an embedding of each item, of length 1, from a model that callers may name (`GET /v1/models`)."""
        engine.admit()
        call = await read_call(request, settings, asks=_EMBED)
        options = read_options(EmbedOptions, call.options, example=EXAMPLE_EMBED)
        rows, halves = split_halves(call.rows, options.on)

        def begin() -> tuple[PrimitiveSpec, dict[Half, str]]:
            spec = spec_of(said(options.primitive), settings.allowed_models)
            wanted = {half for half in halves if half is not None} or {options.on or "text"}
            return spec, {half: embedding_feature(spec, half) for half in sorted(wanted)}

        asked = (str(options.primitive)[:_MOST_NAME], options.on, frozenset(halves))
        if asked not in plans:
            plan = await anyio.to_thread.run_sync(begin)
            if len(asked[0]) < _MOST_NAME and len(plans) < _MOST_PLANS:
                plans[asked] = plan
        else:
            plan = plans[asked]
        spec, features = plan
        seen = await engine.see(
            rows, {spec.kind: spec}, list(features.values()), is_gone=request.is_disconnected
        )
        _note(request, spec, seen, len(rows))
        if len(rows) <= _FEW:
            return _embeddings(rows, halves, seen, features, spec, options.encoding)
        return await anyio.to_thread.run_sync(
            _embeddings, rows, halves, seen, features, spec, options.encoding
        )

    @router.post(
        "/v1/detect",
        summary="Find objects in images",
        responses=answers("DetectAnswer", *WITH_ITEMS),
        openapi_extra=body_of("DetectCall", "DetectForm", EXAMPLE_DETECT),
        dependencies=[needs("label")],
    )
    async def detect(request: Request) -> Response:
        """Return boxes with labels and scores, the surest first, from a detector that callers may name."""
        engine.admit()
        call = await read_call(request, settings, asks=_DETECT)
        options = read_options(DetectOptions, call.options, example=EXAMPLE_DETECT)

        def begin() -> PrimitiveSpec:
            spec = spec_of(said(options.primitive), settings.allowed_models)
            check_detector(spec)
            return spec

        spec = await anyio.to_thread.run_sync(begin)
        rows = [(name, _image_of(read)) for name, read in call.rows]
        seen = await engine.see(
            rows,
            {spec.kind: spec, "image": default_primitive("image")},
            [spec.kind, "image"],
            is_gone=request.is_disconnected,
        )
        _note(request, spec, seen, len(rows))
        return await anyio.to_thread.run_sync(_detections, rows, seen, spec, options)

    return router


def said(primitive: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
    """Return a primitive as it was named; a form has objects as JSON text. Raises InvalidRequest if that is none."""
    if not isinstance(primitive, str) or not primitive.lstrip().startswith("{"):
        return primitive
    try:
        told = json.loads(primitive)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"`primitive` begins like an object and is not JSON: {error}") from None
    return told if isinstance(told, dict) else primitive


def check_detector(spec: PrimitiveSpec) -> None:
    """Raise InvalidRequest if a primitive does not give boxes."""
    given = built(spec)
    if not (spec.kind in given and given[spec.kind].ragged and given[spec.kind].dtype == BOXES):
        raise InvalidRequest(f"{spec.kind!r} finds no objects; use a detector (GET /v1/models)")


def split_halves(
    rows: Sequence[tuple[str, Read]], on: Half | None
) -> tuple[list[tuple[str, Read]], list[Half | None]]:
    """Return rows that hold nothing but the half that is embedded, or an error where it is missing; and that half.

    on: which; None for the image, or the text where there is none.
    """
    kept: list[tuple[str, Read]] = []
    halves: list[Half | None] = []
    for name, read in rows:
        half: Half | None = None
        if isinstance(read, Item):
            half = on or ("image" if read.image is not None else "text")
            if getattr(read, half) is None:
                wanted = half if on else "image and no text"
                read, half = EmptyItem(f"the item has no {wanted}, so that there is nothing to embed"), None
            else:
                read = Item(id=read.id, **{half: getattr(read, half)})
        kept.append((name, read))
        halves.append(half)
    return kept, halves


def encoded(vector: npt.NDArray[np.float32], encoding: str) -> list[float] | str:
    """Return an embedding as it travels: numbers, or base64 of little-endian float32.

    >>> encoded(np.array([1, 0], dtype=np.float32), "base64")
    'AACAPwAAAAA='
    """
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def _image_of(read: Read) -> Read:
    if isinstance(read, Item):
        if read.image is None:
            return EmptyItem("the item has no image, so that there is nothing to look at")
        return Item(id=read.id, image=read.image)
    return read


def _note(request: Request, spec: PrimitiveSpec, seen: Seen, n_items: int) -> None:
    request.state.facts |= {"primitive": spec.kind, "n_items": n_items, "n_errors": len(seen.features.errors)}


def absent(what: str) -> ItemError:
    """Return what is wrong with an item that has no image or text, or a blank one."""
    return EmptyItem(f"the item has no {what} that can be read")


def _head(spec: PrimitiveSpec, seen: Seen, *features: str) -> dict[str, Any]:
    return {
        "primitive": {"kind": spec.kind, "model": spec.model},
        "versions": {"primitives": {feature: seen.versions[feature] for feature in features}},
    }


def _embeddings(
    rows: Sequence[tuple[str, Read]],
    halves: Sequence[Half | None],
    seen: Seen,
    features: Mapping[Half, str],
    spec: PrimitiveSpec,
    encoding: str,
) -> Response:
    blocks = {half: seen.features[feature] for half, feature in features.items()}
    vectors = {half: block["embedding"] for half, block in blocks.items()}
    told: list[dict[str, Any]] = []
    dim = None
    for i, ((name, _), half) in enumerate(zip(rows, halves, strict=True)):
        error = seen.features.errors.get(i)
        if error is None and (half is None or not blocks[half].present[i]):
            error = absent(half or "content")
        if error is not None or half is None:
            told.append({"id": name, "status": "error", "error": item_error(error or absent("content"))})
            continue
        vector = vectors[half][i]
        dim = len(vector)
        told.append({"id": name, "status": "embedded", "on": half, "embedding": encoded(vector, encoding)})
    return as_json(
        {"embeddings": told, "dim": dim, "encoding": encoding, **_head(spec, seen, *features.values())}
    )


def _detections(
    rows: Sequence[tuple[str, Read]], seen: Seen, spec: PrimitiveSpec, options: DetectOptions
) -> Response:
    block, sizes = seen.features[spec.kind], seen.features["image"]
    known = list(block.info["names"])
    wanted = set(options.classes or known)
    if unknown := sorted(wanted - set(known)):
        raise InvalidRequest(
            f"`classes`: this detector finds no {', '.join(map(repr, unknown[:5]))}; it finds"
            f" {', '.join(known[:100])}{nearest(unknown[0], known)}"
        )
    told: list[dict[str, Any]] = []
    for i, (name, _) in enumerate(rows):
        error = seen.features.errors.get(i)
        if error is None and not block.present[i]:
            error = absent("image")
        if error is not None:
            told.append({"id": name, "status": "error", "error": item_error(error)})
            continue
        told.append(
            {
                "id": name,
                "status": "looked",
                "width": int(sizes["width"][i]),
                "height": int(sizes["height"][i]),
                "boxes": [
                    box
                    for box in boxes_of(block.rows[block.offsets[i] : block.offsets[i + 1]], known)  # type: ignore[index]
                    if box["score"] >= options.min_score and box["label"] in wanted
                ],
            }
        )
    return as_json({"detections": told, "classes": known, **_head(spec, seen, spec.kind)})


def boxes_of(found: npt.NDArray[np.void], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of one image as boxes, the surest first; names: of the detector's labels."""
    return [
        {
            "label": names[int(row["label"])],
            "score": float(row["score"]),
            "xyxy": row["box"].tolist(),
            "relative": row["fraction"].tolist(),
            "mask_area": None if math.isnan(row["mask"]) else float(row["mask"]),
        }
        for row in found
    ]
