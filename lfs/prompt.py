"""``kind: prompt``: images or texts held against sentences, in the space of an encoder that reads both.

::

    {name: looks_like, kind: prompt, threshold: 0.5,
     prompts: {dress: [a photo of a dress, a gown], hat: a photo of a hat}, against: [a photo of an empty room]}

The similarities of an item to every class and to every background prompt go through one softmax. The LF votes for the
most probable class where that probability is at least the threshold and above every background prompt's, with the
probability as its score; it abstains otherwise. So an item that looks like none of the classes can look like nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator, model_validator

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import ClassName, Context, LabelingFunction, LFSpec, Number, VoteColumn, Words
from manyeyes.lfs.encoders import ENCODERS, feature_of
from manyeyes.lfs.fields import ImageOrText, needed_for
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.naming import on_text
from manyeyes.types import ABSTAIN

IMAGE_TEMPLATES: Final = (
    "a photo of a {}",
    "a picture of a {}",
    "a close-up photo of a {}",
    "a photo of the {}",
)
TEXT_TEMPLATES: Final = ("{}", "a text about {}", "this is about {}")
MAX_PROMPTS: Final = 2_000

_LOGIT_SCALE: Final = 20.0
"""For an encoder that names no scale of its own: cosines of sentence encoders lie far apart already."""
_BLOCK: Final = 4_096


class PromptSpec(LFSpec):
    """Which sentences speak for which class, and how sure the LF must be.

    on: what is compared, the item's image or a text: its own, a metadata field, the file name, what ``ocr`` recognised.
    using: the encoder; "clip" for images, "text" for texts.
    prompts: sentences by class; left out, every class's own name put into some usual templates.
    templates: each prompt is put in the place of ``{}`` in each of them. against: prompts of the background.
    threshold: the least probability to vote. temperature: of the softmax over cosines; by default the encoder's own.
    pool: how the prompts of one class act together; "mean" averages their embeddings, as an ensemble of wordings of
        one thing does best; "max" takes the nearest, for a class that holds several different things.
    """

    kind: Literal["prompt"] = "prompt"
    on: ImageOrText = "image"
    using: str = ""
    prompts: dict[ClassName, Words] = Field(default_factory=dict)
    templates: Words = ()
    against: Words = ()
    threshold: Number = Field(default=0.5, ge=0.0, le=1.0)
    temperature: Annotated[Number, Field(gt=0.0, le=100.0, allow_inf_nan=False)] | None = None
    pool: Literal["mean", "max"] = "mean"

    @field_validator("templates")
    @classmethod
    def _check_templates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for template in value:
            if template.count("{}") != 1:
                raise InvalidRecipe(f"template {template!r} must hold {{}} once, where the prompt goes")
        return value

    @field_validator("prompts")
    @classmethod
    def _check_prompts(
        cls, value: dict[str, tuple[str, ...]], info: ValidationInfo
    ) -> dict[str, tuple[str, ...]]:
        for name, prompts in value.items():
            if not prompts:
                raise InvalidRecipe(f"class {name!r} has no prompts; add some, or leave the class out")
        order = list((info.context or {}).get("classes") or value)
        return {name: value[name] for name in order if name in value}

    @model_validator(mode="after")
    def _whole(self, info: ValidationInfo) -> Self:
        if len(self.prompts) == 1 and not self.against:
            raise InvalidRecipe(
                "prompts for one class and nothing against it would always win; add another class, or against"
            )
        if self.n_prompts > MAX_PROMPTS:
            raise InvalidRecipe(f"prompts × templates may be at most {MAX_PROMPTS}, got {self.n_prompts}")
        modalities = (info.context or {}).get("modalities")
        modality = "image" if self.on == "image" else "text"
        using = self.using or ENCODERS[modality]
        # Pydantic's frozen models have no other way to fill in a field that depends on others.
        object.__setattr__(self, "using", feature_of(using, modality, modalities) if modalities else using)
        return self

    @property
    def feature(self) -> str:
        """The feature that holds the embeddings: of the encoder itself, or of the encoder reading another's text."""
        return self.using if self.on == "image" else on_text(self.using, self.on)

    @property
    def n_prompts(self) -> int:
        wordings = sum(map(len, self.prompts.values())) * max(1, len(self.templates))
        return wordings + len(self.against)

    def wordings(self, classes: tuple[str, ...]) -> dict[str, list[str]]:
        """Return the sentences that speak for each class, templates filled in."""
        prompts: Mapping[str, tuple[str, ...]] = self.prompts or {name: (name,) for name in classes}
        usual = IMAGE_TEMPLATES if self.on == "image" else TEXT_TEMPLATES
        templates = self.templates or (("{}",) if self.prompts else usual)
        return {
            name: [template.replace("{}", prompt) for prompt in said for template in templates]
            for name, said in prompts.items()
        }


