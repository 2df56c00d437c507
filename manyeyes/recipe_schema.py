"""The recipe's JSON schema for editors: one branch for each kind of LF and primitive that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from manyeyes.registry import load, names


def recipe_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a recipe as an author writes it, shorthands included."""
    schema = model.model_json_schema(mode="validation")
    definitions = schema.setdefault("$defs", {})
    lfs = [
        _define(definitions, load("manyeyes.lfs", kind).Spec, kind=kind, required=("name", "kind"))
        for kind in names("manyeyes.lfs")
    ]
    primitives = [
        _define(definitions, load("manyeyes.primitives", kind).Spec, kind=kind, required=())
        for kind in names("manyeyes.primitives")
    ]
    schema["properties"]["lfs"]["items"] = {"oneOf": lfs}
    schema["properties"]["primitives"]["additionalProperties"] = {
        "anyOf": [{"type": "string"}, {"type": "null"}, *primitives]
    }
    known = {"enum": names("manyeyes.label_models")}
    short, long = schema["properties"]["label_model"]["anyOf"]
    short |= known
    schema["properties"]["label_model"]["default"] = "auto"
    long |= {"properties": {"name": known, "embeddings": {"type": "string"}}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "manyeyes recipe"}


def _define(
    definitions: dict[str, Any], spec: type[BaseModel], *, kind: str, required: Sequence[str]
) -> dict[str, str]:
    schema = spec.model_json_schema(mode="validation", ref_template="#/$defs/{model}")
    definitions.update(schema.pop("$defs", {}))
    others = (field for field in schema.get("required", ()) if field != "kind")
    schema["required"] = sorted({*required, *others})
    schema["properties"]["kind"] = {"const": kind}
    definitions[spec.__name__] = schema
    return {"$ref": f"#/$defs/{spec.__name__}"}
