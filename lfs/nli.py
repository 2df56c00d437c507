"""``kind: nli``: texts held against hypotheses by a checkpoint of natural-language inference.

::

    {name: about, kind: nli, model: models/deberta-v3-base-mnli, threshold: 0.7,
     hypotheses: {complaint: The customer is unhappy., praise: The customer is happy.}}

For each hypothesis the checkpoint says how probable it is that the text entails it. The LF votes for the class with the
most probable hypothesis where that is at least the threshold, with the probability as its score; it abstains otherwise,
so that a text that entails none of them gets no vote. What it says is kept in the cache: a new threshold asks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import ClassName, LabelingFunction, LFSpec, Number, VoteColumn, Words
from manyeyes.lfs.fields import TextSource, needed_for
from manyeyes.primitives.base import FeatureSet, Primitive
from manyeyes.primitives.entailment import Entailment
from manyeyes.primitives.naming import OWN, on_text
from manyeyes.types import ABSTAIN

MAX_HYPOTHESES: Final = 200
TEMPLATE: Final = "This text is about {}."


class NliSpec(LFSpec):
    """Which checkpoint, and which sentences speak for which class.

    on: the text that is the premise. model: the path of a folder, or the name of a hub's repository. sha256: the digest
    that its weights must have. hypotheses: sentences by class; left out, every class's own name. template: each is put
    in the place of ``{}``; by default only class names are. threshold: the least probability of entailment to vote.
    """

    kind: Literal["nli"] = "nli"
    on: TextSource = "text"
    model: Annotated[str, Field(min_length=1, max_length=500)]
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    hypotheses: dict[ClassName, Words] = Field(default_factory=dict)
    template: Annotated[str, Field(max_length=500)] | None = None
    threshold: Number = Field(default=0.5, ge=0.0, le=1.0)

    @field_validator("template")
    @classmethod
    def _check_template(cls, value: str | None) -> str | None:
        if value is not None and value.count("{}") != 1:
            raise InvalidRecipe(f"template {value!r} must hold {{}} once, where the hypothesis goes")
        return value

    @field_validator("hypotheses")
    @classmethod
    def _in_order(cls, value: dict[str, tuple[str, ...]], info: ValidationInfo) -> dict[str, tuple[str, ...]]:
        for name, said in value.items():
            if not said:
                raise InvalidRecipe(f"class {name!r} has no hypotheses; add some, or leave the class out")
        order = list((info.context or {}).get("classes") or value)
        return {name: value[name] for name in order if name in value}

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        n_hypotheses = sum(map(len, self.hypotheses.values()))
        if n_hypotheses > MAX_HYPOTHESES:
            raise InvalidRecipe(
                f"an nli LF has at most {MAX_HYPOTHESES} hypotheses, each a pass of the model over every text, got"
                f" {n_hypotheses}"
            )
        return self

    @property
    def named_models(self) -> Mapping[str, str]:
        return {"model": self.model}

    def sentences(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """Return the hypotheses of each class, the template filled in."""
        hypotheses: Mapping[str, tuple[str, ...]] = self.hypotheses or {name: (name,) for name in classes}
        template = self.template or ("{}" if self.hypotheses else TEMPLATE)
        return {name: [template.replace("{}", one) for one in said] for name, said in hypotheses.items()}


class NliLF(LabelingFunction):
    """Votes for the class whose hypothesis a text entails most probably; scores are probabilities of entailment."""

    kind: ClassVar[str] = "nli"
    Spec = NliSpec
    spec: NliSpec

    def __init__(self, spec: NliSpec, classes: Sequence[str]) -> None:
        super().__init__(spec, classes)
        sentences = spec.sentences(classes)
        self._own = f"{OWN}{spec.name}"
        self._feature = on_text(self._own, spec.on)
        self._primitive = Entailment(
            self._own,
            model=spec.model,
            sha256=spec.sha256,
            hypotheses=[one for said in sentences.values() for one in said],
        )
        self._voted = np.array([self.class_index(name) for name in sentences], dtype=np.int64)
        self._starts = np.cumsum([0, *(len(said) for said in sentences.values())])[:-1]

    @property
    def reads(self) -> tuple[str, ...]:
        return (self._feature, *needed_for(self.spec.on))

    @property
    def primitives(self) -> Mapping[str, Primitive]:
        return {self._own: self._primitive}

    def vote(self, features: FeatureSet) -> VoteColumn:
        block = features[self._feature]
        column = self.empty(len(features))
        if not len(features):
            return column
        of_classes = np.maximum.reduceat(block["entailment"], self._starts, axis=1)
        best = of_classes.argmax(axis=1)
        score = of_classes.max(axis=1)
        clear = (of_classes == score[:, None]).sum(axis=1) == 1
        votes = block.present & clear & (score >= np.float32(self.spec.threshold))
        column.classes[:] = np.where(votes, self._voted[best], ABSTAIN)
        column.scores[:] = np.where(votes, score, np.float32(np.nan))
        return column
