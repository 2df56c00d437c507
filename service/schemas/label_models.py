"""Label models that are fitted on what was labeled before, listed, compared and put to use."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ConfigDict, Field

from manyeyes.service.schemas.base import Shape

EXAMPLE_FIT: Final[dict[str, Any]] = {
    "recipe": "paint",
    "batches": ["01a2087235a972199e0e12e0faf7d7a2"],
    "gold": {"01a2087235a972199e0e12e0faf7d7a2-0": "blue", "vase": "red"},
}
EXAMPLE_LABEL_MODEL: Final[dict[str, Any]] = {
    "id": "01a2087235b57de4919a448d9bbe7d0f",
    "created_at": "2026-11-23T12:50:00Z",
    "recipe": "paint",
    "recipe_version": "0f1e2d3c4b5a6978",
    "kind": "majority",
    "version": "majority:1f2e3d4c5b6a7988",
    "batches": ["01a2087235a972199e0e12e0faf7d7a2"],
    "metrics": {"n_items": 1000, "n_errors": 3, "coverage": 0.93, "mean_confidence": 0.88},
    "author": "env-1f2e3d4c",
    "is_active": False,
}
EXAMPLE_COMPARE: Final[dict[str, Any]] = {
    "ids": ["01a2087235b57de4919a448d9bbe7d0f", "01a2087236b57de4919a448d9bbe7d10"],
    "batches": ["01a2087235a972199e0e12e0faf7d7a2"],
}
_GOLD: Final = "Known labels: the id of a label, or of an item, and the name of its class."


class LabelModelFit(Shape):
    """What to fit on. version: of the recipe, where it is not the active one."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_FIT]})

    recipe: str = Field(description="The name of a recipe of the store.")
    version: str | int | None = None
    batches: list[str] = Field(min_length=1, max_length=1000)
    label_model: str | dict[str, Any] | None = Field(
        default=None, description="As in a recipe, such as `dawid_skene`; left out, the one of the recipe."
    )
    gold: dict[str, str] | None = Field(default=None, description=_GOLD)
    activate: bool = False


class LabelModelOut(Shape):
    """A fitted label model.

    metrics: `n_items`, `n_errors`, `coverage` (the share of items that get a label), `mean_confidence` of those; with
    gold also `n_gold`, and `accuracy` and `log_loss` (nats) on known labels that the label model had not seen.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_LABEL_MODEL]})

    id: str
    created_at: str
    recipe: str
    recipe_version: str
    kind: str
    version: str
    batches: list[str]
    metrics: dict[str, Any]
    author: str
    is_active: bool


class LabelModelList(Shape):
    """Label models, the newest first."""

    data: list[LabelModelOut]
    has_more: bool
    next_cursor: str | None = None


class LabelModelCompare(Shape):
    """Which label models to compare, and on what."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_COMPARE]})

    ids: list[str] = Field(min_length=2, max_length=20)
    batches: list[str] = Field(min_length=1, max_length=1000)
    gold: dict[str, str] | None = Field(default=None, description=_GOLD)


class Compared(Shape):
    """One label model on the items of the batches. accuracy, log_loss (nats): where gold labels are given."""

    id: str
    version: str
    coverage: float
    mean_confidence: float | None
    n_gold: int = 0
    accuracy: float | None = None
    log_loss: float | None = None


class Agreement(Shape):
    """How often two label models hold the same class for the most probable, of the items of which something is said."""

    a: str
    b: str
    agreement: float | None


class Comparison(Shape):
    """Label models beside each other. n_items: with votes and without an error."""

    n_items: int
    label_models: list[Compared]
    agreement: list[Agreement]
