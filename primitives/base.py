"""What a primitive is, and the arrays in which its features travel.

A primitive turns a batch of decoded inputs into numbers, and nothing else: batching, caching, error isolation and
threads are written once, in :mod:`manyeyes.primitives.extractor`. Nothing here loads a model or an image library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeGuard,
    runtime_checkable,
)

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from manyeyes.errors import ItemError
from manyeyes.types import Item

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Modality: TypeAlias = Literal["image", "text", "pair"]
"""Which half of an item is read: its image, its text, or the pair of both, of which neither may be missing."""
Rows: TypeAlias = npt.NDArray[np.void]
"""A structured array, one named column a feature. Its dtype belongs to the primitive: a cached row is plain bytes."""
Outcome: TypeAlias = "Rows | ItemError | None"
"""What a primitive says of one input: its rows; what is wrong with that input; None where it could not look this time.

Only rows are cached, so that the others are tried again. None makes the feature absent, and LFs that read it abstain.
"""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as primitives see it: decoded once, for all of them.

    pixels: RGB, upright (EXIF orientation applied), alpha flattened, 8 bits a channel.
    width, height: pixels of the upright image as stored, before any reduction on decoding; ``pixels`` may be smaller.
    format: what the file said it is ("JPEG", "PNG", …).
    exif: name → value, strings and numbers only.
    """

    pixels: PILImage
    width: int
    height: int
    format: str
    exif: Mapping[str, str | int | float] = field(default_factory=dict)


@runtime_checkable
class Primitive(Protocol):
    """One signal that a foundation model, or plain arithmetic, sees in an item.

    name: the feature's name in a FeatureSet: "clip", "clip.text", "detector", …
    version: model id, weights digest and preprocessing version; equal versions give equal features. Known without
        loading the model wherever that is possible, so that a fully cached run loads nothing.
    modality: which half of an item it reads.
    dtype: the structured dtype of one row. ragged: whether an item has any number of rows (boxes) or exactly one.
    info: what LFs may ask of it: ``names`` (a detector's classes), ``logit_scale`` (of a CLIP), ``dim``. JSON-ready.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def modality(self) -> Modality: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def ragged(self) -> bool: ...
    @property
    def info(self) -> Mapping[str, Any]: ...

    def setup(self) -> None:
        """Load the weights; called once, before the first batch, in the process that computes. Idempotent."""

    def compute(self, batch: Sequence[Any]) -> Sequence[Outcome]:
        """Return one array of rows for each input, in order; an ItemError or None in its place where there is none.

        batch: DecodedImage for modality "image", str for "text", a tuple of both for "pair"; never empty.
        Each array has this primitive's dtype and shape (1,), or (n_rows,) where ragged.
        """


@runtime_checkable
class PreparingPrimitive(Primitive, Protocol):
    """A primitive that reduces each input on the decoding threads, so that the full pixels need not be kept.

    ``compute`` then gets what ``prepare`` returned, and must take decoded inputs too. Texts alone are not prepared.
    """

    def prepare(self, decoded: Any) -> Any:
        """Return one input reduced to what ``compute`` needs of it; called on many threads at once, after ``setup``."""


@runtime_checkable
class DependentPrimitive(Protocol):
    """What a primitive has besides that reads what others saw of the same input, such as the boxes that it cuts out.

    Whoever computes it hands it the others' rows: those that are cached, or that somebody else reads anyway.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """The features whose rows it wants; of the same modality, and not dependent themselves."""

    def bind(self, primitives: Mapping[str, Primitive]) -> None:
        """Take what it reads and uses from a recipe's primitives, by feature name. Raises InvalidRecipe."""

    def given(self, value: Any, rows: Mapping[str, Rows]) -> Any:
        """Return an input of ``compute`` with the rows that the others gave for it, by feature name."""


@runtime_checkable
class SideBySide(Protocol):
    """What a primitive has besides whose ``compute`` may be called while another call of it is under way.

    A service then gives a core that is free the next inputs at once, where it would wait for the batch under way else.
    """

    @property
    def side_by_side(self) -> int:
        """How many inputs a core sees in one pass, where more at once make none of them cheaper; else 0.

        Asked once it is loaded.
        """


def is_preparing(primitive: Primitive) -> TypeGuard[PreparingPrimitive]:
    """Return whether a primitive prepares its inputs; for each image of a call, where `isinstance` is too slow.

    It would ask the primitive for all that a protocol names: its version, its dtype and its info, too.
    """
    return hasattr(primitive, "prepare")


def is_dependent(primitive: object) -> TypeGuard[DependentPrimitive]:
    """Return whether a primitive reads what others saw; as ``is_preparing`` does."""
    return hasattr(primitive, "given") and hasattr(primitive, "bind")


@dataclass(frozen=True)
class Features:
    """One primitive's features for many items.

    rows: structured, shape (n_items,) with zeros where absent; or, where ragged, shape (total_rows,).
    offsets: int64, shape (n_items + 1,), where ragged: item i owns ``rows[offsets[i]:offsets[i + 1]]``; else None.
    present: bool, shape (n_items,); False where the item lacks the modality or has an error.
    info: the primitive's ``info``.
    """

    rows: Rows
    present: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """Return one column: shape (n_items, …), or (total_rows, …) where ragged."""
        return self.rows[column]

    def row_items(self) -> npt.NDArray[np.int64]:
        """Return, for ragged features, the item index of every row: int64, shape (total_rows,)."""
        if self.offsets is None:
            return np.arange(len(self.rows), dtype=np.int64)
        return np.repeat(np.arange(len(self.present), dtype=np.int64), np.diff(self.offsets))


@dataclass(frozen=True)
class FeatureSet:
    """Everything that labeling functions may read of some items.

    items: as given, in order. blocks: feature name → Features. errors: row → what is wrong with that item; such a row
    is absent from every block, and no LF's vote on it is used.
    """

    items: Sequence[Item]
    blocks: Mapping[str, Features] = field(default_factory=dict)
    errors: Mapping[int, ItemError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, name: str) -> Features:
        return self.blocks[name]


class PrimitiveSpec(BaseModel):
    """What a recipe says of a primitive; each kind adds its own fields.

    kind: the kind in the registry; the recipe fills in the primitive's own name. model: which checkpoint.
    sha256: the digest that the checkpoint must have; WeightsMismatch otherwise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    names_models: ClassVar[tuple[str, ...]] = ()
    """The fields beside ``model`` that name a checkpoint; from outside, only one that the operator allows."""

    kind: str
    model: str = "starter"
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the recipe's other primitives that this one reads."""
        return ()

    def refused_from_outside(self) -> str | None:
        """Return why a recipe that comes over HTTP may not say this, as "field: why"; None where it may."""
        return None


class PrimitiveKind(NamedTuple):
    """What the registry holds of a kind of primitive.

    build(name, spec) returns every feature that the kind gives under its name: ``{"clip": …, "clip.text": …}``. It
    loads no weights and imports no model library.
    """

    Spec: type[PrimitiveSpec]
    build: Callable[[str, Any], Mapping[str, Primitive]]
