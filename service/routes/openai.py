"""``/v1/embeddings``, as OpenAI's clients call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from manyeyes.errors import InvalidRequest, ItemError, RequestTooLarge
from manyeyes.service.access.callers import needs
from manyeyes.service.context import Service
from manyeyes.service.errors import Refusal
from manyeyes.service.intake.body import fetch_rows, read_json
from manyeyes.service.intake.items import Read, json_item, kind_of
from manyeyes.service.intake.options import read_options
from manyeyes.service.pipeline.engine import Seen
from manyeyes.service.pipeline.offered import Offered, embedding_feature, find
from manyeyes.service.routes.answers import WITH_ITEMS, answers, as_json, ref
from manyeyes.service.routes.features import absent, encoded
from manyeyes.service.schemas.openai import (
    EXAMPLE_OPENAI,
    OpenAIAnswer,
    OpenAICall,
    OpenAIOptions,
)
from manyeyes.types import Item

SHAPES: Final = (OpenAIAnswer, OpenAICall)

_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ref("OpenAICall"), "example": EXAMPLE_OPENAI}},
    }
}


def make_router(service: Service) -> APIRouter:
    """Return the route of embeddings in OpenAI's shape."""
    router = APIRouter(tags=["models"])
    settings, engine = service.settings, service.engine

    @router.post(
        "/v1/embeddings",
        summary="Embed texts or images, as OpenAI's clients ask for it",
        responses=answers("OpenAIAnswer", *WITH_ITEMS),
        openapi_extra=_BODY,
        dependencies=[needs("label")],
    )
    async def embeddings(request: Request) -> Response:
        """Return an embedding of each input, of length 1.

        OpenAI's shape has no place for what is wrong with one input: one that cannot be embedded refuses the call, and
        `errors` names each. `/v1/embed` answers for every item by itself.
        """
        engine.admit()
        told = await read_json(request)
        if not isinstance(told, dict):
            raise _refused(f"the body must be one JSON object with `model` and `input`, got {kind_of(told)}")
        said = {name: told[name] for name in OpenAIOptions.model_fields if name in told}
        options = read_options(OpenAIOptions, said, example=EXAMPLE_OPENAI)
        rows = await fetch_rows(request, _rows(told.get("input"), options.modality, settings.max_items))

        def begin() -> tuple[Offered, str]:
            model = find(options.model, settings.allowed_models)
            return model, embedding_feature(model.spec, options.modality)

        model, feature = await anyio.to_thread.run_sync(begin)
        seen = await engine.see(
            rows, {model.spec.kind: model.spec}, [feature], is_gone=request.is_disconnected
        )
        request.state.facts |= {
            "primitive": model.spec.kind,
            "n_items": len(rows),
            "n_errors": len(seen.features.errors),
        }
        return await anyio.to_thread.run_sync(lambda: _answer(rows, seen, feature, options))

    return router


def _rows(given: Any, modality: str, max_items: int) -> list[tuple[str, Read]]:
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not inputs:
        raise _refused(f"`input` must be a text or a list of texts, at least one; got {kind_of(given)}")
    if all(isinstance(one, (int, list)) for one in inputs):
        raise _refused(
            "`input` holds token ids, and a token is another word in each model; send texts. In LangChain that is"
            " OpenAIEmbeddings(check_embedding_ctx_length=False)"
        )
    if len(inputs) > max_items:
        raise RequestTooLarge(
            f"the call holds {len(inputs):,} inputs; this service takes {max_items:,} at once. Send"
            " them in several calls"
        )
    return [(f"input {i}", _read(one, modality)) for i, one in enumerate(inputs)]


def _read(given: Any, modality: str) -> Read:
    if modality == "image" and isinstance(given, str) and given.startswith(("http://", "https://")):
        return json_item({"url": given})
    return json_item({modality: given})


def _answer(rows: Sequence[tuple[str, Read]], seen: Seen, feature: str, options: OpenAIOptions) -> Response:
    block = seen.features[feature]
    wrong: dict[int, ItemError] = {
        i: seen.features.errors.get(i) or absent(options.modality)
        for i in range(len(rows))
        if i in seen.features.errors or not block.present[i]
    }
    if wrong:
        raise _refused(
            "; ".join(f"input {i}: {error}" for i, error in list(wrong.items())[:5])
            + (f"; and {len(wrong) - 5} others" if len(wrong) > 5 else "")
        )
    vectors = block["embedding"]
    dim = int(vectors.shape[1])
    if options.dimensions not in (None, dim):
        raise _refused(
            f"`dimensions`: {options.model!r} gives {dim} numbers, and cutting them would change what is near to what;"
            f" leave it out, or send {dim}"
        )
    encoding = options.encoding_format or "float"
    n_words = sum(_words(read) for _, read in rows)
    return as_json(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": encoded(vectors[i], encoding)}
                for i in range(len(rows))
            ],
            "model": options.model,
            "usage": {"prompt_tokens": n_words, "total_tokens": n_words},
            "versions": {"primitives": {feature: seen.versions[feature]}},
        }
    )


def _words(read: Read) -> int:
    return len(read.text.split()) if isinstance(read, Item) and read.text is not None else 1


def _refused(message: str) -> Refusal:
    return Refusal(InvalidRequest(message), example=EXAMPLE_OPENAI)
