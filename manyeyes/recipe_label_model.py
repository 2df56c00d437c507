"""The part of a recipe that says how votes become labels: the label model, and when a label is withheld."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, get_type_hints

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from manyeyes.errors import InvalidRecipe, nearest
from manyeyes.lfs.base import Number
from manyeyes.primitives.base import PrimitiveSpec
from manyeyes.recipe_errors import problem_at
from manyeyes.recipe_parts import DEFAULT_PRIMITIVES, primitives_of
from manyeyes.registry import load, names

_OWN_FIELDS: Final = {
    "class_balance": "write it beside label_model, not in it",
    "self": "choose another name",
}


class TargetPrecision(BaseModel):
    """``abstain_below: {precision: 0.95}``: the threshold is found on gold, so that this share of labels is right."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Number = Field(gt=0.0, lt=1.0)


AbstainBelow = Annotated[
    Annotated[Number, Field(ge=0.0, le=1.0), Tag("‹number›")]
    | Annotated[TargetPrecision, Tag("‹precision›")],
    Discriminator(lambda value: "‹precision›" if isinstance(value, (Mapping, BaseModel)) else "‹number›"),
]
"""A probability, or the precision that is wanted."""

ClassBalance = Annotated[
    Annotated[Literal["estimated"], Tag("‹word›")]
    | Annotated[dict[str, Annotated[Number, Field(gt=0.0, lt=1.0)]], Tag("‹shares›")],
    Discriminator(lambda value: "‹word›" if isinstance(value, str) else "‹shares›"),
]
"""The share of every class, or the word that it shall be estimated."""


@dataclass(frozen=True)
class LabelModelSpec:
    """Which label model, with the embeddings and hyperparameters that it gets.

    embeddings: a feature with an ``embedding`` for each item, such as "clip" or "clip.text". hyperparameters: keyword
    arguments of the label model that are not its defaults.
    """

    name: str = "auto"
    embeddings: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> str | dict[str, Any]:
        """Return the shortest way to write it."""
        told = {"name": self.name} | ({"embeddings": self.embeddings} if self.embeddings else {})
        return self.name if len(told) == 1 and not self.hyperparameters else {**told, **self.hyperparameters}


def parse_label_model(value: Any, info: ValidationInfo) -> LabelModelSpec:
    """Return what a recipe says of its label model, with the primitives that were read before it."""
    if isinstance(value, LabelModelSpec):
        return value
    if isinstance(value, str):
        return LabelModelSpec(name=_known_name(value.strip()))
    if not isinstance(value, Mapping):
        raise InvalidRecipe(
            f"a label model is a name, or a mapping such as {{name: auto, embeddings: clip}}, got {value!r:.60}"
        )
    told: dict[Any, Any] = {"name": "auto", **value}
    if not isinstance(told["name"], str):
        raise problem_at(("name",), f"expected a name, got {told['name']!r:.60}", told["name"])
    name = told.pop("name").strip()
    try:
        _known_name(name)
    except InvalidRecipe as error:
        raise problem_at(("name",), str(error), name) from None
    embeddings = told.pop("embeddings", None)
    if embeddings is not None and "primitives" in info.data:
        check_embeddings(embeddings, info.data["primitives"])
    return LabelModelSpec(name, embeddings, checked_hyperparameters(name, told))


def check_embeddings(feature: object, declared: Mapping[str, PrimitiveSpec]) -> None:
    """Raise a validation error unless some primitive gives an embedding under this name."""
    allowed = sorted({*declared, *DEFAULT_PRIMITIVES})
    primitive = str(feature).partition(".")[0]
    if not isinstance(feature, str) or primitive not in allowed:
        told = f"unknown primitive {feature!r:.60}; declare it under primitives, or use one of {', '.join(allowed)}"
        raise problem_at(("embeddings",), told + nearest(primitive, allowed), feature)
    features = primitives_of(primitive, declared)
    if features and feature not in features:
        told = f"primitive {primitive!r} gives no {feature!r}; it gives {', '.join(features)}"
        raise problem_at(("embeddings",), told + nearest(feature, features), feature)
    found = features.get(feature)
    # Where only the loaded model knows its dimension, the dtype is a property; what has one embeds.
    known = getattr(type(found), "dtype", None)
    if found is not None and (
        found.ragged or (isinstance(known, np.dtype) and "embedding" not in (known.names or ()))
    ):
        raise problem_at(
            ("embeddings",),
            f"{feature!r} gives no embedding of an item; an encoder does, such as clip or text",
            feature,
        )


def checked_hyperparameters(name: str, told: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a label model, those left out that are its defaults.

    Raises a validation error, with the allowed names, for one that it does not have or of another type.
    """
    allowed = dict(_keywords(load("manyeyes.label_models", name))) if told else {}
    kept = {}
    for key, value in told.items():
        if not isinstance(key, str):
            raise InvalidRecipe(f"a hyperparameter has a name, got {key!r:.60}")
        if key in _OWN_FIELDS:
            raise problem_at((key,), f"{key} is no hyperparameter; {_OWN_FIELDS[key]}", value)
        if key not in allowed:
            others = ["name", "embeddings", *allowed]
            raise problem_at(
                (key,),
                f"label model {name!r} has no hyperparameter {key!r}; allowed: {', '.join(others)}"
                f"{nearest(str(key), others)}",
                value,
            )
        wanted, default = allowed[key]
        try:
            checked = TypeAdapter(wanted).validate_python(value, strict=True)
        except ValidationError as error:
            reasons = [
                told["msg"].removeprefix("Input should be ") for told in error.errors(include_url=False)
            ]
            message = f"expected {' or '.join(dict.fromkeys(reasons))}, got {value!r:.60}"
            raise problem_at((key,), message, value) from None
        if isinstance(checked, float) and not math.isfinite(checked):
            raise problem_at((key,), f"expected a finite number, got {value!r}", value)
        if checked != default or type(checked) is not type(default):
            kept[key] = checked
    return dict(sorted(kept.items()))


def _keywords(model: type) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield every keyword argument of a constructor with its type and default, through ``**others`` to its bases."""
    seen = {"self", "class_balance"}
    for cls in model.__mro__:
        init = cls.__dict__.get("__init__")
        if init is None:
            continue
        parameters = inspect.signature(init).parameters.values()
        try:
            hints = get_type_hints(init)
        except NameError:  # a type that is imported for type checkers alone
            hints = {}
        for parameter in parameters:
            if (
                parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
                and parameter.name not in seen
            ):
                seen.add(parameter.name)
                yield parameter.name, (hints.get(parameter.name, Any), parameter.default)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            return


def _known_name(name: str) -> str:
    allowed = names("manyeyes.label_models")
    if name not in allowed:
        raise InvalidRecipe(
            f"unknown label model {name!r}; allowed: {', '.join(allowed)}{nearest(name, allowed)}"
        )
    return name


LabelModelField = Annotated[
    LabelModelSpec,
    PlainValidator(parse_label_model, json_schema_input_type=str | dict[str, Any]),
    PlainSerializer(LabelModelSpec.document),
]
