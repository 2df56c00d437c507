"""Searching indexes by words or by examples."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, RootModel

from manyeyes.service.schemas.base import Shape
from manyeyes.service.schemas.features import FilesForm, PrimitiveVersions
from manyeyes.service.schemas.labels import AnyItem, ErrorOut

EXAMPLE_SEARCH: Final[dict[str, Any]] = {"index": "photos", "text": "a red dress", "k": 5}
EXAMPLE_FOUND: Final[dict[str, Any]] = {
    "results": [
        {
            "id": "item-0",
            "status": "searched",
            "matches": [{"id": "photos/0042.jpg", "cosine": 0.31}, {"id": "photos/1007.jpg", "cosine": 0.29}],
        }
    ],
    "index": "photos",
    "n_items": 20000,
    "versions": {"primitives": {"clip": "clip/starter/image 3", "clip.text": "clip/starter/text 1"}},
}


class SearchOptions(Shape):
    """Where to search, and how much to return."""

    index: str = Field(min_length=1, max_length=200, description="The name of an index (`GET /v1/indexes`).")
    k: int = Field(default=10, ge=1, le=1000, description="How many items to return, the nearest first.")


class SearchMany(SearchOptions):
    """Several queries: each a text, or an image to find the like of."""

    items: list[AnyItem] = Field(min_length=1)


class SearchOne(SearchOptions):
    """One query, written beside the index: a text, or an image to find the like of."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 2})

    text: str | None = None
    image: str | None = Field(default=None, description="An image file in base64.")
    url: str | None = Field(
        default=None, description="Where an image is, on a host that the operator listed."
    )
    object: str | None = Field(default=None, description="Where an image is, in a bucket of the operator's.")
    id: str | None = Field(default=None, min_length=1, max_length=1024)
    metadata: dict[str, str | int | float | bool | None] | None = None


class SearchCall(RootModel[SearchOne | SearchMany]):
    """One query beside the index, or several as `items`."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_SEARCH]})


class SearchForm(FilesForm):
    """The same as a form, with image files as they are."""

    index: str = Field(min_length=1, max_length=200)
    k: int = Field(default=10, ge=1, le=1000)


class Match(Shape):
    """One item of the index. cosine: of its embedding and the query's, from -1 to 1."""

    id: str
    cosine: float


class Searched(Shape):
    """What one query found, the nearest first, or what is wrong with the query."""

    id: str
    status: Literal["searched", "error"]
    matches: list[Match] = Field(default_factory=list)
    error: ErrorOut | None = None


class SearchAnswer(Shape):
    """What each query found, in the order of the call. n_items: in the index."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_FOUND]})

    results: list[Searched]
    index: str
    n_items: int
    versions: PrimitiveVersions


class IndexLine(Shape):
    """An index. primitive: the version of what made its vectors; model: its name, null where it is not offered here."""

    name: str
    n_items: int
    dim: int
    primitive: str
    model: str | None


class IndexFault(Shape):
    """An index that cannot be used as it is."""

    name: str
    code: str
    message: str


class IndexList(Shape):
    """Every index that callers may search, and what is wrong with the others."""

    indexes: list[IndexLine]
    broken: list[IndexFault]
