"""The label matrix of a call."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from manyeyes.service.schemas.base import Shape
from manyeyes.service.schemas.labels import ErrorOut

EXAMPLE_VOTES: Final[dict[str, Any]] = {
    "votes": [
        {
            "id": "coat",
            "status": "voted",
            "votes": [
                {"lf": "says_red", "vote": None, "score": None},
                {"lf": "says_blue", "vote": "blue", "score": None},
            ],
        },
        {"id": "pixel", "status": "error", "error": {"code": "undecodable_image", "message": "…"}},
    ],
    "classes": ["red", "blue"],
    "lfs": ["says_red", "says_blue"],
    "versions": {"recipe": "0f1e2d3c4b5a6978", "primitives": {}},
    "recipe": "paint",
}


class VoteOut(Shape):
    """What one labeling function says of an item."""

    lf: str
    vote: str | None = Field(
        description="A class, `not dress` or `dress or skirt` for a vote that names several; null for an abstention."
    )
    score: float | None = Field(description="How sure it is, from 0 to 1; null where it cannot say.")


class ItemVotes(Shape):
    """One row of the label matrix, or what is wrong with the item."""

    id: str
    status: Literal["voted", "error"]
    votes: list[VoteOut] = Field(default_factory=list)
    error: ErrorOut | None = None


class VoteVersions(Shape):
    """What made the votes."""

    recipe: str
    primitives: dict[str, str]


class VotesAnswer(Shape):
    """What every labeling function says of every item, in the order of the call."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_VOTES]})

    votes: list[ItemVotes]
    classes: list[str]
    lfs: list[str]
    versions: VoteVersions
    recipe: str
