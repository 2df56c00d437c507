"""``kind: neighbors``: a few examples of each class; an item is what the examples are that it is nearest to.

::

    {name: like_these, kind: neighbors, examples: {shoes: [a.jpg, b.jpg], hat: [c.jpg]}, k: 5}
    {name: reads_like, kind: neighbors, on: text, examples: {spam: [check out my channel], ham: [love this song]}}

Of the examples within the cut-off, the nearest ``k`` of each class speak for it: a class's weight is the mean of
``exp(sharpness · cosine)`` over them. The share of a class among all weights, and that of "none of these", whose weight
is ``exp(sharpness · cutoff)``, are the probabilities. The LF votes for the most probable class, with its probability as
the score, where the nearest example is within the cut-off; it abstains otherwise.

Cut-off and sharpness are learned from the examples themselves, by holding each one out and looking it up among the
others, so that no item needs a label and a vote depends on nothing but the item and the recipe.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator, model_validator

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import ClassName, Context, LabelingFunction, LFSpec, Number, VoteColumn
from manyeyes.lfs.encoders import ENCODERS, feature_of
from manyeyes.lfs.exemplars import MAX_EXAMPLES, MOST_PIXELS, Example, Examples, fitting
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.nearest import Nearest
from manyeyes.types import ABSTAIN

_SHARPNESS: Final = (2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
_DEFAULT_SHARPNESS: Final = 16.0
_FAR: Final = 0.05
"""The share of examples that would be cut off if each were looked up among the others."""
_HELD_OUT: Final = 2_000
_BLOCK: Final = 4_096

Float = npt.NDArray[np.float64]


class NeighborsSpec(LFSpec):
    """Examples of each class, and how near an item must be.

    on: what is compared, the item's image or its text. using: the encoder; "clip" for images, "text" for texts.
    examples: image files or texts by class. against: examples of none of the classes.
    k: how many of a class's examples speak for it, the nearest first.
    cutoff: the cosine to the nearest example below which the LF abstains; learned from the examples where left out.
    threshold: the least probability to vote.
    """

    kind: Literal["neighbors"] = "neighbors"
    on: Literal["image", "text"] = "image"
    using: str = ""
    examples: dict[ClassName, Examples]
    against: Examples = ()
    k: int = Field(default=5, ge=1, le=1_000)
    cutoff: Annotated[Number, Field(ge=-1.0, le=1.0)] | None = None
    threshold: Number = Field(default=0.0, ge=0.0, le=1.0)

    @field_validator("examples")
    @classmethod
    def _some(
        cls, value: dict[str, tuple[Example, ...]], info: ValidationInfo
    ) -> dict[str, tuple[Example, ...]]:
        if not value:
            raise InvalidRecipe("examples are missing; name some for each class: {hat: [a.jpg, b.jpg]}")
        for name, examples in value.items():
            if not examples:
                raise InvalidRecipe(f"class {name!r} has no examples; add some, or leave the class out")
            fitting(examples, info)
        order = list((info.context or {}).get("classes") or value)
        return {name: value[name] for name in order if name in value}

    @field_validator("against")
    @classmethod
    def _fit(cls, value: tuple[Example, ...], info: ValidationInfo) -> tuple[Example, ...]:
        return fitting(value, info)

    @model_validator(mode="after")
    def _whole(self, info: ValidationInfo) -> Self:
        n = sum(map(len, self.examples.values())) + len(self.against)
        if n > MAX_EXAMPLES:
            raise InvalidRecipe(
                f"an LF may have {MAX_EXAMPLES} examples, got {n}; give the most telling ones"
            )
        if len(self.examples) == 1 and self.cutoff is None and not self.against:
            ((name, examples),) = self.examples.items()
            if len(examples) == 1:
                raise InvalidRecipe(
                    f"one example of {name!r} alone says nothing of how far it reaches; add more, or against, or cutoff"
                )
        modalities = (info.context or {}).get("modalities")
        using = self.using or ENCODERS[self.on]
        # Pydantic's frozen models have no other way to fill in a field that depends on others.
        object.__setattr__(self, "using", feature_of(using, self.on, modalities) if modalities else using)
        return self

    @property
    def n_prompts(self) -> int:
        return sum(map(len, self.examples.values())) + len(self.against)

    def refused_from_outside(self) -> str | None:
        """Refuse files, since nothing of this machine is opened for somebody outside, and images that cost much."""
        for name, examples in (*self.examples.items(), ("", self.against)):
            for example in examples:
                field = f"examples.{name}" if name else "against"
                if example.base64 is not None and example.n_pixels() > MOST_PIXELS:
                    return (
                        f"{field}: an image of more than {MOST_PIXELS:,} pixels, or none that can be read; an example"
                        " needs fewer, make it smaller"
                    )
                if example.path is not None:
                    return (
                        f"{field}: {example.path!r} is a file of this machine, not opened for somebody outside;"
                        " write the image into the recipe as base64, or its embedding"
                    )
        return None


class Reach(NamedTuple):
    """How far examples speak. cutoff: a cosine. sharpness: how much more a nearer example counts, in nats a cosine."""

    cutoff: float
    sharpness: float


class NeighborsLF(LabelingFunction):
    """Votes for the class whose examples an item is nearest to; scores are probabilities."""

    kind: ClassVar[str] = "neighbors"
    Spec = NeighborsSpec
    spec: NeighborsSpec

    # Set by `prepare`: one group of examples a class, in the recipe's order, then one for those of no class.
    _groups: list[Nearest]
    _reach: Reach

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.spec.using,)

    @property
    def reach(self) -> Reach:
        """The cut-off and the sharpness that hold; known once prepared."""
        return self._reach

    def prepare(self, context: Context) -> None:
        """Embed the examples, and learn from them how far they speak.

        Raises InvalidRecipe if a file is missing, or an embedding has the wrong length.
        """
        groups = [_embedded(examples, self.spec.using, context) for examples in self.spec.examples.values()]
        against = _embedded(self.spec.against, self.spec.using, context)
        sizes = {group.shape[1] for group in (*groups, against) if len(group)}
        if len(sizes) > 1:
            raise InvalidRecipe(
                f"LF {self.name!r}: embeddings among the examples have {sorted(sizes)} numbers; {self.spec.using!r}"
                f" gives {context.info(self.spec.using.partition('.')[0]).get('dim')}"
            )
        self._reach = learn_reach(groups, against, k=self.spec.k, cutoff=self.spec.cutoff)
        self._groups = [Nearest(group) for group in (*groups, *([against] if len(against) else []))]

    def vote(self, features: FeatureSet) -> VoteColumn:
        block = features[self.spec.using]
        column = self.empty(len(features))
        voted = np.array([self.class_index(name) for name in self.spec.examples], dtype=np.int64)
        for start in range(0, len(features), _BLOCK):
            stop = start + _BLOCK
            queries = block["embedding"][start:stop]
            cosines = [group.cosines(queries, self.spec.k) for group in self._groups]
            of_classes, score, near = decide(cosines, len(voted), self._reach)
            votes = block.present[start:stop] & near & (score >= np.float32(self.spec.threshold))
            column.classes[start:stop] = np.where(votes, voted[of_classes], ABSTAIN)
            column.scores[start:stop] = np.where(votes, score, np.float32(np.nan))
        return column


def decide(
    cosines: list[Float], n_classes: int, reach: Reach
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return for each item its best class, that class's probability, and whether the LF may vote for it.

    cosines: to the nearest examples of each class, then of no class: float64, shape (n_items, at most k) each.
    It may where the best class's nearest example is within the cut-off and no example of no class weighs more.
    """
    logits = np.stack([_log_weight(near, reach.sharpness) for near in cosines], axis=1)
    far = np.full((len(logits), 1), reach.sharpness * reach.cutoff)
    probs = _softmax(np.concatenate([logits, far], axis=1))
    of_classes = logits[:, :n_classes]
    best = of_classes.argmax(axis=1)
    rows = np.arange(len(best))
    nearest = np.stack([near.max(axis=1) for near in cosines[:n_classes]], axis=1)
    may = nearest[rows, best] >= reach.cutoff
    may &= of_classes[rows, best] > logits[:, n_classes:].max(axis=1, initial=-np.inf)
    return best, probs[rows, best].astype(np.float32), may


