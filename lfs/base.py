"""What a labeling function is: a named, versioned rule from features to a column of votes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from manyeyes.primitives.base import FeatureSet
from manyeyes.types import ABSTAIN, FloatArray, VoteArray, vote_dtype


class LFSpec(BaseModel):
    """What every LF says in a recipe; each kind adds its own fields.

    Specs are validated with ``context={"classes": tuple of class names}``, so that a kind can refuse a vote for a class
    that the recipe does not have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_\-]*$", max_length=64)
    kind: str


class VoteColumn(NamedTuple):
    """One LF's votes. classes: int8 (int16 above 127 classes), shape (n_items,). scores: float32, NaN for hard votes."""

    classes: VoteArray
    scores: FloatArray


class Context(Protocol):
    """What an LF may ask for before it votes; the Labeler's extractor answers."""

    def encode(self, primitive: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return L2-normalised embeddings of prompts in the space of a primitive: float32, shape (n_texts, dim)."""

    def info(self, primitive: str) -> Mapping[str, Any]:
        """Return what a primitive says of itself: ``names``, ``logit_scale``, ``dim``."""


class LabelingFunction:
    """Base of every LF kind: keeps the spec, names its version, and makes empty columns.

    A kind sets ``kind`` and ``Spec``, and implements ``reads`` and ``vote``. Voting is deterministic and touches
    nothing but its arguments.
    """

    kind: ClassVar[str]
    Spec: ClassVar[type[LFSpec]]

    def __init__(self, spec: LFSpec, classes: Sequence[str]) -> None:
        self.spec = spec
        self.classes = tuple(classes)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def version(self) -> str:
        """Hash of the kind, the spec and the classes: equal versions vote alike on equal features."""
        told = {"classes": self.classes, "spec": self.spec.model_dump(mode="json", exclude_defaults=True)}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def reads(self) -> tuple[str, ...]:
        """The feature names that this LF needs; empty where it reads only text, metadata or file names."""
        return ()

    def prepare(self, context: Context) -> None:
        """Fetch what voting needs beside features, such as prompt embeddings; called once before the first vote."""

    def vote(self, features: FeatureSet) -> VoteColumn:
        """Return this LF's votes on the items of a feature set."""
        raise TypeError(f"{type(self).__name__} does not say how it votes")

    def class_index(self, name: str) -> int:
        """Return the index of a class of the recipe."""
        return self.classes.index(name)

    def empty(self, n_items: int) -> VoteColumn:
        """Return a column of abstentions to fill in."""
        return VoteColumn(
            classes=np.full(n_items, ABSTAIN, dtype=vote_dtype(len(self.classes))),
            scores=np.full(n_items, np.nan, dtype=np.float32),
        )
