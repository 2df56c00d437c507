"""Calls to label and their answers, as pydantic models with examples.

Calls are read by :mod:`manyeyes.service.intake.calls`, which turns what is wrong with one item into a row and not
into a refusal; these models say what a sound call looks like.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import ConfigDict, Field

from manyeyes.service.schemas.base import Shape

# One white pixel: the smallest PNG that is a whole image.
PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"

EXAMPLE_RECIPE: Final[dict[str, Any]] = {
    "name": "paint",
    "classes": ["red", "blue"],
    "lfs": [
        {"name": "says_red", "kind": "keyword", "on": "text", "any": ["red", "crimson"], "vote": "red"},
        {"name": "says_blue", "kind": "keyword", "on": "text", "any": ["blue", "navy"], "vote": "blue"},
    ],
}

EXAMPLE_CALL: Final[dict[str, Any]] = {
    "recipe": EXAMPLE_RECIPE,
    "items": [
        {"id": "coat", "text": "A navy coat", "metadata": {"price": 80}},
        {"id": "pixel", "image": PIXEL, "text": "A crimson pixel"},
    ],
}

EXAMPLE_ANSWER: Final[dict[str, Any]] = {
    "labels": [
        {
            "id": "coat",
            "status": "labeled",
            "label": "blue",
            "confidence": 0.75,
            "probs": {"red": 0.25, "blue": 0.75},
            "runner_up": "red",
            "prior": 0.0,
            "reasons": [
                {"lf": "says_red", "vote": None, "score": None, "moved": 0.0},
                {"lf": "says_blue", "vote": "blue", "score": None, "moved": 1.0986123},
            ],
        },
        {"id": "pixel", "status": "error", "error": {"code": "undecodable_image", "message": "…"}},
    ],
    "versions": {"recipe": "0f1e2d3c4b5a6978", "primitives": {}, "label_model": "majority:1f2e3d4c5b6a7988"},
    "recipe": "paint",
}


class ItemIn(Shape):
    """An image, a text, or both."""

    id: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Names the item in the answer; unique within the call. Made up where it is missing.",
    )
    image: str | None = Field(
        default=None,
        description="An image file (JPEG, PNG, WebP, GIF, BMP, TIFF) in base64. Never a path.",
    )
    url: str | None = Field(
        default=None,
        max_length=4096,
        description="Instead of `image`: where it is, as in `https://images.example.org/coat.jpg`. Only of hosts that"
        " the operator lists; by default of none.",
    )
    object: str | None = Field(
        default=None,
        max_length=2048,
        description="Instead of `image`: an object, as in `s3://bucket/coat.jpg`, in one of the buckets that the"
        " operator lists.",
    )
    text: str | None = None
    metadata: dict[str, str | int | float | bool | None] | None = None


AnyItem: TypeAlias = Annotated[
    ItemIn | Any,
    Field(
        description="What is not of this shape is answered by a row with status `error`; the other items are not."
    ),
]
"""An item as it may come: what is wrong with one is a row, and refuses no call."""


class LabelCall(Shape):
    """What to label and how."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_CALL]})

    recipe: Annotated[str, Field(min_length=1)] | Annotated[dict[str, Any], Field(min_length=1)] = Field(
        description="The name of a stored recipe, a whole recipe as an object, or one as YAML or JSON text."
    )
    items: list[AnyItem] = Field(min_length=1)


class LabelForm(Shape):
    """The same as a form, with image files as they are."""

    recipe: str = Field(
        min_length=1, description="The name of a stored recipe, or a whole one as YAML or JSON text."
    )
    files: list[bytes] = Field(default_factory=list, description="Image files, repeated.")
    texts: list[str] = Field(
        default_factory=list, description="Texts, repeated; beside files one for each file, in order."
    )
    items: str | None = Field(
        default=None,
        description=(
            'A JSON list that says what each item is made of: `[{"id": "a", "file": 0, "text": "…", "metadata": {}}]`,'
            " where `file` counts `files` from 0, and `url` or `object` can stand in its place. It takes the place of"
            " `texts`."
        ),
    )


class LentOut(Shape):
    """What a labeling function said of similar items, as far as that counts for this one too.

    neighbors: how many; nearest: the cosine of the nearest; votes: what they lent, as a share of a vote.
    """

    neighbors: int
    nearest: float
    votes: float


class ReasonOut(Shape):
    """What one labeling function said of an item, and how far that moved the log-odds of the label, in nats."""

    lf: str
    vote: str | None = Field(
        description="A class, `not dress` or `dress or skirt` for a vote that names several; null for an abstention."
    )
    score: float | None
    moved: float
    lent: LentOut | None = None


class ErrorOut(Shape):
    """What is wrong with one item."""

    code: str
    message: str


class LabelOut(Shape):
    """The label of one item: `labeled`, `abstained` (label is null), or `error`. label_id: where it is kept."""

    label_id: str | None = None
    id: str
    status: Literal["labeled", "abstained", "error"]
    label: str | None = None
    confidence: float | None = None
    probs: dict[str, float] = Field(default_factory=dict)
    runner_up: str | None = None
    prior: float | None = None
    reasons: list[ReasonOut] = Field(default_factory=list)
    error: ErrorOut | None = None


class VersionsOut(Shape):
    """What made the labels: enough to make them again."""

    recipe: str
    primitives: dict[str, str]
    label_model: str


class LabelAnswer(Shape):
    """One label for each item, in the order of the call."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_ANSWER]})

    labels: list[LabelOut]
    versions: VersionsOut
    recipe: str
    batch_id: str | None = Field(default=None, description="Where the labels are kept, if they are.")
