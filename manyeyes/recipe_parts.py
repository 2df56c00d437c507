"""How one primitive and one LF of a recipe are validated: by the spec of their kind, with what stands around them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationInfo

from manyeyes.errors import InvalidRecipe, ManyeyesError, nearest
from manyeyes.lfs.base import LFSpec
from manyeyes.lfs.build import build_lf
from manyeyes.primitives.base import Primitive, PrimitiveSpec
from manyeyes.primitives.naming import on_text, parts, source_feature, split
from manyeyes.recipe_errors import problem_at
from manyeyes.registry import load, names

DEFAULT_PRIMITIVES: Final = ("clip", "detector", "text", "image", "regions", "ocr", "text_facts", "toy")
"""Primitives that an LF may read though the recipe declares none; the name is also the kind, which knows its model."""

_NAME: Final = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)


def spell_out(value: Any) -> Any:
    """Turn ``{clip: starter}`` into ``{clip: {kind: clip, model: starter}}``; the kind defaults to the name."""
    if not isinstance(value, Mapping):
        return value
    long: dict[Any, Any] = {}
    for name, spec in value.items():
        if spec is None or isinstance(spec, str):
            long[name] = {"kind": name} if spec is None else {"kind": name, "model": spec}
        else:
            long[name] = {"kind": name, **spec} if isinstance(spec, Mapping) else spec
    return long


def check_name(name: str) -> str:
    """Return the name of a primitive; a dot in it would read as one of its features."""
    if not _NAME.fullmatch(name):
        raise InvalidRecipe(f"a primitive's name is one word of letters, digits and _, got {name!r}")
    return name


def parse_primitive(value: Any) -> PrimitiveSpec:
    """Return the spec of a primitive, validated by its kind."""
    if isinstance(value, PrimitiveSpec):
        return value
    if not isinstance(value, Mapping):
        raise InvalidRecipe(
            f"a primitive is a model's name, or a mapping such as {{model: starter}}, got {value!r:.60}"
        )
    try:
        kind = load("manyeyes.primitives", str(value["kind"]))
    except InvalidRecipe as error:
        raise InvalidRecipe(
            f"{error}; under a name of its own, a primitive says its kind: {{kind: clip, …}}"
        ) from None
    spec: PrimitiveSpec = kind.Spec.model_validate(value)
    return spec


def parse_lf(value: Any, info: ValidationInfo) -> LFSpec:
    """Return the spec of an LF, validated by its kind, with the classes and primitives that were read before it."""
    if isinstance(value, LFSpec):
        value = value.model_dump(mode="json")
    if not isinstance(value, Mapping):
        raise InvalidRecipe(f"an LF is a mapping, such as {{name: …, kind: keyword, …}}, got {value!r:.60}")
    if "kind" not in value:
        raise problem_at(("kind",), f"kind is missing; allowed: {', '.join(names('manyeyes.lfs'))}", value)
    try:
        kind = load("manyeyes.lfs", str(value["kind"]))
    except InvalidRecipe as error:
        raise problem_at(("kind",), str(error), value["kind"]) from None
    primitives = info.data.get("primitives", {})
    classes = info.data.get("classes")
    context = {
        "classes": classes,
        "modalities": lambda name: modalities(name, primitives),
        "folder": (info.context or {}).get("folder"),
        "gives_text": lambda: text_givers(primitives),
        "facts": lambda: declared_facts(primitives),
    }
    spec: LFSpec = kind.Spec.model_validate(value, context=context)
    if classes is not None and "primitives" in info.data:
        lf = build_lf(spec, classes)
        for read in lf.reads:
            for feature in parts(read):
                if feature not in lf.primitives:
                    _check_declared(spec, feature, primitives)
            _check_source(spec, read, primitives)
    return spec


def _check_declared(spec: LFSpec, feature: str, primitives: Mapping[str, PrimitiveSpec]) -> None:
    name = feature.partition(".")[0]
    allowed = sorted({*primitives, *DEFAULT_PRIMITIVES})
    field = "using" if "using" in type(spec).model_fields else "reads"
    if name not in allowed:
        told = f"unknown primitive {name!r}; declare it under primitives, or use one of {', '.join(allowed)}"
        raise problem_at((field,), told + nearest(name, allowed), name)
    features = modalities(name, primitives)
    if features and feature not in features:
        told = f"primitive {name!r} gives no {feature!r}; it gives {', '.join(features)}"
        raise problem_at((field,), told + nearest(feature, features), feature)


def _check_source(spec: LFSpec, read: str, primitives: Mapping[str, PrimitiveSpec]) -> None:
    name, source = split(read)
    if source is None or source_feature(source) is None or source in (allowed := text_givers(primitives)):
        return
    field = "using" if "using" in type(spec).model_fields else "on"
    told = f"{name!r} cannot read {source!r}, which gives no text; allowed: {', '.join(allowed)}"
    raise problem_at((field,), f"{told}, filename, metadata.<field>", read)


def text_givers(declared: Mapping[str, PrimitiveSpec]) -> list[str]:
    """Return the features that give a text of an item: those of declared primitives, and of the usual ones."""
    return [
        feature
        for name in dict.fromkeys([*declared, *DEFAULT_PRIMITIVES])
        for feature, primitive in primitives_of(name, declared).items()
        if getattr(primitive, "gives_text", False)
    ]


def declared_facts(declared: Mapping[str, PrimitiveSpec]) -> dict[str, list[str]]:
    """Return the facts that a recipe's own primitives tell of items, each with the features that do."""
    found: dict[str, list[str]] = {}
    for name, spec in declared.items():
        on = getattr(spec, "on", "text")
        if name in DEFAULT_PRIMITIVES and on == "text":
            continue  # what every condition may name anyway
        for feature, primitive in primitives_of(name, declared).items():
            for fact in getattr(primitive, "facts", ()):
                found.setdefault(fact, []).append(on_text(feature, on))
    return found


def default_primitive(name: str) -> PrimitiveSpec:
    """Return the primitive that an LF gets which reads one that the recipe does not declare."""
    return parse_primitive({"kind": name})


def with_needs(named: Iterable[str], declared: Mapping[str, PrimitiveSpec]) -> list[str]:
    """Return some primitives and those that they read in turn, sorted; what is not declared is the usual one."""
    found: set[str] = set()
    waiting = list(named)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            spec = declared.get(name) or (default_primitive(name) if name in DEFAULT_PRIMITIVES else None)
            waiting += spec.needs if spec is not None else ()
    return sorted(found)


def modalities(name: str, declared: Mapping[str, PrimitiveSpec]) -> dict[str, str]:
    """Return what a primitive gives: feature → the modality that it reads; empty where that cannot be known yet."""
    return {feature: primitive.modality for feature, primitive in primitives_of(name, declared).items()}


def primitives_of(name: str, declared: Mapping[str, PrimitiveSpec]) -> Mapping[str, Primitive]:
    """Return what a recipe's primitive gives, nothing loaded: feature → primitive; empty where it is not known yet."""
    if name not in declared and name not in DEFAULT_PRIMITIVES:
        return {}
    spec = declared.get(name) or default_primitive(name)
    try:
        built: Mapping[str, Primitive] = load("manyeyes.primitives", spec.kind).build(name, spec)
    except ManyeyesError:
        return {}  # the checkpoint is not here; whoever runs the recipe is told so
    return built


def document_of(spec: BaseModel, *always: str) -> dict[str, Any]:
    """Return a spec as plain values: some fields always, the others where they are not the default."""
    told = spec.model_dump(mode="json", include=set(always))
    return {field: told[field] for field in always} | spec.model_dump(mode="json", exclude_defaults=True)
