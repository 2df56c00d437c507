"""Batch jobs: what is asked for, and how far each is, in the shape of OpenAI's batches."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from manyeyes.service.schemas.base import Shape
from manyeyes.service.schemas.labels import EXAMPLE_RECIPE, LabelOut

JobState: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled"
]
Address: TypeAlias = Annotated[str, Field(min_length=1, max_length=2048)]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]

EXAMPLE_JOB: Final[dict[str, Any]] = {
    "recipe": EXAMPLE_RECIPE,
    "items": [{"id": "coat", "text": "A navy coat"}, {"id": "vase", "text": "A crimson vase"}],
    "out": "s3://labels/paint",
    "metadata": {"team": "catalogue"},
}
EXAMPLE_JOB_OUT: Final[dict[str, Any]] = {
    "id": "01a2087235a972199e0e12e0faf7d7a2",
    "object": "job",
    "status": "in_progress",
    "request_counts": {"total": 60000, "completed": 20480, "failed": 3},
    "created_at": "2026-11-23T12:47:12.297119Z",
    "in_progress_at": "2026-11-23T12:47:15.120034Z",
    "recipe": "paint",
    "recipe_version": "0f1e2d3c4b5a6978",
    "source": "s3://photos/2026",
    "output": {"uri": "s3://labels/paint", "job": "5f0c1e2d3a4b59687766", "labels": None},
    "progress": {
        "pass": "votes",
        "shards_done": 5,
        "shards": 15,
        "labeled": 0,
        "abstained": 0,
        "failed": 3,
        "errors": {"undecodable_image": 3},
        "computed": {"image": 20477},
        "seconds": 61.5,
        "rows_per_s": 333.0,
        "eta_s": 118.7,
    },
    "metadata": {"team": "catalogue"},
    "key_id": "env-1f2e3d4c",
    "request_id": "9f7a3c5e1b2d4f60",
}


class JobJoin(Shape):
    """Metadata that comes from a table. key: its column that names rows; on: what of a row it names."""

    table: Address
    key: Name = "id"
    on: Literal["id", "name", "stem"] = "id"


class JobSource(Shape):
    """Where rows come from: what is in a bucket of the operator, below a prefix, in a table or in archives."""

    uri: Address
    kind: Literal["auto", "objects", "table", "manifest", "webdataset", "archive"] = "auto"
    columns: dict[Name, Name] = Field(default_factory=dict, max_length=100)
    join: JobJoin | None = None
    recursive: bool = True


class JobItem(Shape):
    """An image by its address, a text, or both."""

    id: str = Field(min_length=1, max_length=1024)
    url: str | None = Field(default=None, min_length=1, max_length=4096)
    object: str | None = Field(default=None, min_length=1, max_length=2048)
    text: str | None = None
    metadata: dict[Name, str | int | float | bool | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_an_item(self) -> JobItem:
        if self.url is not None and self.object is not None:
            raise ValueError(f"item {self.id!r:.80} names both a `url` and an `object`; leave one of them")
        if self.url is None and self.object is None and not self.text:
            raise ValueError(
                f"item {self.id!r:.80} has neither a `url`, an `object` nor a `text`; images come by address here"
            )
        return self


class JobBreaker(Shape):
    """When a job is given up: once `min_rows` are known, and more than this part of them are errors."""

    max_error_rate: float = Field(default=0.5, gt=0, le=1)
    min_rows: int = Field(default=100, ge=1, le=1_000_000_000)


class JobEngine(Shape):
    """Who works: processes of this machine, or the operator's Ray cluster. workers: shards at once."""

    name: Literal["local", "ray"] = "local"
    workers: int | None = Field(default=None, ge=1, le=10_000)