def learn_reach(groups: list[Float], against: Float, *, k: int, cutoff: float | None) -> Reach:
    """Return how far examples speak, found by holding each one out and looking it up among the others.

    groups: the examples' embeddings by class: float64, shape (n_examples, dim) each. against: those of no class.
    The cut-off leaves out one example in twenty; where there are examples of no class, it is the cosine that parts
    them best from the others. The sharpness is the one under which held-out examples are most likely of their own
    class; a usual one where no class has two. At most 2,000 examples are held out.
    """
    everything = np.concatenate(groups)
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    companions = np.bincount(owner)[owner] > 1
    held = np.flatnonzero(companions)
    held = held[:: max(1, -(-len(held) // _HELD_OUT))]
    cosine = everything[held] @ everything.T
    cosine[np.arange(len(held)), held] = -np.inf
    near = [_top(cosine[:, owner == c], k) for c in range(len(groups))]
    inside = np.sort(cosine.max(axis=1, initial=-np.inf))
    outside = np.empty(0)
    if len(against):
        near.append(_top(everything[held] @ against.T, k))
        outside = np.sort((against @ everything.T).max(axis=1))
    if cutoff is None:
        cutoff = _part(inside, outside)
    if not len(held):
        return Reach(cutoff, _DEFAULT_SHARPNESS)
    likelihood = []
    for sharpness in _SHARPNESS:
        logits = [_log_weight(cosines, sharpness) for cosines in near]
        probs = _softmax(np.stack([*logits, np.full(len(held), sharpness * cutoff)], axis=1))
        likelihood.append(np.log(np.maximum(probs[np.arange(len(held)), owner[held]], 1e-12)).mean())
    return Reach(cutoff, _SHARPNESS[int(np.argmax(likelihood))])


def _part(inside: Float, outside: Float) -> float:
    """Return the cosine from which on something counts as near.

    inside, outside: the nearest cosines of held-out examples and of examples of no class, in ascending order.
    """
    if not len(outside):
        return float(np.quantile(inside, _FAR)) if len(inside) else -1.0
    if not len(inside):
        return float(outside[-1])
    places = np.unique(np.concatenate([inside, outside]))
    middles = (places[1:] + places[:-1]) / 2 if len(places) > 1 else places
    kept = 1 - np.searchsorted(inside, middles) / len(inside)
    refused = np.searchsorted(outside, middles) / len(outside)
    return float(middles[int(np.argmax(kept + refused))])


def _top(cosines: Float, k: int) -> Float:
    """Return the greatest k of each row, or all of them."""
    k = min(k, cosines.shape[1])
    return cosines if k == cosines.shape[1] else -np.partition(-cosines, k - 1, axis=1)[:, :k]


def _log_weight(cosines: Float, sharpness: float) -> Float:
    """Return the logarithm of the mean weight of some examples, -inf ones left out: float64, shape (n_items,)."""
    logits = cosines * sharpness
    highest = logits.max(axis=1)
    return np.asarray(
        highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1) / np.isfinite(logits).sum(axis=1))
    )


def _softmax(logits: Float) -> Float:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _embedded(examples: tuple[Example, ...], feature: str, context: Context) -> Float:
    """Return the embeddings of some examples, in order: float64, shape (n_examples, dim), of length 1."""
    seen = [example for example in examples if example.embedding is None]
    items = [example.item(str(i)) for i, example in enumerate(seen)]
    found = iter(context.embed(feature, items) if items else ())
    rows = [
        np.asarray(next(found) if example.embedding is None else example.embedding, dtype=np.float64)
        for example in examples
    ]
    if not rows:
        return np.empty((0, 0))
    sizes = sorted({len(row) for row in rows})
    if len(sizes) > 1:
        raise InvalidRecipe(
            f"embeddings among the examples have {sizes} numbers; all come from {feature!r}, so all have as many as it"
            " gives"
        )
    array = np.stack(rows)
    return np.asarray(array / np.linalg.norm(array, axis=1, keepdims=True))
