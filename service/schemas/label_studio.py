"""What Label Studio's server sends to a backend for predictions, and what it expects back."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from manyeyes.service.schemas.base import Shape

EXAMPLE_CONFIG: Final = (
    '<View><Text name="text" value="$text"/><Choices name="colour" toName="text">'
    '<Choice value="red"/><Choice value="blue"/></Choices></View>'
)
EXAMPLE_PREDICT: Final[dict[str, Any]] = {
    "tasks": [{"id": 7, "data": {"text": "a navy coat"}}],
    "project": "1.1700000000",
    "label_config": EXAMPLE_CONFIG,
    "params": {"login": None, "password": None, "context": None},
}
EXAMPLE_PREDICTIONS: Final[dict[str, Any]] = {
    "results": [
        {
            "result": [
                {
                    "id": "manyeyes-0",
                    "from_name": "colour",
                    "to_name": "text",
                    "type": "choices",
                    "value": {"choices": ["blue"]},
                    "score": 0.7,
                }
            ],
            "score": 0.7,
            "model_version": "paint@0f1e2d3c4b5a6978/majority:1f2e3d4c5b6a7988",
        },
        {"error": {"code": "source_not_found", "message": "…"}},
    ],
    "model_version": "paint@0f1e2d3c4b5a6978/majority:1f2e3d4c5b6a7988",
    "versions": {
        "recipe": "0f1e2d3c4b5a6978",
        "primitives": {},
        "label_model": "majority:1f2e3d4c5b6a7988",
    },
}


class BackendHealth(Shape):
    """The backend answers."""

    status: Literal["UP"]
    model_class: str
    recipe: str


class BackendSetup(BaseModel):
    """What Label Studio sends when a backend is connected, and before each round of predictions."""

    # Label Studio adds fields with its versions, so that those which nobody here knows are let by.
    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"project": "1.1700000000", "schema": EXAMPLE_CONFIG, "extra_params": None}]
        },
    )

    schema_: str = Field(
        alias="schema", min_length=1, max_length=1_000_000, description="The labeling config, as XML."
    )
    extra_params: Any = Field(
        default=None,
        description='Of the connection; `{"recipe": …}` must name the recipe that this address serves.',
    )


class BackendVersion(Shape):
    """Names everything that decides a prediction: the recipe's version, and its label model's."""

    model_version: str


class BackendVersions(Shape):
    """The one version that there is."""

    versions: list[str]


class BackendTask(BaseModel):
    """One task: its data, as it was imported."""

    model_config = ConfigDict(extra="allow")

    data: dict[str, Any]


AnyTask: TypeAlias = Annotated[
    BackendTask | Any, Field(description="What is not of this shape is answered by an `error` in its place.")
]


class BackendPredict(BaseModel):
    """Tasks to predict."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [EXAMPLE_PREDICT]})

    tasks: list[AnyTask]
    label_config: str = Field(min_length=1, max_length=1_000_000, description="The labeling config, as XML.")


class Region(Shape):
    """One thing that was filled in: a choice, or a box in percent of the image."""

    id: str
    from_name: str
    to_name: str
    type: Literal["choices", "rectanglelabels"]
    value: dict[str, Any]
    score: float
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: int | None = None


class TaskError(Shape):
    """What is wrong with one task."""

    code: str
    message: str


class Prediction(Shape):
    """The prediction of one task, with an empty `result` where the recipe abstains, or only an `error`.

    Label Studio keeps no prediction of an error, writes it into its log, and asks again the next time.
    """

    result: list[Region] | None = None
    score: float | None = None
    model_version: str | None = None
    error: TaskError | None = None


class BackendVersionsOut(Shape):
    """What made the predictions."""

    recipe: str
    primitives: dict[str, str]
    label_model: str


class BackendPredictions(Shape):
    """One prediction for each task, in order."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_PREDICTIONS]})

    results: list[Prediction]
    model_version: str
    versions: BackendVersionsOut
