"""What every primitive in the registry must do; a new kind is picked up by its line there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manyeyes.errors import InvalidRecipe
from manyeyes.primitives.base import (
    DecodedImage,
    PreparingPrimitive,
    Primitive,
    PrimitiveKind,
    PrimitiveSpec,
    Rows,
)
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor
from manyeyes.registry import load, names
from manyeyes.types import Item

KINDS = names("manyeyes.primitives")
LIGHT = ("toy", "image", "fields", "text_facts")
PARTS = {
    "clip": ("clip.text", "clip.map"),
    "toy": ("toy.text",),
    "text_facts": ("text_facts.language", "text_facts.sentiment"),
}
NEEDS: dict[str, dict[str, Any]] = {
    "fields": {"fields": {"word": r"(\w+)", "numbers": {"type": "number", "take": "count"}, "all": "(?s).*"}}
}
FEATURES = [
    pytest.param(kind, feature, marks=() if kind in LIGHT else pytest.mark.slow)
    for kind in KINDS
    for feature in [kind, *PARTS.get(kind, ())]
]


def onnx_detector() -> str:
    """Return a third-party detector that a package of the tests carries."""
    for file in metadata.files("nudenet") or []:
        if file.name == "320n.onnx":
            return str(file.locate())
    raise FileNotFoundError("the package nudenet, which carries a detector for tests, has no 320n.onnx")


def spec_of(kind: str) -> PrimitiveSpec:
    """Return the default of a kind; for the detector one that is there without any training."""
    options = NEEDS.get(kind, {"model": onnx_detector(), "image_size": 320} if kind == "detector" else {})
    made: PrimitiveSpec = load("manyeyes.primitives", kind).Spec(kind=kind, **options)
    return made


@pytest.fixture
def primitive(kind: str, feature: str) -> Primitive:
    built: Primitive = load("manyeyes.primitives", kind).build(kind, spec_of(kind))[feature]
    return built


@pytest.fixture
def inputs(primitive: Primitive, photos: list[DecodedImage], texts: list[str]) -> Sequence[Any]:
    return photos if primitive.modality == "image" else texts


def bits(rows: Sequence[Rows]) -> list[bytes]:
    return [row.tobytes() for row in rows]


@pytest.mark.parametrize(("kind", "feature"), FEATURES)
def test_what_it_says_of_itself(primitive: Primitive, feature: str) -> None:
    assert isinstance(primitive, Primitive)
    assert primitive.name == feature
    assert primitive.version == primitive.version
    assert primitive.modality in ("image", "text")
    assert primitive.dtype.names
    assert not primitive.dtype.hasobject
    assert json.loads(json.dumps(primitive.info)) == primitive.info


@pytest.mark.parametrize(("kind", "feature"), FEATURES)
def test_rows_have_the_dtype_and_shape(primitive: Primitive, inputs: Sequence[Any]) -> None:
    primitive.setup()
    primitive.setup()
    rows = primitive.compute(inputs)
    assert len(rows) == len(inputs)
    for row in rows:
        assert row.dtype == primitive.dtype
        assert row.ndim == 1
        assert primitive.ragged or len(row) == 1


@pytest.mark.parametrize(("kind", "feature"), FEATURES)
def test_company_changes_no_bit(primitive: Primitive, inputs: Sequence[Any]) -> None:
    """Alone, in another order, in batches of every size: equal input, equal bits."""
    primitive.setup()
    together = bits(primitive.compute(inputs))
    assert bits([primitive.compute([value])[0] for value in inputs]) == together
    assert bits(primitive.compute(list(reversed(inputs)))) == together[::-1]
    for size in (2, 3, 5, 8):
        cut = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        assert [row for part in cut for row in bits(primitive.compute(part))] == together
    assert bits(primitive.compute([inputs[1]] * 9)) == [together[1]] * 9


@pytest.mark.parametrize(("kind", "feature"), FEATURES)
def test_preparing_changes_no_bit(primitive: Primitive, inputs: Sequence[Any]) -> None:
    primitive.setup()
    if isinstance(primitive, PreparingPrimitive):
        inputs, prepared = inputs[:4], [primitive.prepare(value) for value in inputs[:4]]
        assert bits(primitive.compute(prepared)) == bits(primitive.compute(inputs))
    else:
        assert not hasattr(primitive, "prepare")


@pytest.mark.parametrize(("kind", "feature"), FEATURES)
def test_the_extractor_and_the_cache_change_no_bit(
    primitive: Primitive, inputs: Sequence[Any], feature: str, cache: Cache
) -> None:
    items = [
        Item(str(i), image=value.pixels) if isinstance(value, DecodedImage) else Item(str(i), text=value)
        for i, value in enumerate(inputs[:7])
    ]
    wanted = b"".join(bits(primitive.compute(inputs[:7])))
    for extractor in (
        Extractor({feature: primitive}, batch_size=3),
        Extractor({feature: primitive}, cache=cache),
    ):
        assert extractor.extract(items, [feature])[feature].rows.tobytes() == wanted
    cached = Extractor({feature: primitive}, cache=cache)
    assert cached.extract(items, [feature])[feature].rows.tobytes() == wanted
    assert cached.counter.total == 0


@pytest.mark.parametrize(("kind", "feature"), FEATURES)
def test_embeddings_have_length_one(primitive: Primitive, inputs: Sequence[Any]) -> None:
    if "embedding" in (primitive.dtype.names or ()):
        n_rows = sum(len(row) for row in primitive.compute(inputs))
        assert n_rows == len(inputs) or primitive.ragged
        vectors = np.concatenate([row["embedding"] for row in primitive.compute(inputs)])
        assert vectors.dtype == np.float32
        assert vectors.shape == (n_rows, primitive.info["dim"])
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
        assert primitive.info["logit_scale"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_a_spec_and_a_builder(kind: str) -> None:
    made: PrimitiveKind = load("manyeyes.primitives", kind)
    spec = spec_of(kind)
    assert issubclass(made.Spec, PrimitiveSpec)
    assert made.Spec.model_validate(spec.model_dump()) == spec
    built = made.build("my_own", spec)
    assert set(built) == {part.replace(kind, "my_own", 1) for part in (kind, *PARTS.get(kind, ()))}
    assert all(primitive.name == feature for feature, primitive in built.items())
    with pytest.raises(ValueError, match="extra"):
        made.Spec.model_validate({"kind": kind, "no_such_option": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_building_loads_no_library(kind: str, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from manyeyes.registry import load\n"
        f"kind = load('manyeyes.primitives', {kind!r})\n"
        f"spec = kind.Spec(kind={kind!r}, **{NEEDS.get(kind, {})!r})\n"
        "for name, primitive in kind.build('x', spec).items():\n"
        "    assert primitive.modality in ('image', 'text'), name\n"
        "heavy = {'torch', 'rapidocr', 'py3langid', 'open_clip', 'transformers', 'ultralytics', 'PIL', 'lmdb'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(InvalidRecipe, match="did you mean 'clip'"):
        load("manyeyes.primitives", "clipp")
