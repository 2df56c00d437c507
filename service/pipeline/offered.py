"""The models that callers may name, and what a name means.

Callers name a primitive by its kind (``clip``: the usual model of that kind), by kind and model (``clip:ViT-B-32``), by
a model that the operator listed, or as an object with the fields of its spec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from pydantic import ValidationError

from manyeyes.errors import InvalidRecipe, InvalidRequest, ManyeyesError, NotFound, UntrustedRecipe, nearest
from manyeyes.lfs.encoders import feature_of
from manyeyes.models.catalogue import CATALOGUE, Checkpoint
from manyeyes.primitives.base import Primitive, PrimitiveSpec
from manyeyes.recipe_parts import default_primitive, parse_primitive
from manyeyes.registry import load, names
from manyeyes.trust import primitive_refusals

Task: TypeAlias = Literal["embed", "detect"]

USUAL: Final[Mapping[str, Task]] = {"clip": "embed", "text": "embed", "detector": "detect", "toy": "embed"}
"""Kinds whose usual model everybody may name, and what it does."""
_WEIGHTS: Final = (".pt", ".onnx")


@dataclass(frozen=True, slots=True)
class Offered:
    """A model that callers may name. id: its name. task: what it does. listed: as the catalogue knows it, or None."""

    id: str
    spec: PrimitiveSpec
    task: Task
    listed: Checkpoint | None

    @property
    def primitives(self) -> Mapping[str, Primitive]:
        """What it gives, nothing loaded: feature → primitive."""
        return built(self.spec)


def offered(allowed_models: Sequence[str]) -> list[Offered]:
    """Return every model that callers may name: the usual ones, then those that the operator listed.

    allowed_models: as in the settings, "model" or "kind:model".
    """
    found = [_offer(kind, default_primitive(kind), task) for kind, task in USUAL.items()]
    for listed in allowed_models:
        kind, model = _kind_of(listed)
        if USUAL.get(kind) is None or model == default_primitive(kind).model:
            continue  # a model of a labeling function, or one that is there already
        try:
            spec = parse_primitive({"kind": kind, "model": model})
        except (ManyeyesError, ValidationError):
            continue  # the kind has no such model; nobody could name it
        found.append(_offer(f"{kind}:{model}", spec, USUAL[kind]))
    return list({one.id: one for one in found}.values())


def find(name: str, allowed_models: Sequence[str]) -> Offered:
    """Return the offered model of a name. Raises NotFound, with the nearest name."""
    known = offered(allowed_models)
    for one in known:
        if name in (one.id, f"{one.spec.kind}:{one.spec.model}"):
            return one
    by_model = [one for one in known if one.spec.model == name]
    if len(by_model) == 1:
        return by_model[0]
    ids = [one.id for one in known]
    raise NotFound(
        f"no model {name!r} is offered here; the operator can allow others than {', '.join(ids)} in"
        f" MANYEYES_ALLOWED_MODELS{nearest(name, ids)}"
    )


def spec_of(asked: str | Mapping[str, Any], allowed_models: Sequence[str]) -> PrimitiveSpec:
    """Return the spec of the primitive that a call names.

    Raises NotFound if no model of that name is offered, InvalidRequest if the object is no spec, UntrustedRecipe if it
    asks for what only the operator may ask for.
    """
    if isinstance(asked, str):
        return find(asked, allowed_models).spec
    kind = asked.get("kind")
    if not isinstance(kind, str) or kind not in names("manyeyes.primitives"):
        raise InvalidRequest(
            f"`primitive.kind` must be one of {', '.join(USUAL)}, got {kind!r:.60}{nearest(str(kind)[:60], USUAL)}"
        )
    try:
        spec = parse_primitive(asked)
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in ("primitive", *told["loc"]))
        raise InvalidRequest(f"{where}: {told['msg'].removeprefix('Value error, ')}") from None
    except InvalidRecipe as error:
        raise InvalidRequest(f"primitive: {error}") from None
    if refused := primitive_refusals({kind: spec}, allowed_models):
        raise UntrustedRecipe(f"this primitive cannot be run for somebody outside: {'; '.join(refused)}")
    return spec


def built(spec: PrimitiveSpec) -> Mapping[str, Primitive]:
    """Return what a primitive gives under the name of its kind: feature → primitive; nothing is loaded."""
    made: Mapping[str, Primitive] = load("manyeyes.primitives", spec.kind).build(spec.kind, spec)
    return made


def embedding_feature(spec: PrimitiveSpec, on: Literal["image", "text"]) -> str:
    """Return the feature of a primitive that embeds images, or texts. Raises InvalidRequest if none does."""
    given = {feature: primitive.modality for feature, primitive in built(spec).items()}
    try:
        feature = feature_of(spec.kind, on, lambda _: given)
    except InvalidRecipe:
        feature = ""
    if spec.needs or USUAL.get(spec.kind, "embed") != "embed" or given.get(feature) != on:
        reads = " and ".join(sorted({f"{modality}s" for modality in given.values()}))
        raise InvalidRequest(
            f"{spec.kind!r} gives no embeddings of {on}s; it reads {reads}. Those that embed: clip (images and texts),"
            " text (texts)"
        )
    return feature


def has_embeddings(dtype: np.dtype[Any]) -> bool:
    """Return whether a primitive's rows hold embeddings."""
    return "embedding" in (dtype.names or ())


def _offer(id: str, spec: PrimitiveSpec, task: Task) -> Offered:
    listed = [one for one in CATALOGUE if (one.kind, one.model) == (spec.kind, spec.model)]
    return Offered(id, spec, task, listed[0] if listed else None)


def _kind_of(listed: str) -> tuple[str, str]:
    """Return kind and model of an entry of the operator's list, where the kind may be missing."""
    kind, colon, model = listed.partition(":")
    if colon and kind in (*names("manyeyes.primitives"), *names("manyeyes.lfs")):
        return kind, model
    for one in CATALOGUE:
        if one.model == listed:
            return one.kind, listed
    return ("detector" if listed.endswith(_WEIGHTS) or listed.startswith("yolo") else "clip"), listed
