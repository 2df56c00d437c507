"""Embeddings and boxes: calls and answers."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, field_validator

from manyeyes.service.schemas.base import Shape
from manyeyes.service.schemas.labels import PIXEL, AnyItem, ErrorOut

EXAMPLE_EMBED: Final[dict[str, Any]] = {
    "primitive": "toy",
    "items": [{"id": "coat", "text": "A red and blue coat"}, {"id": "pixel", "image": PIXEL}],
}
EXAMPLE_EMBEDDINGS: Final[dict[str, Any]] = {
    "embeddings": [
        {"id": "coat", "status": "embedded", "on": "text", "embedding": [0.70710677, 0.0, 0.70710677]},
        {"id": "pixel", "status": "error", "error": {"code": "undecodable_image", "message": "…"}},
    ],
    "dim": 3,
    "encoding": "float",
    "primitive": {"kind": "toy", "model": "colors"},
    "versions": {"primitives": {"toy": "toy/colors/image 1", "toy.text": "toy/colors/text 1"}},
}
EXAMPLE_DETECT: Final[dict[str, Any]] = {
    "primitive": "detector",
    "items": [{"id": "street", "image": PIXEL}],
    "min_score": 0.4,
    "classes": ["person", "car"],
}
EXAMPLE_BOXES: Final[dict[str, Any]] = {
    "detections": [
        {
            "id": "street",
            "status": "looked",
            "width": 640,
            "height": 480,
            "boxes": [
                {
                    "label": "person",
                    "score": 0.87,
                    "xyxy": [64.0, 48.0, 320.0, 432.0],
                    "relative": [0.1, 0.1, 0.5, 0.9],
                    "mask_area": None,
                }
            ],
        }
    ],
    "classes": ["person", "car"],
    "primitive": {"kind": "detector", "model": "starter"},
    "versions": {"primitives": {"detector": "detector/6b86b273…/0.25/0.5/own 3"}},
}

_PRIMITIVE = Field(
    default="clip",
    description="The name of a model (`GET /v1/models`), or an object with the fields of a recipe's primitive:"
    ' `{"kind": "clip", "model": "starter"}`.',
)


class EmbedOptions(Shape):
    """What to embed with, and how."""

    primitive: str | dict[str, Any] = _PRIMITIVE
    on: Literal["image", "text"] | None = Field(
        default=None,
        description="What of each item is embedded; by default its image, or its text where it has none.",
    )
    encoding: Literal["float", "base64"] = Field(
        default="float",
        description="`base64`: the bytes of little-endian 32-bit floats; a quarter of the length of numbers.",
    )


class EmbedCall(EmbedOptions):
    """Items to embed."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_EMBED]})

    items: list[AnyItem] = Field(min_length=1)


class FilesForm(Shape):
    """What every form with items may hold."""

    files: list[bytes] = Field(default_factory=list, description="Image files, repeated.")
    texts: list[str] = Field(
        default_factory=list, description="Texts, repeated; beside files one for each file, in order."
    )
    items: str | None = Field(
        default=None,
        description='A JSON list: `[{"id": "a", "file": 0}]`, where `file` counts `files` from 0.',
    )


class EmbedForm(FilesForm):
    """The same as a form, with image files as they are."""

    primitive: str = Field(default="clip", description="A name, or an object as JSON.")
    on: Literal["image", "text"] | None = None
    encoding: Literal["float", "base64"] = "float"


class PrimitiveOut(Shape):
    """Which primitive it was."""

    kind: str
    model: str


class PrimitiveVersions(Shape):
    """What made it: each feature with the version of its primitive."""

    primitives: dict[str, str]


class EmbeddingOut(Shape):
    """The embedding of one item, of length 1, or what is wrong with it."""

    id: str
    status: Literal["embedded", "error"]
    on: Literal["image", "text"] | None = None
    embedding: list[float] | str | None = None
    error: ErrorOut | None = None


class EmbedAnswer(Shape):
    """One embedding for each item, in the order of the call. dim: its length; null where no item has one."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_EMBEDDINGS]})

    embeddings: list[EmbeddingOut]
    dim: int | None
    encoding: Literal["float", "base64"]
    primitive: PrimitiveOut
    versions: PrimitiveVersions


class DetectOptions(Shape):
    """What to look for, and what to report."""

    primitive: str | dict[str, Any] = Field(
        default="detector",
        description='The name of a detector (`GET /v1/models`), or `{"kind": "detector", "model": …, "classes": …}`.',
    )
    min_score: float = Field(default=0.0, ge=0, le=1, description="Boxes below are left out.")
    classes: list[str] | None = Field(
        default=None, min_length=1, max_length=1000, description="Boxes of other labels are left out."
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class DetectCall(DetectOptions):
    """Images to look at."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_DETECT]})

    items: list[AnyItem] = Field(min_length=1)


class DetectForm(FilesForm):
    """The same as a form, with image files as they are."""

    primitive: str = Field(default="detector", description="A name, or an object as JSON.")
    min_score: float = Field(default=0.0, ge=0, le=1)
    classes: list[str] = Field(default_factory=list, description="Repeated.")


class BoxOut(Shape):
    """One object. xyxy: left, top, right, bottom in pixels of the upright image; relative: as fractions of its size.

    mask_area: the share of the image that its mask covers; null from a detector without masks.
    """

    label: str
    score: float
    xyxy: list[float] = Field(min_length=4, max_length=4)
    relative: list[float] = Field(min_length=4, max_length=4)
    mask_area: float | None


class DetectionOut(Shape):
    """What is in one image, the surest first, or what is wrong with it. width, height: pixels, upright."""

    id: str
    status: Literal["looked", "error"]
    width: int | None = None
    height: int | None = None
    boxes: list[BoxOut] = Field(default_factory=list)
    error: ErrorOut | None = None


class DetectAnswer(Shape):
    """The boxes of each item, in the order of the call. classes: everything that this detector can find."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_BOXES]})

    detections: list[DetectionOut]
    classes: list[str]
    primitive: PrimitiveOut
    versions: PrimitiveVersions
