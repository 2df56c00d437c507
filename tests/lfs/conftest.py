"""Features made by hand: boxes, embeddings and facts without any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from manyeyes.lfs.base import LabelingFunction
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.registry import load
from manyeyes.types import Item, set_name

BOX = np.dtype([("box", "<f4", (4,)), ("fraction", "<f4", (4,)), ("label", "<i2"), ("score", "<f4")])
LABELS = ("person", "dog", "traffic light", "hat")
CLASSES = ("dress", "hat", "t-shirt")

Box = tuple[str, float, float, float, float, float]
"""label, x0, y0, x1, y1 as fractions, score."""


def boxes(images: Sequence[Sequence[Box] | None], *, size: tuple[int, int] = (200, 100)) -> Features:
    """Boxes of some images of one size in pixels; None is an item without an image."""
    flat = [box for image in images for box in image or ()]
    rows = np.zeros(len(flat), dtype=BOX)
    for row, (label, *corners, score) in zip(rows, flat, strict=True):
        row["label"], row["fraction"], row["score"] = LABELS.index(label), corners, score
        row["box"] = np.array(corners) * (*size, *size)
    counts = [len(image or ()) for image in images]
    return Features(
        rows=rows,
        present=np.array([image is not None for image in images], dtype=bool),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        info={"names": list(LABELS)},
    )


def embeddings(vectors: Sequence[Sequence[float] | None], **info: Any) -> Features:
    """Embeddings, normalised; None is an item without the modality."""
    dim = max((len(vector) for vector in vectors if vector is not None), default=3)
    rows = np.zeros(len(vectors), dtype=[("embedding", "<f4", (dim,))])
    for row, vector in zip(rows, vectors, strict=True):
        if vector is not None:
            row["embedding"] = np.array(vector) / np.linalg.norm(vector)
    return Features(rows, np.array([vector is not None for vector in vectors], dtype=bool), info=info)


def maps(vectors: Sequence[Sequence[float] | None]) -> Features:
    """Cells of images, 4 × 4 of them, all different; what an image's vector says of it makes its cells."""
    rows = np.zeros(len(vectors), dtype=[("map", "<f2", (4, 4, 3))])
    for i, (row, vector) in enumerate(zip(rows, vectors, strict=True)):
        if vector is not None:
            cells = np.random.default_rng(i).normal(size=(4, 4, 3)) + np.asarray(vector)
            row["map"] = cells / np.linalg.norm(cells, axis=-1, keepdims=True)
    return Features(rows, np.array([vector is not None for vector in vectors], dtype=bool))


def regions(images: Sequence[Sequence[Box] | None]) -> Features:
    """Boxes as above, each with an embedding of its own."""
    found = boxes(images)
    rows = np.zeros(len(found.rows), dtype=[*BOX.descr, ("embedding", "<f4", (3,))])
    for column in BOX.names or ():
        rows[column] = found.rows[column]
    for i, row in enumerate(rows):
        vector = np.random.default_rng(i).normal(size=3)
        row["embedding"] = vector / np.linalg.norm(vector)
    return Features(rows, found.present, found.offsets, {**found.info, "encoder": "clip"})


def slice_features(features: FeatureSet, start: int, stop: int) -> FeatureSet:
    """The same features for some of the items."""
    blocks = {}
    for name, block in features.blocks.items():
        if block.offsets is None:
            blocks[name] = Features(block.rows[start:stop], block.present[start:stop], None, block.info)
        else:
            offsets = block.offsets[start : stop + 1]
            rows = block.rows[offsets[0] : offsets[-1]]
            blocks[name] = Features(rows, block.present[start:stop], offsets - offsets[0], block.info)
    errors = {row - start: error for row, error in features.errors.items() if start <= row < stop}
    return FeatureSet(features.items[start:stop], blocks, errors)


class Encoder:
    """A Context whose prompts have given directions; it counts what it encodes."""

    def __init__(self, directions: Mapping[str, Sequence[float]], **info: Any) -> None:
        self.directions = directions
        self.told = {"names": list(LABELS), **info}
        self.asked: list[tuple[str, str]] = []

    def encode(self, primitive: str, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.asked += [(primitive, text) for text in texts]
        vectors = np.array([self.directions[text] for text in texts], dtype=np.float64)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def embed(self, feature: str, items: Sequence[Item]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return self.encode(feature, [item.text or "" for item in items])

    def info(self, primitive: str) -> Mapping[str, Any]:
        return self.told


def make_lf(classes: Sequence[str] = CLASSES, **fields: Any) -> LabelingFunction:
    """An LF of a kind, validated as a recipe validates it."""
    kind = load("manyeyes.lfs", fields["kind"])
    spec = kind.Spec.model_validate({"name": "lf", **fields}, context={"classes": tuple(classes)})
    made: LabelingFunction = kind(spec, tuple(classes))
    return made


def votes_of(lf: LabelingFunction, features: FeatureSet) -> list[str | None]:
    """What an LF votes, as class names, and as they read for a set of classes."""
    names = [*lf.classes, *(set_name(lf.classes, members) for members in lf.sets)]
    return [None if vote < 0 else names[vote] for vote in lf.vote(features).classes.tolist()]


def with_metadata(*metadata: Mapping[str, Any]) -> FeatureSet:
    return FeatureSet([Item(str(i), text="t", metadata=fields) for i, fields in enumerate(metadata)])


def with_texts(*texts: str | None) -> FeatureSet:
    return FeatureSet([Item(str(i), text=text) for i, text in enumerate(texts)])


class Tools:
    """The functions above, for tests: they are not a package that could be imported."""

    boxes = staticmethod(boxes)
    embeddings = staticmethod(embeddings)
    maps = staticmethod(maps)
    regions = staticmethod(regions)
    slice_features = staticmethod(slice_features)
    Encoder = Encoder
    make_lf = staticmethod(make_lf)
    votes_of = staticmethod(votes_of)
    with_metadata = staticmethod(with_metadata)
    with_texts = staticmethod(with_texts)
    CLASSES = CLASSES
    LABELS = LABELS


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def decide() -> Callable[..., list[bool]]:
    """Tell where a metadata condition makes an LF vote, one mapping of metadata an item."""

    def decide(when: str, *metadata: Mapping[str, Any]) -> list[bool]:
        lf = make_lf(kind="metadata", when=when, vote="hat")
        return [vote is not None for vote in votes_of(lf, with_metadata(*metadata))]

    return decide
