"""What was labeled and kept."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ConfigDict, Field

from manyeyes.service.schemas.base import Shape
from manyeyes.service.schemas.labels import LabelCall, LabelForm, LabelOut, ReasonOut, VersionsOut

EXAMPLE_BATCH: Final[dict[str, Any]] = {
    "id": "01a2087235a972199e0e12e0faf7d7a2",
    "created_at": "2026-11-23T12:47:12.297119Z",
    "recipe": "paint",
    "versions": {"recipe": "0f1e2d3c4b5a6978", "primitives": {}, "label_model": "majority:1f2e3d4c5b6a7988"},
    "n_items": 2,
    "n_errors": 1,
    "has_votes": True,
    "key_id": "env-1f2e3d4c",
    "request_id": "9f7a3c5e1b2d4f60",
}
EXAMPLE_EXPLANATION: Final[dict[str, Any]] = {
    "label_id": "01a2087235a972199e0e12e0faf7d7a2-0",
    "batch": EXAMPLE_BATCH,
    "label": {
        "label_id": "01a2087235a972199e0e12e0faf7d7a2-0",
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
    "top": "blue",
    "runner_up": "red",
    "prior": 0.0,
    "reasons": [
        {"lf": "says_blue", "vote": "blue", "score": None, "moved": 1.0986123},
        {"lf": "says_red", "vote": None, "score": None, "moved": 0.0},
    ],
    "log_odds": 1.0986123,
}
_STORE: Final = "Whether the labels are kept; left out, as the operator of the service has it."


class StoringCall(LabelCall):
    """What to label and how, and whether to keep the labels."""

    store: bool | None = Field(default=None, description=_STORE)


class StoringForm(LabelForm):
    """The same as a form, with image files as they are."""

    store: bool | None = Field(default=None, description=_STORE)


class LabelOptions(Shape):
    """What a call to label holds beside the recipe and the items."""

    store: bool | None = None


class BatchOut(Shape):
    """One call that was labeled. has_votes: whether a label model can be fitted from it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_BATCH]})

    id: str
    created_at: str
    recipe: str
    versions: VersionsOut
    n_items: int
    n_errors: int
    has_votes: bool
    key_id: str
    request_id: str | None = None


class BatchList(Shape):
    """Batches, the newest first."""

    data: list[BatchOut]
    has_more: bool
    next_cursor: str | None = None


class BatchLabels(Shape):
    """Labels of a batch, in the order of the call."""

    data: list[LabelOut]
    has_more: bool
    next_cursor: str | None = None


class Explanation(Shape):
    """Why a label is what it is.

    `prior` and what the reasons `moved` add up to `log_odds`: log(probability of top / probability of runner_up).
    reasons: those that moved most first. An item with an error has a label and nothing else.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_EXPLANATION]})

    label_id: str
    batch: BatchOut
    label: LabelOut
    top: str | None = None
    runner_up: str | None = None
    prior: float | None = None
    reasons: list[ReasonOut] = Field(default_factory=list)
    log_odds: float | None = None
