"""The models that callers may name."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from manyeyes.service.schemas.base import Shape

EXAMPLE_MODEL: Final[dict[str, Any]] = {
    "id": "clip",
    "object": "model",
    "created": 0,
    "owned_by": "manyeyes",
    "kind": "clip",
    "model": "starter",
    "task": "embed",
    "modalities": ["image", "text"],
    "dim": 384,
    "available": True,
    "loaded": False,
    "versions": {"clip": "clip/starter/image 3", "clip.text": "clip/starter/text 1"},
    "licence": "Apache-2.0",
    "note": "no hub needed; everyday photos, good enough to try everything",
}


class ModelOut(Shape):
    """A model, in OpenAI's shape and with what else is known of it.

    kind, model: how a recipe names it. task: `embed` for `/v1/embed`, `/v1/embeddings`; `detect` for `/v1/detect`.
    dim: of its embeddings, null where that is not known before it is loaded. available: whether its weights are here.
    loaded: whether it is in memory. versions: feature → version of what makes it.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_MODEL]})

    id: str
    object: Literal["model"]
    created: int = Field(description="Always 0: OpenAI's clients ask for it.")
    owned_by: str
    kind: str
    model: str
    task: Literal["embed", "detect"]
    modalities: list[Literal["image", "text", "pair"]]
    dim: int | None
    available: bool
    loaded: bool
    versions: dict[str, str]
    licence: str | None = Field(description="Of the weights; null where the catalogue does not know them.")
    note: str


class ModelList(Shape):
    """Every model that callers may name."""

    object: Literal["list"]
    data: list[ModelOut]