class PromptLF(LabelingFunction):
    """Votes for the class whose prompts an item is nearest to; scores are softmax probabilities."""

    kind: ClassVar[str] = "prompt"
    Spec = PromptSpec
    spec: PromptSpec

    # Set by `prepare`: one row a prompt, or a class where prompts are averaged; then one a background prompt.
    _rows: npt.NDArray[np.float64]
    _owner: npt.NDArray[np.int64]
    _scale: float

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.spec.feature, *(() if self.spec.on == "image" else needed_for(self.spec.on)))

    def prepare(self, context: Context) -> None:
        """Encode the prompts and find the scale of the encoder's similarities."""
        encoder = self.spec.using.partition(".")[0]
        wordings = self.spec.wordings(self.classes)
        texts = [text for said in wordings.values() for text in said] + list(self.spec.against)
        embeddings = np.asarray(context.encode(encoder, texts), dtype=np.float64)
        rows, owner, done = [], [], 0
        for index, said in enumerate(wordings.values()):
            own = embeddings[done : done + len(said)]
            done += len(said)
            if self.spec.pool == "mean":
                own = own.mean(axis=0, keepdims=True)
                own /= max(float(np.linalg.norm(own)), 1e-12)
            rows.append(own)
            owner += [index] * len(own)
        background = embeddings[done:]
        owner += range(len(wordings), len(wordings) + len(background))
        self._rows = np.concatenate([*rows, background])
        self._owner = np.array(owner, dtype=np.int64)
        self._scale = self._find_scale(context.info(encoder))

    def vote(self, features: FeatureSet) -> VoteColumn:
        block = features[self.spec.feature]
        column = self.empty(len(features))
        voted = np.array(
            [self.class_index(name) for name in self.spec.wordings(self.classes)], dtype=np.int64
        )
        threshold = np.float32(self.spec.threshold)
        for start in range(0, len(features), _BLOCK):
            stop = start + _BLOCK
            probs = self._probabilities(block["embedding"][start:stop])
            of_classes = probs[: len(voted)]
            best = of_classes.argmax(axis=0)
            score = of_classes.max(axis=0)
            background = probs[len(voted) :].max(axis=0, initial=0.0)
            votes = block.present[start:stop] & (score >= threshold) & (score > background)
            column.classes[start:stop] = np.where(votes, voted[best], ABSTAIN)
            column.scores[start:stop] = np.where(votes, score, np.float32(np.nan))
        return column

    def _probabilities(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return softmax probabilities: float32, shape (n_classes_prompted + n_against, n_items)."""
        # In float64, because a product's last bits depend on how many rows are multiplied at once, and the same item
        # must get the same float32 in every chunk.
        logits = self._rows @ embeddings.astype(np.float64).T
        if len(self._rows) > self._owner[-1] + 1:
            logits = np.maximum.reduceat(logits, np.flatnonzero(np.diff(self._owner, prepend=-1)), axis=0)
        logits *= self._scale
        logits -= logits.max(axis=0)
        exponentials = np.exp(logits)
        return np.asarray(exponentials / exponentials.sum(axis=0), dtype=np.float32)

    def _find_scale(self, info: Mapping[str, Any]) -> float:
        if self.spec.temperature is not None:
            return 1.0 / self.spec.temperature
        return float(info.get("logit_scale", _LOGIT_SCALE))
