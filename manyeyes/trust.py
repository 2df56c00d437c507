"""What a recipe from outside may not ask for: code, paths, models and endpoints not open to it, endless fits."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, get_origin

from manyeyes.lfs.base import LFSpec
from manyeyes.primitives.base import PrimitiveSpec
from manyeyes.recipe_label_model import LabelModelSpec
from manyeyes.recipe_parts import DEFAULT_PRIMITIVES, default_primitive
from manyeyes.registry import load

MAX_HYPERPARAMETER: Final = 1_000
_SUFFIXES: Final = (".pt", ".pth", ".onnx", ".safetensors", ".bin", ".engine", ".torchscript")


def refusals(
    lfs: Sequence[LFSpec],
    primitives: Mapping[str, PrimitiveSpec],
    *,
    label_model: LabelModelSpec,
    allowed_models: Collection[str],
) -> list[str]:
    """Return what is refused, each with its path in the recipe; empty where nothing is.

    allowed_models: "model" or "kind:model", as the operator lists them; the models that every recipe may read by
    default are allowed besides.
    """
    refused = [
        f"lfs[{i}].kind: {lf.kind!r} runs code that the recipe names"
        for i, lf in enumerate(lfs)
        if load("manyeyes.lfs", lf.kind).operator_only
    ]
    refused += [
        f"lfs[{i}].{why}" for i, lf in enumerate(lfs) if (why := lf.refused_from_outside()) is not None
    ]
    refused += [
        f"lfs[{i}].{field}: {model!r} is not allowed from outside; allowed:"
        f" {', '.join(sorted(allowed_models)) or 'none'}"
        for i, lf in enumerate(lfs)
        for field, model in lf.named_models.items()
        if not {model, f"{lf.kind}:{model}"} & set(allowed_models)
    ]
    refused += primitive_refusals(primitives, allowed_models)
    refused += [
        f"label_model.{field}: {value} is more than the {MAX_HYPERPARAMETER:,} that are allowed from outside"
        for field, value in label_model.hyperparameters.items()
        if any(abs(number) > MAX_HYPERPARAMETER for number in _numbers(value))
    ]
    return refused


def primitive_refusals(primitives: Mapping[str, PrimitiveSpec], allowed_models: Collection[str]) -> list[str]:
    """Return what is refused of the primitives alone."""
    refused: list[str] = []
    for name, spec in primitives.items():
        told = spec.model_dump(exclude_defaults=True, exclude={"kind", "model", "sha256"})
        listed = bool({spec.model, f"{spec.kind}:{spec.model}"} & set(allowed_models))
        is_default = spec.kind in DEFAULT_PRIMITIVES and spec.model == default_primitive(spec.kind).model
        # A kind with one model leaves nothing to choose.
        is_only = get_origin(type(spec).model_fields["model"].annotation) is Literal
        if not (listed or is_default or is_only):
            allowed = sorted(
                {*allowed_models, *(default_primitive(kind).model for kind in ("clip", "text", "image"))}
            )
            refused.append(
                f"primitives.{name}.model: {spec.model!r} is not allowed from outside; allowed: {', '.join(allowed)}"
            )
        refused += [
            f"primitives.{name}.{field}: {told[field]!r} is not allowed from outside; allowed:"
            f" {', '.join(sorted(allowed_models)) or 'none'}"
            for field in spec.names_models
            if told.get(field) is not None
            and not {told[field], f"{spec.kind}:{told[field]}"} & set(allowed_models)
        ]
        refused += [
            f"primitives.{name}.{field}: a path on this machine is not allowed from outside"
            for field, value in told.items()
            if isinstance(value, (str, os.PathLike)) and is_path(os.fspath(value))
        ]
        if (why := spec.refused_from_outside()) is not None:
            refused.append(f"primitives.{name}.{why}")
    return refused


def _numbers(value: Any) -> list[float]:
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, (int, float)) else []


def is_path(value: str) -> bool:
    """Return whether what names a model looks like the path of a file on this machine."""
    # An `hf-hub:owner/model` has a slash, too, but a colon before it.
    looks_like_one = value.startswith(("/", "~", ".", "\\", "file:")) or value.lower().endswith(_SUFFIXES)
    return looks_like_one or ("/" in value and ":" not in value.partition("/")[0])
