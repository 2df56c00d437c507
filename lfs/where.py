"""``kind: where``: conditions over where a CLIP sees what, without a detector.

::

    {name: dog_left, kind: where, when: "score('a dog') > 0.6 and x('a dog') < 0.5", vote: dress}

Each name in the condition is looked for as a prompt. Heat maps over a coarse grid say how surely each cell shows it
rather than the background; around what is hot lie the boxes that the functions of ``detect`` speak of. They are
rough: good for left or right, large or small, there or not there, and not for counting what stands close together.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from manyeyes.errors import InvalidRecipe, nearest
from manyeyes.lfs.base import Context, Number, VoteColumn, Words
from manyeyes.lfs.boxes import VOCABULARY, Boxes
from manyeyes.lfs.heat import BACKGROUND, SHARE, SHARPNESS, finer, heat_maps, hot_boxes
from manyeyes.lfs.rules import Rule, RulesLF, RulesSpec
from manyeyes.lfs.vocabulary import Vocabulary
from manyeyes.primitives.base import Features, FeatureSet

_BOX: Final = np.dtype([("box", "<f8", (4,)), ("fraction", "<f8", (4,)), ("label", "<i2"), ("score", "<f8")])
_BLOCK: Final = 256
_WORDY: Final = ("a ", "an ", "the ", "some ", "two ", "three ", "many ", "people ")


class WhereRule(Rule):
    """One condition over hot regions and its vote."""

    vocabulary: ClassVar[Vocabulary] = VOCABULARY


class WhereSpec(RulesSpec):
    """What is looked for, and how sure it must be.

    using: the CLIP. prompts: what to look for under a name in the conditions; else the name itself is the prompt.
    against: prompts of the background; usual ones by default. min_score: regions whose hottest point is less hot are
    left out. share: how hot a point must be to belong to a region, relative to the hottest of the image.
    """

    vocabulary: ClassVar[Vocabulary] = VOCABULARY

    kind: Literal["where"] = "where"
    rules: Annotated[tuple[WhereRule, ...], Field(max_length=1_000)] = ()
    using: str = "clip"
    prompts: Annotated[dict[str, Words], Field(max_length=1_000)] = Field(default_factory=dict)
    against: Words = ()
    min_score: Number = Field(default=0.5, ge=0.0, le=1.0)
    share: Number = Field(default=SHARE, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        looked_for = self.wordings()
        for label in self.prompts:
            if label not in looked_for:
                raise InvalidRecipe(
                    f"prompts say what {label!r} looks like, but no condition speaks of it; it speaks of"
                    f" {', '.join(looked_for)}{nearest(label, looked_for)}"
                )
        return self

    def wordings(self) -> dict[str, tuple[str, ...]]:
        """Return the prompts of every name in the conditions, sorted by name."""
        labels = {label for expression, _ in self.conditions() for label in expression.labels}
        return {label: self.prompts.get(label) or (photo_of(label),) for label in sorted(labels)}

    @property
    def n_prompts(self) -> int:
        return sum(map(len, self.wordings().values())) + len(self.against or BACKGROUND)


class WhereLF(RulesLF):
    """Votes where a condition over hot regions holds; abstains on an item without an image."""

    kind: ClassVar[str] = "where"
    Spec = WhereSpec
    spec: WhereSpec

    # Set by `prepare`: name → its prompts' embeddings; the background's; the scale of similarities.
    _wanted: dict[str, npt.NDArray[np.float32]]
    _background: npt.NDArray[np.float32]
    _scale: float

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"{self.spec.using}.map",)

    def prepare(self, context: Context) -> None:
        """Encode the prompts."""
        wordings = self.spec.wordings()
        self._wanted = {label: context.encode(self.spec.using, said) for label, said in wordings.items()}
        self._background = context.encode(self.spec.using, self.spec.against or BACKGROUND)
        self._scale = scale_of(context.info(self.reads[0]))

    def vote(self, features: FeatureSet) -> VoteColumn:
        block = features[self.reads[0]]
        return self.decide(Boxes(self._boxes(block, features.items)), block.present)

    def _boxes(self, block: Features, items: Any) -> Features:
        """Return the hot regions of every name as a detector's features would be."""
        found = []
        for start in range(0, len(items), _BLOCK):
            cells = block["map"][start : start + _BLOCK].astype(np.float64)
            present = block.present[start : start + _BLOCK]
            for label, prompts in enumerate(self._wanted.values()):
                heat = heat_maps(cells, prompts, self._background, scale=self._scale)
                heat[~present] = 0.0
                hot = hot_boxes(finer(heat), least=self.spec.min_score, share=self.spec.share)
                rows = np.zeros(len(hot.items), dtype=[*_BOX.descr, ("item", "<i8")])
                rows["item"], rows["label"], rows["score"] = hot.items + start, label, hot.scores
                rows["fraction"] = rows["box"] = hot.corners
                found.append(rows)
        every = np.concatenate(found) if found else np.zeros(0, dtype=[*_BOX.descr, ("item", "<i8")])
        every = every[np.lexsort((-every["score"], every["item"]))]
        rows = np.zeros(len(every), dtype=_BOX)
        for column in _BOX.names or ():
            rows[column] = every[column]
        counts = np.bincount(every["item"], minlength=len(items))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # Fractions stand in for pixels, since of the image's shape nothing is known here.
        return Features(rows, block.present, offsets, info={"names": list(self._wanted)})


def scale_of(info: Any) -> float:
    """Return the scale of similarities in the softmax over cells of a CLIP. info: what its map says of itself."""
    return SHARPNESS * float(info.get("logit_scale", 1.0))


def photo_of(label: str) -> str:
    """Return a name as a prompt.

    >>> photo_of("dog"), photo_of("orange"), photo_of("a red car")
    ('a photo of a dog', 'a photo of an orange', 'a photo of a red car')
    """
    if label.lower().startswith(_WORDY):
        return f"a photo of {label}"
    return f"a photo of {'an' if label[:1].lower() in 'aeiou' else 'a'} {label}"
