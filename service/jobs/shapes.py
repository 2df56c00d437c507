"""The words that the parts of a job share: what is asked for, a row, a shard, a commit, and how far a job is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

SourceKind: TypeAlias = Literal["auto", "objects", "table", "manifest", "webdataset", "archive"]
JobStatus: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled"
]
"""As OpenAI's batches say it: finalizing is when every vote is there, and labels are written and published."""
PassName: TypeAlias = Literal["votes", "labels"]

SHARD_ROWS: Final = 4096


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Join(_Spec):
    """Metadata that comes from a table. table: its address. key: its column that names rows.

    on: what of a row the key names: its ``id``, its file's ``name``, or its ``stem``.
    """

    table: str
    key: str = "id"
    on: Literal["id", "name", "stem"] = "id"


class Source(_Spec):
    """Where the rows of a job come from.

    uri: a bucket's prefix or a folder, a table (.parquet, .csv, .jsonl), a list of addresses on the web, a pattern of
    tars such as ``s3://b/shards-{000..099}.tar``, a zip or a tar. kind: what it is; by default told from the address.
    columns: of a table, our name (id, image, text) → its column; by default those of these names. join: metadata.
    """

    uri: str
    kind: SourceKind = "auto"
    columns: Mapping[str, str] = Field(default_factory=dict)
    join: Join | None = None
    recursive: bool = True


class Breaker(_Spec):
    """When a job is hopeless: once so many rows are known and more than such a part of them are errors."""

    max_error_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    min_rows: Annotated[int, Field(ge=1)] = 100


class EngineSpec(_Spec):
    """Who works. workers: shards at once; by default as many as the cores want. address: of a Ray cluster.

    decoders: of Ray, actors that fetch and decode beside those that compute; 0 lets each do both. gpus: a worker's.
    """

    name: Literal["local", "ray"] = "local"
    workers: Annotated[int | None, Field(ge=1)] = None
    address: str | None = None
    decoders: Annotated[int, Field(ge=0)] = 0
    gpus: Annotated[float, Field(ge=0)] = 0


class JobRequest(_Spec):
    """What a job shall do; the same from the shell, over HTTP and from Python.

    recipe: the recipe's document. label_model: a folder or bucket's prefix with a fitted one; by default it is fitted
    on the votes of the job. gold: a table of known labels (id, label) that help to fit. shard_rows: rows a shard.
    attempts: how often a row is tried whose failure may pass. update: take what earlier jobs into ``out`` computed.
    same_rows: label the rows of the latest job into ``out`` again, without listing ``source``, which is the same.
    """

    source: Source
    recipe: Mapping[str, Any]
    out: str
    label_model: str | None = None
    gold: str | None = None
    shard_rows: Annotated[int, Field(ge=1, le=100_000)] = SHARD_ROWS
    attempts: Annotated[int, Field(ge=1, le=20)] = 4
    breaker: Breaker = Breaker()
    engine: EngineSpec = EngineSpec()
    update: bool = True
    same_rows: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One input row of a manifest, and one output row of the job.

    id: names the row in the output; unique in its manifest. uri: where the image's bytes are; None for a text alone.
    member: which part of what lies there: a name inside an archive, or ``<row group>:<row>:<column>`` of a table.
    offset, length: where these bytes are inside of it, if known. size, etag: what tells one content from another.
    metadata: JSON of a flat object. error: (code, message) of a row that cannot be an item.
    """

    id: str
    uri: str | None = None
    member: str | None = None
    offset: int | None = None
    length: int | None = None
    size: int | None = None
    etag: str | None = None
    text: str | None = None
    metadata: str = "{}"
    error: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows that are worked on together. Small and plain: it travels to workers.

    index: its place in the job. part: the object of the manifest that holds its rows, below the job's place.
    digest: sha256 of that object. n_rows: rows in it. skip: positions of rows that are no longer in the source.
    """

    index: int
    part: str
    digest: str
    n_rows: int
    skip: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The rows of a job, forever. id: hash of the shards. uri: what was listed. shards: in the order of the output."""

    id: str
    uri: str
    shards: tuple[Shard, ...]

    @property
    def n_rows(self) -> int:
        """Rows that are labeled."""
        return sum(shard.n_rows - len(shard.skip) for shard in self.shards)


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a shard or a job. errors: code → how many. rows = labeled + abstained + failed after the labels pass."""

    rows: int = 0
    labeled: int = 0
    abstained: int = 0
    failed: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        codes = {*self.errors, *other.errors}
        return Counts(
            self.rows + other.rows,
            self.labeled + other.labeled,
            self.abstained + other.abstained,
            self.failed + other.failed,
            {code: self.errors.get(code, 0) + other.errors.get(code, 0) for code in sorted(codes)},
        )


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a shard: who won, and what it wrote. files: what it is → (object, sha256).

    attempt: unique. computed: how many inputs each primitive had to compute. seconds: of work.
    """

    shard: int
    attempt: str
    files: Mapping[str, tuple[str, str]]
    counts: Counts
    computed: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, derived from its commits. computed: feature → inputs that its model was given in this job.

    seconds: since it was first started. rows_per_s, eta_s: as far as is known. n_rows: of the job; 0 until all are
    listed.
    """

    job: str
    status: JobStatus
    pass_: PassName
    shards_done: int
    shards: int
    counts: Counts
    computed: Mapping[str, int] = field(default_factory=dict)
    message: str | None = None
    seconds: float = 0.0
    rows_per_s: float | None = None
    eta_s: float | None = None
    n_rows: int = 0
