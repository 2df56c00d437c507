"""What a prompt LF says in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import ONE_OR_MORE, ClassName, LFSpec, Number, Words
from manyeyes.lfs.encoders import ENCODERS, feature_of
from manyeyes.lfs.fields import ImageOrText
from manyeyes.lfs.partial import members
from manyeyes.lfs.prompt_calibration import PromptCalibration
from manyeyes.lfs.prompt_scores import Sentences
from manyeyes.lfs.prompt_sets import background, filled_in, template_set
from manyeyes.primitives.naming import on_text

IMAGE_TEMPLATES: Final = template_set("photo")
TEXT_TEMPLATES: Final = template_set("text")
MAX_PROMPTS: Final = 2_000
BOTH: Final = "both"

Modality = Literal["image", "text"]


def _check_templates(value: tuple[str, ...]) -> tuple[str, ...]:
    for template in value:
        if template.count("{}") > 1:
            raise InvalidRecipe(f"template {template!r} must hold {{}} once, where the prompt goes")
        if not template.count("{}"):
            template_set(template)
    return value


def _check_background(value: tuple[str, ...]) -> tuple[str, ...]:
    background(value, "image")
    return value


def _check_on(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    # An image and the text beside it are two sources at once, which no field of texts knows.
    return value if value == BOTH else handler(value)


class GroupSpec(BaseModel):
    """Classes that belong together, and sentences for all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    classes: Annotated[tuple[ClassName, ...], Field(min_length=2), ONE_OR_MORE]
    prompts: Words = ()


def _spell_out(value: Any) -> Any:
    return {"classes": value} if isinstance(value, (list, tuple)) else value


Group = Annotated[GroupSpec, BeforeValidator(_spell_out)]
GroupName = Annotated[str, Field(min_length=1, max_length=100)]


