"""``kind: region_prompt``: what a detector found, told apart by prompts.

::

    primitives: {regions: {boxes: detector, encoder: clip, classes: [person]}}
    lfs:
      - {name: wears, kind: region_prompt, prompts: {dress: a person in a dress, hat: a person with a hat}}

Each box is cut out and held against the prompts, as ``kind: prompt`` holds the whole image; the crops' votes make one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, model_validator

from manyeyes.errors import InvalidRecipe, nearest
from manyeyes.lfs.base import ClassName, Context, LabelingFunction, LFSpec, Number, VoteColumn, Words
from manyeyes.lfs.boxes import label_names
from manyeyes.lfs.prompt import PromptLF
from manyeyes.lfs.prompt_spec import PromptSpec
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.types import ABSTAIN, Item

_OF_PROMPTS: Final = (
    "name", "using", "prompts", "templates", "against", "background", "not_like", "threshold", "temperature", "pool",
)  # fmt: skip


class RegionPromptSpec(LFSpec):
    """Which boxes, which sentences, and how the boxes of an image act together.

    using: a primitive of kind ``regions``. labels: only boxes with these labels of the detector; all by default.
    crops: "best" takes the vote of the crop that is surest; "most" the class with the most crops, and of equals the
    surer; "mean" averages the embeddings of the crops and holds that against the prompts.
    The other fields are those of ``kind: prompt``.
    """

    kind: Literal["region_prompt"] = "region_prompt"
    using: str = "regions"
    labels: Words = ()
    crops: Literal["best", "most", "mean"] = "best"
    prompts: dict[ClassName, Words] = Field(default_factory=dict)
    templates: Words = ()
    against: Words = ()
    background: Words = ()
    not_like: dict[ClassName, Words] = Field(default_factory=dict)
    threshold: Number = Field(default=0.5, ge=0.0, le=1.0)
    temperature: Annotated[Number, Field(gt=0.0, le=100.0, allow_inf_nan=False)] | None = None
    pool: Literal["mean", "max"] = "mean"

    @model_validator(mode="after")
    def _as_prompts(self, info: ValidationInfo) -> Self:
        checked = self.prompt(info.context)
        # Pydantic's frozen models have no other way to fill in a field that depends on others.
        object.__setattr__(self, "prompts", checked.prompts)
        object.__setattr__(self, "not_like", checked.not_like)
        return self

    def prompt(self, context: Mapping[str, Any] | None = None) -> PromptSpec:
        """Return what is said to each crop. Raises what ``kind: prompt`` would."""
        told = {field: getattr(self, field) for field in _OF_PROMPTS}
        return PromptSpec.model_validate(told, context=dict(context) if context else None)

    @property
    def n_prompts(self) -> int:
        return self.prompt().n_prompts


class RegionPromptLF(LabelingFunction):
    """Votes as prompts vote on the boxes of an image; abstains where there is no box."""

    kind: ClassVar[str] = "region_prompt"
    Spec = RegionPromptSpec
    spec: RegionPromptSpec

    def __init__(self, spec: RegionPromptSpec, classes: Sequence[str]) -> None:
        super().__init__(spec, classes)
        self._each = PromptLF(spec.prompt({"classes": self.classes}), self.classes)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.spec.using,)

    def prepare(self, context: Context) -> None:
        """Encode the prompts. Raises InvalidRecipe if the detector does not know a label."""
        told = context.info(self.spec.using)
        known = label_names(told)
        for label in self.spec.labels:
            if label not in known:
                raise InvalidRecipe(
                    f"LF {self.name!r}: the detector behind {self.spec.using!r} knows no {label!r}; it knows"
                    f" {', '.join(known[:100])}{nearest(label, known)}"
                )
        self._each.prepare(_Encoding(context, str(told.get("encoder", "clip")), told))

    def vote(self, features: FeatureSet) -> VoteColumn:
        block = features[self.spec.using]
        if "embedding" not in (block.rows.dtype.names or ()) or block.offsets is None:
            raise InvalidRecipe(
                f"LF {self.name!r} reads {self.spec.using!r}, which gives no embeddings of boxes; name a primitive of"
                " kind: regions"
            )
        kept = np.ones(len(block.rows), dtype=np.bool_)
        if self.spec.labels:
            wanted = [i for i, name in enumerate(label_names(block.info)) if name in self.spec.labels]
            kept = np.isin(block["label"], wanted)
        items, embeddings = block.row_items()[kept], block["embedding"][kept]
        if self.spec.crops == "mean":
            items, embeddings = _averaged(items, embeddings)
        crops = _Crops(items, self._of_crops(embeddings, block.info))
        return (
            self._most(crops, len(features))
            if self.spec.crops == "most"
            else self._best(crops, len(features))
        )

    def _of_crops(self, embeddings: npt.NDArray[np.float32], info: Mapping[str, Any]) -> VoteColumn:
        rows = np.zeros(len(embeddings), dtype=[("embedding", "<f4", embeddings.shape[1:])])
        rows["embedding"] = embeddings
        present = np.ones(len(rows), dtype=np.bool_)
        block = Features(rows, present, info=info)
        return self._each.vote(FeatureSet([Item("crop")] * len(rows), {self.spec.using: block}))

    def _best(self, crops: _Crops, n_items: int) -> VoteColumn:
        column = self.empty(n_items)
        voted = np.flatnonzero(crops.votes.classes != ABSTAIN)
        scores = crops.votes.scores[voted]
        order = voted[np.lexsort((-scores, crops.items[voted]))]
        items, first = np.unique(crops.items[order], return_index=True)
        column.classes[items] = crops.votes.classes[order[first]]
        column.scores[items] = crops.votes.scores[order[first]]
        return column

    def _most(self, crops: _Crops, n_items: int) -> VoteColumn:
        column = self.empty(n_items)
        voted = np.flatnonzero(crops.votes.classes != ABSTAIN)
        counts, sums = (np.zeros((n_items, len(self.classes))) for _ in range(2))
        place = (crops.items[voted], crops.votes.classes[voted].astype(np.int64))
        np.add.at(counts, place, 1)
        np.add.at(sums, place, crops.votes.scores[voted].astype(np.float64))
        mean = sums / np.maximum(counts, 1)
        best = (counts + mean / 2).argmax(axis=1)  # a mean is at most 1, so that it only parts equals
        rows = np.flatnonzero(counts.any(axis=1))
        column.classes[rows] = best[rows]
        column.scores[rows] = mean[rows, best[rows]]
        return column


class _Crops(NamedTuple):
    """items: int64, shape (n_crops,), ascending. votes: of each crop."""

    items: npt.NDArray[np.int64]
    votes: VoteColumn


class _Encoding:
    """A Context in which the regions have the prompts of their encoder."""

    def __init__(self, context: Context, encoder: str, told: Mapping[str, Any]) -> None:
        self._context = context
        self._encoder = encoder
        self._told = told

    def encode(self, primitive: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return self._context.encode(self._encoder, texts)

    def embed(self, feature: str, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        return self._context.embed(self._encoder, items)

    def info(self, primitive: str) -> Mapping[str, Any]:
        return self._told


def _averaged(
    items: npt.NDArray[np.int64], embeddings: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the items that have crops, and the mean embedding of each one's, of length 1."""
    named, place = np.unique(items, return_inverse=True)
    sums = np.zeros((len(named), *embeddings.shape[1:]))
    np.add.at(sums, place, embeddings.astype(np.float64))
    length = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return named, (sums / length).astype(np.float32)
