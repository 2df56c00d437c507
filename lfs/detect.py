"""``kind: detect``: conditions over the objects that a detector found.

::

    {name: wears, kind: detect, when: "count(person) >= 1 and area(person) > 0.2", vote: dress}

Votes are hard. A box's score says how sure the detector is of the box, not how likely the vote is right, so it is
not passed off as one; ``score(label)`` in the condition, or ``min_score``, sets how sure it must be.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from manyeyes.errors import InvalidRecipe, nearest
from manyeyes.lfs.base import Context, Number, VoteColumn
from manyeyes.lfs.boxes import VOCABULARY, Boxes, label_names
from manyeyes.lfs.rules import Rule, RulesLF, RulesSpec
from manyeyes.lfs.vocabulary import Vocabulary
from manyeyes.primitives.base import FeatureSet


class DetectRule(Rule):
    """One condition over boxes and its vote."""

    vocabulary: ClassVar[Vocabulary] = VOCABULARY


class DetectSpec(RulesSpec):
    """using: the detector. min_score: boxes below it are not counted."""

    vocabulary: ClassVar[Vocabulary] = VOCABULARY

    kind: Literal["detect"] = "detect"
    rules: Annotated[tuple[DetectRule, ...], Field(max_length=1_000)] = ()
    using: str = "detector"
    min_score: Number = Field(default=0.0, ge=0.0, le=1.0)


class DetectLF(RulesLF):
    """Votes where a condition over the detected objects holds; abstains on an item without an image."""

    kind: ClassVar[str] = "detect"
    Spec = DetectSpec
    spec: DetectSpec

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.spec.using,)

    def prepare(self, context: Context) -> None:
        """Raise InvalidRecipe if a condition names a label that the detector does not know."""
        known = label_names(context.info(self.spec.using))
        for label in sorted(self.names() - set(known)):
            raise InvalidRecipe(
                f"LF {self.name!r}: detector {self.spec.using!r} knows no {label!r}; it knows"
                f" {_some(known)}{nearest(label, known)}"
            )

    def vote(self, features: FeatureSet) -> VoteColumn:
        block = features[self.spec.using]
        return self.decide(Boxes(block, min_score=self.spec.min_score), block.present)


def _some(names: tuple[str, ...], limit: int = 100) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "no labels at all"
