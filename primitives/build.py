"""From what a recipe says of primitives to the primitives, and which of them gives a feature."""

from __future__ import annotations

from collections.abc import Mapping

from manyeyes.errors import InvalidRecipe, nearest
from manyeyes.primitives.base import DependentPrimitive, Primitive, PrimitiveSpec
from manyeyes.primitives.naming import split
from manyeyes.registry import load


def build_primitives(
    specs: Mapping[str, PrimitiveSpec], also: Mapping[str, Primitive] | None = None
) -> dict[str, Primitive]:
    """Return feature name → primitive, each bound to those that it reads; no weights are loaded.

    also: primitives that are no part of the recipe. Raises InvalidRecipe if a kind is unknown.
    """
    primitives: dict[str, Primitive] = dict(also or {})
    for name, spec in specs.items():
        primitives |= load("manyeyes.primitives", spec.kind).build(name, spec)
    for primitive in primitives.values():
        if isinstance(primitive, DependentPrimitive):
            primitive.bind(primitives)
    return primitives


def primitive_of(feature: str, primitives: Mapping[str, Primitive]) -> Primitive:
    """Return the primitive that gives a feature. Raises InvalidRecipe if none does."""
    feature, _ = split(feature)  # which text it reads makes it no other primitive
    if feature not in primitives:
        allowed = sorted(primitives)
        raise InvalidRecipe(
            f"no primitive gives {feature!r}; there are: {', '.join(allowed) or 'none'}{nearest(feature, allowed)}"
        )
    return primitives[feature]


def text_feature(primitive: str, primitives: Mapping[str, Primitive]) -> str:
    """Return the feature of a primitive that reads texts, such as "clip.text" for "clip".

    Raises InvalidRecipe if it embeds no texts.
    """
    for feature in (primitive, f"{primitive}.text"):
        if feature in primitives and primitives[feature].modality == "text":
            return feature
    primitive_of(primitive, primitives)
    texts = sorted(name.partition(".")[0] for name, p in primitives.items() if p.modality == "text")
    raise InvalidRecipe(
        f"primitive {primitive!r} does not embed texts, so it has no prompts; those that do:"
        f" {', '.join(texts) or 'none'}"
    )