class PromptSpec(LFSpec):
    """Which sentences speak for which class, and how sure the LF must be.

    on: what is compared, the item's image or a text: its own, a metadata field, the file name, what ``ocr`` recognised;
        ``both`` holds the image and the item's own text against the same sentences and multiplies what they say.
    using: the encoder; "clip" for images, "text" for texts. text_using: the encoder of the text, on both.
    prompts: sentences by class; left out, every class's own name put into some usual templates.
    templates: each prompt is put in the place of ``{}`` in each of them; a name stands for a set of templates.
    against: prompts of the background. background: kinds of everyday things that stand for all the rest; "standard" is
        all of them. not_like: by class, what resembles it and is not it.
    groups: classes that belong together; the group is decided first, and voted for where no class in it is sure enough.
    threshold: the least probability to vote. temperature: of the softmax over cosines; by default the encoder's own.
    pool: how the prompts of one class act together; "mean" averages their embeddings, as an ensemble of wordings of
        one thing does best; "max" takes the nearest, for a class that holds several different things.
    calibrated: by modality, numbers that ``manyeyes recipe calibrate`` found on the user's items.
    """

    kind: Literal["prompt"] = "prompt"
    on: Annotated[ImageOrText, WrapValidator(_check_on)] = "image"
    using: str = ""
    text_using: str = ""
    prompts: dict[ClassName, Words] = Field(default_factory=dict)
    templates: Annotated[Words, AfterValidator(_check_templates)] = ()
    against: Words = ()
    background: Annotated[Words, AfterValidator(_check_background)] = ()
    not_like: dict[ClassName, Words] = Field(default_factory=dict)
    groups: dict[GroupName, Group] = Field(default_factory=dict)
    threshold: Number = Field(default=0.5, ge=0.0, le=1.0)
    temperature: Annotated[Number, Field(gt=0.0, le=100.0, allow_inf_nan=False)] | None = None
    pool: Literal["mean", "max"] = "mean"
    calibrated: dict[Modality, PromptCalibration] = Field(default_factory=dict)

    @field_validator("prompts", "not_like")
    @classmethod
    def _check_prompts(
        cls, value: dict[str, tuple[str, ...]], info: ValidationInfo
    ) -> dict[str, tuple[str, ...]]:
        for name, prompts in value.items():
            if not prompts:
                raise InvalidRecipe(f"class {name!r} has no prompts; add some, or leave the class out")
        order = list((info.context or {}).get("classes") or value)
        return {name: value[name] for name in order if name in value}

    @field_validator("groups")
    @classmethod
    def _check_groups(cls, value: dict[str, GroupSpec], info: ValidationInfo) -> dict[str, GroupSpec]:
        classes = list((info.context or {}).get("classes") or [])
        placed: dict[str, str] = {}
        for name, group in value.items():
            for member in group.classes:
                if placed.setdefault(member, name) != name:
                    raise InvalidRecipe(
                        f"class {member!r} is in the groups {placed[member]!r} and {name!r}; one class, one group"
                    )
            if classes:
                members(group.classes, classes)
        if not classes:
            return value
        inside = {
            name: group.model_copy(
                update={"classes": tuple(c for c in dict.fromkeys(classes) if c in group.classes)}
            )
            for name, group in value.items()
        }
        return dict(sorted(inside.items(), key=lambda pair: classes.index(pair[1].classes[0])))

    @model_validator(mode="after")
    def _whole(self, info: ValidationInfo) -> Self:
        prompted = list(self.prompts) or list((info.context or {}).get("classes") or [])
        if len(self.prompts) == 1 and not (self.against or self.background or self.not_like):
            raise InvalidRecipe(
                "prompts for one class and nothing against it would always win; add another class, or against"
            )
        self._check_classes(prompted)
        if self.n_prompts > MAX_PROMPTS:
            raise InvalidRecipe(f"prompts × templates may be at most {MAX_PROMPTS}, got {self.n_prompts}")
        if self.text_using and self.on != BOTH:
            raise InvalidRecipe(
                f"text_using is for on: both; on: {self.on} has one encoder, which stands under using"
            )
        modalities = (info.context or {}).get("modalities")
        for field, modality in (
            [("using", "image"), ("text_using", "text")]
            if self.on == BOTH
            else [("using", self.modalities[0])]
        ):
            using = getattr(self, field) or ENCODERS[modality]
            # Pydantic's frozen models have no other way to fill in a field that depends on others.
            object.__setattr__(self, field, feature_of(using, modality, modalities) if modalities else using)
        return self

    def _check_classes(self, prompted: list[str]) -> None:
        """Raise InvalidRecipe if a class is spoken of that has no prompts."""
        told = {"not_like": list(self.not_like)}
        told |= {f"groups: {name}": list(group.classes) for name, group in self.groups.items()}
        for modality, found in self.calibrated.items():
            if modality not in self.modalities:
                raise InvalidRecipe(
                    f"calibrated: {modality} was not compared; on: {self.on} reads {' and '.join(self.modalities)}"
                )
            if found.in_class is not None and not (self.against or self.background):
                raise InvalidRecipe(
                    "calibrated: in_class is measured against a background; write background: standard, or calibrate"
                    " again"
                )
            told[f"calibrated: {modality}"] = [*found.gain, *found.bias]
        for where, named in told.items():
            absent = [name for name in named if prompted and name not in prompted]
            if absent:
                raise InvalidRecipe(f"{where} names {absent[0]!r}, for which this LF has no prompts")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What is compared, the image first."""
        if self.on == BOTH:
            return ("image", "text")
        return ("image",) if self.on == "image" else ("text",)

    def encoder(self, modality: Modality) -> str:
        """Return the feature of the encoder that reads a modality."""
        return self.text_using if (self.on, modality) == (BOTH, "text") else self.using

    def feature(self, modality: Modality) -> str:
        """Return the feature that holds the embeddings: of an encoder itself, or of one that reads another's text."""
        source = "text" if self.on == BOTH else self.on
        return self.using if modality == "image" else on_text(self.encoder("text"), source)

    @property
    def n_prompts(self) -> int:
        wordings = sum(map(len, self.prompts.values())) * max(1, len(filled_in(self.templates)))
        others = sum(map(len, self.not_like.values())) + sum(len(g.prompts) for g in self.groups.values())
        own = wordings + len(self.against) + others
        return sum(own + len(background(self.background, modality)) for modality in self.modalities)

    @property
    def keeps_quiet(self) -> bool:
        """Whether there is a probability of being none of the classes to compare with that of being any of them."""
        # Of two looks only the product counts, in which no single prompt of the background can be told any more.
        return bool(self.background or self.not_like or self.calibrated or (self.on == BOTH and self.against))

    def wordings(self, classes: tuple[str, ...], modality: Modality | None = None) -> dict[str, list[str]]:
        """Return the sentences that speak for each class, templates filled in."""
        prompts: Mapping[str, tuple[str, ...]] = self.prompts or {name: (name,) for name in classes}
        usual = IMAGE_TEMPLATES if (modality or self.modalities[0]) == "image" else TEXT_TEMPLATES
        templates = filled_in(self.templates) or (("{}",) if self.prompts else usual)
        return {
            name: [template.replace("{}", prompt) for prompt in said for template in templates]
            for name, said in prompts.items()
        }

    def sentences(self, classes: tuple[str, ...], modality: Modality) -> Sentences:
        """Return all that is said in one modality."""
        said = self.wordings(classes, modality)
        place = {name: index for index, name in enumerate(said)}
        return Sentences(
            classes=list(said.values()),
            against=self.against,
            background=background(self.background, modality),
            not_like={place[name]: prompts for name, prompts in self.not_like.items()},
            groups=[
                (tuple(place[name] for name in group.classes), group.prompts)
                for group in self.groups.values()
            ],
        )
