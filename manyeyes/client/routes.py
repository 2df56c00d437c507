"""What can be asked of items and models: one function a route, which returns the call."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from manyeyes.client.calls import Answer, Call, Fields, T, place
from manyeyes.client.items import Form
from manyeyes.client.problems import item_error
from manyeyes.client.records import (
    Box,
    Detection,
    DetectResult,
    Embedding,
    EmbedResult,
    Found,
    Index,
    ItemVotes,
    Match,
    Model,
    SearchResult,
    Vote,
    VotesResult,
)
from manyeyes.client.results import LabelResult, read_result
from manyeyes.types import FloatArray, Label, Versions


def label(form: Form, recipe: str, store: bool | None) -> Call[LabelResult]:
    """Label items. Where they are to be kept for sure, a call that is sent twice is kept once."""
    return Call(
        "POST",
        place("label"),
        lambda answer: read_result(form, answer),
        fields=form.fields(recipe=recipe, store=None if store is None else str(store).lower()),
        unsent=None if form.entries else read_result(form, None),
        writes=bool(store),
    )


def votes(form: Form, recipe: str) -> Call[VotesResult]:
    """Ask what each labeling function says."""

    def read(answer: Answer) -> VotesResult:
        def parse(told: Mapping[str, Any]) -> VotesResult:
            versions = told["versions"]
            return VotesResult(
                rows=merged(form, told["votes"], _votes, answer, ItemVotes),
                classes=tuple(told["classes"]),
                lfs=tuple(told["lfs"]),
                versions=Versions(versions["recipe"], dict(versions["primitives"])),
                recipe=told["recipe"],
                request_id=answer.request_id,
            )

        return answer.read(parse)

    unsent = VotesResult(_unsent(form, ItemVotes), (), (), Versions(recipe=""), "")
    return _of_items("votes", form, read, unsent, form.fields(recipe=recipe))


def embed(form: Form, primitive: str | Mapping[str, Any], on: str | None) -> Call[EmbedResult]:
    """Embed items. The vectors travel as base64, a quarter of the length of numbers."""

    def read(answer: Answer) -> EmbedResult:
        def parse(told: Mapping[str, Any]) -> EmbedResult:
            return EmbedResult(
                rows=merged(form, told["embeddings"], _embedding, answer, Embedding),
                dim=told["dim"] or 0,
                primitive=_primitive(told),
                versions=dict(told["versions"]["primitives"]),
                request_id=answer.request_id,
            )

        return answer.read(parse)

    fields = form.fields(primitive=_named(primitive), on=on, encoding="base64")
    return _of_items("embed", form, read, EmbedResult(_unsent(form, Embedding), 0, "", {}), fields)


def detect(
    form: Form, primitive: str | Mapping[str, Any], min_score: float | None, classes: Sequence[str] | None
) -> Call[DetectResult]:
    """Find objects."""

    def read(answer: Answer) -> DetectResult:
        def parse(told: Mapping[str, Any]) -> DetectResult:
            return DetectResult(
                rows=merged(form, told["detections"], _detection, answer, Detection),
                classes=tuple(told["classes"]),
                primitive=_primitive(told),
                versions=dict(told["versions"]["primitives"]),
                request_id=answer.request_id,
            )

        return answer.read(parse)

    score = None if min_score is None else repr(float(min_score))
    fields = [
        *form.fields(primitive=_named(primitive), min_score=score),
        *(("classes", (None, name, "text/plain; charset=utf-8")) for name in classes or ()),
    ]
    return _of_items("detect", form, read, DetectResult(_unsent(form, Detection), (), "", {}), fields)


def search(form: Form, index: str, k: int) -> Call[SearchResult]:
    """Find what looks like words or like images."""

    def read(answer: Answer) -> SearchResult:
        def parse(told: Mapping[str, Any]) -> SearchResult:
            return SearchResult(
                rows=merged(form, told["results"], _found, answer, Found),
                index_name=told["index"],
                n_items=told["n_items"],
                versions=dict(told["versions"]["primitives"]),
                request_id=answer.request_id,
            )

        return answer.read(parse)

    unsent = SearchResult(_unsent(form, Found), index, 0, {})
    return _of_items("search", form, read, unsent, form.fields(index=index, k=str(k)))


def indexes() -> Call[tuple[Index, ...]]:
    """List what can be searched."""
    return Call(
        "GET",
        place("indexes"),
        lambda answer: answer.read(
            lambda told: tuple(
                Index(row["name"], row["n_items"], row["dim"], row["primitive"], row["model"])
                for row in told["indexes"]
            )
        ),
    )


def models() -> Call[tuple[Model, ...]]:
    """List the models that callers may name."""

    def model(row: Mapping[str, Any]) -> Model:
        return Model(
            id=row["id"],
            kind=row["kind"],
            model=row["model"],
            task=row["task"],
            modalities=tuple(row["modalities"]),
            dim=row["dim"],
            available=row["available"],
            loaded=row["loaded"],
            versions=dict(row["versions"]),
            licence=row["licence"],
            note=row["note"],
        )

    return Call(
        "GET", place("models"), lambda answer: answer.read(lambda told: tuple(map(model, told["data"])))
    )


def probe(path: str) -> Call[Answer]:
    """Ask how the service is."""
    return Call("GET", path, lambda answer: answer)


def _of_items(name: str, form: Form, read: Callable[[Answer], T], unsent: T, fields: Fields) -> Call[T]:
    return Call("POST", place(name), read, fields=fields, unsent=None if form.entries else unsent)


def _unsent(form: Form, kind: Callable[..., T]) -> tuple[T, ...]:
    return tuple(kind(id=row.id, error=row.error) for row in form.unsent.values())


def merged(
    form: Form,
    rows: Sequence[Mapping[str, Any]],
    read: Callable[[Mapping[str, Any]], T],
    answer: Answer,
    kind: Callable[..., T],
) -> tuple[T, ...]:
    """Return the rows of an answer, one an item, with those of what was not sent put back in their places."""
    if len(rows) != len(form.entries):
        raise ValueError(f"{len(form.entries)} items were sent, {len(rows)} rows came back")
    told = iter(rows)

    def one(position: int) -> T:
        unsent: Label | None = form.unsent.get(position)
        if unsent is not None:
            return kind(id=unsent.id, error=unsent.error)
        row = next(told)
        error = item_error(row.get("error"))
        if error is not None:
            error.request_id = answer.request_id
            return kind(id=row["id"], error=error)
        return read(row)

    return tuple(one(n) for n in range(form.n_items))


def _votes(row: Mapping[str, Any]) -> ItemVotes:
    return ItemVotes(row["id"], tuple(Vote(vote["lf"], vote["vote"], vote["score"]) for vote in row["votes"]))


def _embedding(row: Mapping[str, Any]) -> Embedding:
    return Embedding(row["id"], row["on"], _vector(row["embedding"]))


def _vector(told: Any) -> FloatArray:
    if isinstance(told, str):
        return np.frombuffer(base64.b64decode(told), "<f4").astype(np.float32)
    return np.asarray(told, np.float32)


def _detection(row: Mapping[str, Any]) -> Detection:
    boxes = tuple(
        Box(box["label"], box["score"], tuple(box["xyxy"]), tuple(box["relative"]), box["mask_area"])
        for box in row["boxes"]
    )
    return Detection(row["id"], row["width"], row["height"], boxes)


def _found(row: Mapping[str, Any]) -> Found:
    return Found(row["id"], tuple(Match(match["id"], match["cosine"]) for match in row["matches"]))


def _primitive(told: Mapping[str, Any]) -> str:
    return f"{told['primitive']['kind']}:{told['primitive']['model']}"


def _named(primitive: str | Mapping[str, Any]) -> str:
    return primitive if isinstance(primitive, str) else json.dumps(dict(primitive), allow_nan=False)
