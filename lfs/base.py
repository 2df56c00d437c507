"""What a labeling function is: a named, versioned rule from features to a column of votes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from manyeyes.errors import InvalidRecipe, ItemError, nearest
from manyeyes.lfs.partial import Named, members
from manyeyes.primitives.base import FeatureSet, Primitive
from manyeyes.types import ABSTAIN, FloatArray, Item, VoteArray, vote_dtype


class LFSpec(BaseModel):
    """What every LF says in a recipe; each kind adds its own fields.

    Specs are validated with ``context={"classes": tuple of class names}``, so that a kind can refuse a vote for a class
    that the recipe does not have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_\-]*$", max_length=64)
    kind: str

    def refused_from_outside(self) -> str | None:
        """Return why a recipe that comes over HTTP may not say this, as "field: why"; None where it may."""
        return None

    @property
    def named_models(self) -> Mapping[str, str]:
        """The models that the LF itself loads, by field; from outside, only those that the operator allows."""
        return {}

    @property
    def n_prompts(self) -> int:
        """How many prompts must be encoded before the first vote; a recipe limits their sum."""
        return 0


def check_class(value: str, info: ValidationInfo) -> str:
    """Return a class name if the recipe that is being validated has it; raise InvalidRecipe otherwise."""
    allowed = (info.context or {}).get("classes")
    if allowed is not None and value not in allowed:
        raise InvalidRecipe(
            f"unknown class {value!r}; classes: {', '.join(allowed)}{nearest(value, allowed)}"
        )
    return value


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise InvalidRecipe(f"expected a number, got {str(value).lower()} (a truth value)")
    return value


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


MAX_WORDS: Final = 1_000

ClassName = Annotated[str, AfterValidator(check_class)]
"""A class of the recipe."""
Word = Annotated[str, Field(min_length=1, max_length=500)]
Number = Annotated[float, BeforeValidator(_no_truth, json_schema_input_type=float)]
"""A number; pydantic alone would take true for 1."""
ONE_OR_MORE: Final = BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])
DISTINCT: Final = AfterValidator(_distinct)
Words = Annotated[tuple[Word, ...], Field(max_length=MAX_WORDS), ONE_OR_MORE, DISTINCT]
"""Texts, each once; a single one may be written without a list."""


class VoteColumn(NamedTuple):
    """One LF's votes. classes: int8 (int16 above 127 classes), shape (n_items,). scores: float32, NaN for hard votes.

    A vote of ``n_classes + i`` says "one of the classes in ``sets[i]``" of that LF.
    errors: row → what went wrong with that item in code that is not ours; such an item gets an error, not an abstain.
    """

    classes: VoteArray
    scores: FloatArray
    errors: Mapping[int, ItemError] = {}


class Context(Protocol):
    """What an LF may ask for before it votes; the Labeler's extractor answers."""

    def encode(self, primitive: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return L2-normalised embeddings of prompts in the space of a primitive: float32, shape (n_texts, dim)."""

    def embed(self, feature: str, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """Return L2-normalised embeddings of examples by a feature: float32, shape (n_items, dim)."""

    def info(self, primitive: str) -> Mapping[str, Any]:
        """Return what a primitive says of itself: ``names``, ``logit_scale``, ``dim``."""


class LabelingFunction:
    """Base of every LF kind: keeps the spec, names its version, and makes empty columns.

    A kind sets ``kind`` and ``Spec``, and implements ``reads`` and ``vote``. Voting is deterministic and touches
    nothing but its arguments.
    """

    kind: ClassVar[str]
    Spec: ClassVar[type[LFSpec]]
    operator_only: ClassVar[bool] = False
    """Whether this kind runs code that the recipe names, and so never comes from outside."""

    def __init__(self, spec: LFSpec, classes: Sequence[str]) -> None:
        self.spec = spec
        self.classes = tuple(classes)
        self._sets: list[tuple[int, ...]] = []

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

    @property
    def shares(self) -> tuple[str, ...]:
        """What the LF's errors may come from: LFs that share one are not independent. Mostly what it reads."""
        return self.reads

    @property
    def primitives(self) -> Mapping[str, Primitive]:
        """Signals that this LF alone defines, such as a question put to a model: feature name → primitive.

        The names begin with ``lf:`` and the LF's name. They are batched, cached and counted like those of a recipe, and
        stand in ``reads`` too.
        """
        return {}

    def prepare(self, context: Context) -> None:
        """Fetch what voting needs beside features, such as prompt embeddings; called once before the first vote."""

    def vote(self, features: FeatureSet) -> VoteColumn:
        """Return this LF's votes on the items of a feature set."""
        raise TypeError(f"{type(self).__name__} does not say how it votes")

    @property
    def sets(self) -> tuple[tuple[int, ...], ...]:
        """The sets of classes that this LF may vote for; known before the first vote."""
        return tuple(self._sets)

    def class_index(self, name: str) -> int:
        """Return the index of a class of the recipe."""
        return self.classes.index(name)

    def declare(self, vote: Named) -> int:
        """Return what a vote is in this LF's column, a set of classes having become one of ``sets``.

        Only for ``__init__``: before the first vote, everything that an LF may vote for is known.
        """
        among = members(vote, self.classes)
        if len(among) > 1 and among not in self._sets:
            self._sets.append(among)
        return self.value_of(vote)

    def value_of(self, vote: Named) -> int:
        """Return what a vote is in this LF's column: a class index, or ``n_classes`` and a set's place in ``sets``.

        Raises InvalidRecipe if it is no vote, ValueError if it is a set of classes that was not declared.
        """
        among = members(vote, self.classes)
        return among[0] if len(among) == 1 else len(self.classes) + self._sets.index(among)

    def empty(self, n_items: int) -> VoteColumn:
        """Return a column of abstentions to fill in."""
        return VoteColumn(
            classes=np.full(n_items, ABSTAIN, dtype=vote_dtype(len(self.classes) + len(self._sets))),
            scores=np.full(n_items, np.nan, dtype=np.float32),
        )
