"""What a service says of items, indexes and models, as small values that never change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest, ItemError
from manyeyes.types import ABSTAIN, FloatArray, Versions


@dataclass(frozen=True, slots=True)
class Vote:
    """What one labeling function says. vote: a class, ``not dress``, or None for an abstention. score: in [0, 1]."""

    lf: str
    vote: str | None
    score: float | None


@dataclass(frozen=True, slots=True)
class ItemVotes:
    """What the labeling functions say of one item; error where they could not look at it."""

    id: str
    votes: tuple[Vote, ...] = ()
    error: ItemError | None = None


@dataclass(frozen=True, eq=False, slots=True)
class VotesResult(Sequence[ItemVotes]):
    """The label matrix of a call, in the order of its items. versions: what made it, without a label model."""

    rows: tuple[ItemVotes, ...]
    classes: tuple[str, ...]
    lfs: tuple[str, ...]
    versions: Versions
    recipe: str
    request_id: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def to_numpy(self) -> tuple[npt.NDArray[np.int16], FloatArray]:
        """Return classes, int16, shape (n_items, n_lfs), and scores, float32, of the same shape.

        A class is its index in ``classes``, or ABSTAIN (-1), also of an item with an error; a score is NaN for a hard
        vote. Raises InvalidRequest if an LF votes for several classes at once, which one index cannot say.
        """
        number = {name: n for n, name in enumerate(self.classes)}
        column = {name: n for n, name in enumerate(self.lfs)}
        shape = (len(self.rows), len(self.lfs))
        classes = np.full(shape, ABSTAIN, np.int16)
        scores = np.full(shape, np.nan, np.float32)
        for i, row in enumerate(self.rows):
            for said in row.votes:
                if said.vote is None:
                    continue
                if said.vote not in number:
                    raise InvalidRequest(
                        f"{said.lf} votes {said.vote!r}, which is no single class; read the rows instead"
                    )
                classes[i, column[said.lf]] = number[said.vote]
                scores[i, column[said.lf]] = np.nan if said.score is None else said.score
        return classes, scores


@dataclass(frozen=True, eq=False, slots=True)
class Embedding:
    """The embedding of one item. vector: float32, shape (dim,), of length 1; None where error is not."""

    id: str
    on: str | None = None
    vector: FloatArray | None = None
    error: ItemError | None = None


@dataclass(frozen=True, eq=False, slots=True)
class EmbedResult(Sequence[Embedding]):
    """Embeddings in the order of the items. primitive: what made them; versions: feature → version."""

    rows: tuple[Embedding, ...]
    dim: int
    primitive: str
    versions: Mapping[str, str]
    request_id: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def to_numpy(self) -> FloatArray:
        """Return float32, shape (n_items, dim); NaN for an item with an error."""
        missing = np.full(self.dim, np.nan, np.float32)
        vectors = [missing if row.vector is None else row.vector for row in self.rows]
        return np.stack(vectors) if vectors else np.empty((0, self.dim), np.float32)


@dataclass(frozen=True, slots=True)
class Box:
    """One object. xyxy: left, top, right, bottom in pixels. relative: the same, as shares of the image.

    mask_area: the share of the image that it covers, where the detector segments.
    """

    label: str
    score: float
    xyxy: tuple[float, float, float, float]
    relative: tuple[float, float, float, float]
    mask_area: float | None = None


@dataclass(frozen=True, slots=True)
class Detection:
    """What is in one image, the surest first. width, height: in pixels."""

    id: str
    width: int = 0
    height: int = 0
    boxes: tuple[Box, ...] = ()
    error: ItemError | None = None


@dataclass(frozen=True, eq=False, slots=True)
class DetectResult(Sequence[Detection]):
    """Detections in the order of the items. classes: what the detector finds at all."""

    rows: tuple[Detection, ...]
    classes: tuple[str, ...]
    primitive: str
    versions: Mapping[str, str]
    request_id: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]


@dataclass(frozen=True, slots=True)
class Match:
    """An item of an index. cosine: of its embedding and the query's."""

    id: str
    cosine: float


@dataclass(frozen=True, slots=True)
class Found:
    """What one query found, the nearest first."""

    id: str
    matches: tuple[Match, ...] = ()
    error: ItemError | None = None

    def __iter__(self) -> Iterator[Match]:
        return iter(self.matches)


@dataclass(frozen=True, eq=False, slots=True)
class SearchResult(Sequence[Found]):
    """What each query found, in their order. n_items: in the index."""

    rows: tuple[Found, ...]
    index_name: str
    n_items: int
    versions: Mapping[str, str]
    request_id: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]


@dataclass(frozen=True, slots=True)
class Index:
    """An index that can be searched. primitive: the version of what made its vectors; model: its name, if offered."""

    name: str
    n_items: int
    dim: int
    primitive: str
    model: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that callers may name. id: its name; kind, model: how a recipe names it. task: "embed" or "detect".

    dim: of its embeddings, None where that is not known before it is loaded. available: whether its weights are there;
    loaded: whether they are in memory. versions: feature → version.
    """

    id: str
    kind: str
    model: str
    task: str
    modalities: tuple[str, ...]
    dim: int | None
    available: bool
    loaded: bool
    versions: Mapping[str, str]
    licence: str | None
    note: str
