"""The words that exports share: what is exported, how, what came of it, and what a format does with a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from manyeyes.primitives.base import Features
from manyeyes.recipe import Recipe
from manyeyes.service.jobs.shapes import Manifest, Row
from manyeyes.service.jobs.sinks.target import Target
from manyeyes.types import Label, Versions

WHOLE: Final = "train"
"""What a dataset without splits is called, where a format wants a name."""
TAB_COLUMNS: Final = (
    "id",
    "status",
    "label",
    "confidence",
    "probs",
    "runner_up",
    "prior",
    "reasons",
    "error_code",
    "error_message",
    "uri",
    "member",
    "text",
    "metadata",
    "split",
    "recipe_version",
    "label_model_version",
)


class Bytes(Protocol):
    """What fetches the bytes of rows, as ``Dataset.fetcher()`` gives it; a context manager that ends its threads."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: Any) -> None: ...
    def fetch(self, rows: Sequence[Row], *, attempts: int) -> Iterator[tuple[int, Any, int]]:
        """Yield for every row, in order: its position, its bytes or what is wrong (None for a text), the attempts."""


class Dataset(Protocol):
    """What is exported: a finished job, as ``manyeyes.service.jobs.datasets.dataset.Dataset`` opens it."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def versions(self) -> Versions: ...
    @property
    def manifest(self) -> Manifest: ...

    def rows(self) -> Iterator[tuple[Row, Label]]:
        """Yield every row with its label, in a fixed order."""

    def features(self, feature: str) -> Iterator[Features] | None:
        """Return what a primitive saw, in blocks that follow ``rows()``; None where nothing is stored."""

    def fetcher(self) -> Bytes:
        """Return what fetches the bytes of rows."""


class ExportOptions(BaseModel):
    """What is exported, and how. Every format takes what it has a place for.

    min_confidence: labels below it stay out. soft_labels, reasons: whether the probabilities of all classes, and what
    each labeling function said, go along. abstained: whether rows without a label come, too. columns: of a table.

    splits: name → fraction, such as ``{train: 0.8, validation: 0.1, test: 0.1}``. seed: of who goes where. stratify:
    whether each class is split in the same proportions. near_duplicates: how rows that must stay together are found:
    by the images' ``pixels``, by the ``features`` that the job stored, or ``off``. group_by: a name in the metadata;
    rows with the same value there stay together, too.

    boxes: of COCO, YOLO, Label Studio and FiftyOne: ``detections`` of the recipe's detector, the item's ``label``, or
    by default the former where there is a detector. detector: which, where the recipe has several. min_score: boxes
    below it stay out. allow_missing_classes: whether a class may have no image in a split, where classes are folders.

    images: for Label Studio, whether images are copied, or referred to where they are; by default the latter where
    they lie in buckets or on the web. image_root: what its tasks name before the path of a copied image.
    shard_bytes, shard_rows: where a format is cut into files. overwrite: whether an earlier export may be replaced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    soft_labels: bool = True
    reasons: bool = False
    abstained: bool = False
    columns: tuple[str, ...] | None = None

    splits: Mapping[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    stratify: bool = True
    near_duplicates: Literal["pixels", "features", "off"] = "pixels"
    group_by: str | None = None

    boxes: Literal["auto", "detections", "label"] = "auto"
    detector: str | None = None
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.0
    allow_missing_classes: bool = False

    images: Literal["auto", "copy", "reference"] = "auto"
    image_root: str | None = None
    shard_bytes: Annotated[int, Field(ge=2**10, le=2**33)] = 256 * 2**20
    shard_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    attempts: Annotated[int, Field(ge=1, le=20)] = 4
    overwrite: bool = False

    @field_validator("splits")
    @classmethod
    def _named(cls, splits: Mapping[str, float]) -> Mapping[str, float]:
        for name in splits:
            if not name.isascii() or not name.isidentifier() or len(name) > 40:
                raise ValueError(f"a split is named by letters, digits and _, got {name!r}")
        if len({name.lower() for name in splits}) < len(splits):
            raise ValueError("two splits differ by case alone; rename one")
        if splits and abs(sum(splits.values()) - 1) > 1e-6:
            raise ValueError(f"the fractions of the splits must sum to 1, not {sum(splits.values()):g}")
        return splits

    @model_validator(mode="after")
    def _columns_known(self) -> Self:
        if self.columns is not None:
            unknown = [name for name in self.columns if name not in TAB_COLUMNS]
            if unknown or not self.columns or len(set(self.columns)) < len(self.columns):
                raise ValueError(
                    f"columns: each once, out of {', '.join(TAB_COLUMNS)}; got {', '.join(self.columns) or 'none'}"
                )
        return self


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export holds.

    rows: in it. splits: name → rows. classes: split → class → rows. boxes: how many. left_out: reason → rows; a reason
    is ``error``, ``abstained``, ``low_confidence``, ``no_image``, or the code of what went wrong with its image.
    examples: reason → some of their ids. groups: near-duplicates that were kept together, how many groups of two and
    more, and the rows of the largest; None without splits. files, bytes: written. digest: sha256 over the names and
    digests of all files: equal exports have equal ones.
    """

    format: str
    out: str
    rows: int
    splits: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    boxes: int
    left_out: Mapping[str, int]
    examples: Mapping[str, Sequence[str]]
    groups: Mapping[str, int] | None
    files: int
    bytes: int
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Boxes:
    """What a detector found in an image: relative, float32, shape (n, 4), left, top, right, bottom as fractions of the
    upright image; label: int64, shape (n,), indices of its names; score: float32, shape (n,)."""

    relative: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Example:
    """One row on its way out. name: unique, safe as a file's name, without a dot. data: the image's bytes, suffix: what
    such a file ends in, size: width and height, upright; None where there is no image or no need. class_: index."""

    row: Row
    label: Label
    split: str
    name: str
    class_: int | None
    data: bytes | None = None
    suffix: str | None = None
    size: tuple[int, int] | None = None
    boxes: Boxes | None = None

    @property
    def file(self) -> str:
        """What the image's file is called."""
        return f"{self.name}{self.suffix}"


@dataclass(frozen=True)
class Setting:
    """What a format is told before the first row.

    splits: those with rows, in order; counts: split → class index (or -1 for none) → rows that are to come. box_names:
    what the detector finds, None where the export shows no detections. texts: whether any row has a text.
    """

    format: str
    options: ExportOptions
    recipe: Recipe
    versions: Versions
    splits: tuple[str, ...]
    counts: Mapping[str, Mapping[int, int]]
    out: str
    box_names: tuple[str, ...] | None = None
    images: bool = True
    texts: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.recipe.classes)


def has_image(row: Row) -> bool:
    """Return whether there is an image, or should be."""
    return row.uri is not None


@dataclass(frozen=True, slots=True)
class Wants:
    """What a format takes.

    image: whether a row without an image has no place. data: of which rows it wants the images' bytes; None for of
    none. size: whether it wants their width and height. boxes: whether it can show detections. suffixes: what its
    readers open; None for any. class_folders: whether the item's class is a folder, so that each class needs an image.
    columns: whether columns can be chosen.
    """

    image: bool = True
    data: Callable[[Row], bool] | None = has_image
    size: bool = False
    boxes: bool = False
    suffixes: frozenset[str] | None = None
    class_folders: bool = False
    columns: bool = False


class Sink(Protocol):
    """One format. Made once an export is known to be possible; rows come in order, each once."""

    def __init__(self, setting: Setting, target: Target) -> None: ...

    @classmethod
    def wants(cls, setting: Setting) -> Wants:
        """Return what the format takes for such options. Raises InvalidRequest if they do not fit it."""

    def add(self, example: Example) -> None:
        """Write one row."""

    def close(self) -> None:
        """Write what is written last."""