class JobCall(Shape):
    """What to label, how, and where the labels go.

    One of source and items says what. out: a place in a bucket that the operator lets jobs write to. fit: whether the
    label model is fitted on the votes of this job, also where the recipe has a fitted one. gold: a table of known
    labels, in a bucket, that helps to fit. metadata: of the job, for whoever asked for it; up to 16.
    update: whether what earlier jobs computed below `out` is used again. same_rows: label the rows of the latest job
    below `out` again, without listing the source, which is the same.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_JOB]})

    recipe: str | dict[str, Any] = Field(
        description="The name of a stored recipe, or `name@version`; or a whole recipe, as an object or as"
        " YAML or JSON text."
    )
    source: JobSource | Address | None = None
    items: list[JobItem] | None = Field(default=None, min_length=1)
    out: Address
    fit: bool = False
    gold: Address | None = None
    metadata: dict[
        Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]
    ] = Field(default_factory=dict, max_length=16)
    shard_rows: int | None = Field(default=None, ge=1, le=100_000)
    attempts: int | None = Field(default=None, ge=1, le=20)
    breaker: JobBreaker | None = None
    engine: JobEngine | None = None
    update: bool = True
    same_rows: bool = False

    @model_validator(mode="after")
    def _has_rows(self) -> JobCall:
        if (self.source is None) == (self.items is None):
            raise ValueError(
                "name one of `source` (what is in a bucket) and `items` (a list of addresses and texts)"
            )
        if self.items is not None:
            seen: set[str] = set()
            for item in self.items:
                if item.id in seen:
                    raise ValueError(
                        f"two items have the id {item.id!r:.80}; ids name the rows of the labels"
                    )
                seen.add(item.id)
        return self


class JobCounts(Shape):
    """Rows. total: 0 until they are counted. completed: what models and functions are done with; failed: its errors."""

    total: int
    completed: int
    failed: int


class JobOutput(Shape):
    """Where everything of a job lies. job: how it is called there. labels: where they are, once they are published."""

    uri: str
    job: str | None = None
    labels: str | None = None


class JobProgress(Shape):
    """How far a job is, as its commits say.

    pass: `votes`, then `labels`. errors: code → rows. computed: feature → inputs that its model was given.
    seconds: since it first began. rows_per_s, eta_s: as far as is known.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    pass_: Literal["votes", "labels"] = Field(alias="pass")
    shards_done: int
    shards: int
    labeled: int
    abstained: int
    failed: int
    errors: dict[str, int]
    computed: dict[str, int]
    seconds: float
    rows_per_s: float | None = None
    eta_s: float | None = None


class JobProblem(Shape):
    """Why a job failed. code: the stable name of the error, the same as in the SDK."""

    code: str
    message: str


class JobProblems(Shape):
    """All that is wrong with a job as a whole; what is wrong with rows stands in their labels."""

    object: Literal["list"]
    data: list[JobProblem]


class JobOut(Shape):
    """A batch job. source: where its rows come from; None where they came with the call."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_JOB_OUT]})

    id: str
    object: Literal["job"]
    status: JobState
    request_counts: JobCounts
    created_at: str
    in_progress_at: str | None = None
    finalizing_at: str | None = None
    completed_at: str | None = None
    failed_at: str | None = None
    cancelling_at: str | None = None
    cancelled_at: str | None = None
    errors: JobProblems | None = None
    recipe: str
    recipe_version: str
    source: str | None = None
    output: JobOutput
    progress: JobProgress | None = None
    metadata: dict[str, str]
    key_id: str
    request_id: str | None = None


class JobList(Shape):
    """Jobs, the newest first."""

    data: list[JobOut]
    has_more: bool
    next_cursor: str | None = None


class JobLine(Shape):
    """What happened to a job. number: grows. kind: a change of `status`, or a `log` line of a level."""

    number: int
    created_at: str
    kind: Literal["status", "log"]
    level: Literal["debug", "info", "warning", "error", "critical"]
    message: str


class JobLog(Shape):
    """What happened to a job, the oldest first."""

    data: list[JobLine]
    has_more: bool
    next_cursor: str | None = None


class JobEventOut(Shape):
    """One event of the stream. data: JSON; of `end` a whole job. id: to come back with as `Last-Event-ID`."""

    event: Literal["status", "progress", "log", "end"]
    data: str
    id: str | None = None


class JobLabels(Shape):
    """Labels of a job, in the order of its rows."""

    data: list[LabelOut]
    has_more: bool
    next_cursor: str | None = None
