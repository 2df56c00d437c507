"""Detected objects seen by an encoder: each box cut out of the image and embedded, so that prompts can tell them apart.

A row is a box as the detector gave it, with the embedding of what is in it. The boxes are those that the detector's own
feature holds: where they are known, from the cache or because another labeling function reads them, no detector runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from manyeyes.errors import InvalidRecipe
from manyeyes.primitives.base import (
    DecodedImage,
    DependentPrimitive,
    Modality,
    Primitive,
    PrimitiveKind,
    PrimitiveSpec,
    Rows,
)
from manyeyes.primitives.open_vocabulary import only_known
from manyeyes.registry import load

_PREPROCESSING: Final = 1
_SIDE: Final = 1024
"""The longer side of the image that crops are cut from, in pixels: full ones would fill the memory while they wait."""
_LEAST_ASPECT: Final = 0.7
"""How narrow a crop may be. Encoders see squares, so that of a narrower crop they would lose the ends."""
_LEAST_SIDE: Final = 8


class RegionsSpec(PrimitiveSpec):
    """Whose boxes, seen by whom.

    boxes, encoder: names of a detector and of an encoder of images among the recipe's primitives. classes: which labels
    of the detector; all by default. max_regions: the boxes with the best scores. min_score: boxes below it are left
    out. margin: how much of its surroundings comes with a box, on each side, in sides of the box.
    """

    model: Literal["crops"] = "crops"
    boxes: str = Field(default="detector", max_length=64)
    encoder: str = Field(default="clip", max_length=64)
    classes: Annotated[tuple[str, ...], Field(max_length=1_000)] = ()
    max_regions: int = Field(default=8, ge=1, le=100)
    min_score: float = Field(default=0.0, ge=0.0, le=1.0)
    margin: float = Field(default=0.1, ge=0.0, le=1.0)

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.boxes, self.encoder)


@dataclass(frozen=True, slots=True)
class Scene:
    """An image, small enough to wait, and its boxes where they are known. unseen: else, the detector's input."""

    image: DecodedImage
    boxes: Rows | None = None
    unseen: Any = None


class Regions:
    """Boxes with embeddings: any number of rows an image."""

    modality: Modality = "image"
    ragged = True

    def __init__(self, name: str, spec: RegionsSpec) -> None:
        self.name = name
        self.spec = spec
        self._bound: dict[str, Primitive] = {}

    @property
    def needs(self) -> tuple[str, ...]:
        """The features whose rows of the same image `given` wants; none before `bind`."""
        return (self.spec.boxes,) if self._bound else ()

    def bind(self, primitives: Mapping[str, Primitive]) -> None:
        """Take the detector and the encoder from a recipe's primitives. Raises InvalidRecipe if they are not that."""
        for name in self.spec.needs:
            if name not in primitives:
                raise InvalidRecipe(
                    f"primitive {self.name!r} reads {name!r}, which gives nothing; declare it under primitives"
                )
            self._bound[name] = primitives[name]
        if isinstance(self._boxes, DependentPrimitive):
            raise InvalidRecipe(
                f"primitive {self.name!r} wants a detector, and {self.spec.boxes!r} reads one itself"
            )
        if self._boxes.modality != "image" or not self._boxes.ragged:
            raise InvalidRecipe(f"primitive {self.name!r} wants boxes, and {self.spec.boxes!r} gives none")
        if self._encoder.modality != "image" or self._encoder.ragged:
            raise InvalidRecipe(
                f"primitive {self.name!r} wants an encoder of images, not {self.spec.encoder!r}"
            )

    @property
    def version(self) -> str:
        spec = self.spec
        options = f"{spec.max_regions}/{spec.min_score}/{spec.margin}/{list(spec.classes)}"
        return f"regions/{self._boxes.version}/{self._encoder.version}/{options} {_PREPROCESSING}"

    @property
    def dtype(self) -> np.dtype[Any]:
        of_boxes, of_encoder = self._boxes.dtype, self._encoder.dtype
        if "embedding" not in (of_encoder.names or ()):
            raise InvalidRecipe(f"primitive {self.spec.encoder!r} gives no embeddings, so it is no encoder")
        return np.dtype([*of_boxes.descr, ("embedding", of_encoder["embedding"])])

    @property
    def info(self) -> Mapping[str, Any]:
        names = list(self._boxes.info["names"])
        return {**self._encoder.info, "names": names, "encoder": self.spec.encoder}

    def setup(self) -> None:
        """Load both models. Raises what they raise, and InvalidRecipe if the detector does not know a class."""
        self._boxes.setup()
        self._encoder.setup()
        only_known(self.spec.classes, self._boxes.info["names"])

    def least_side(self) -> int | None:
        """Return the shorter side, in pixels, to which an image may be reduced on decoding; None for not at all."""
        return _SIDE if self._bound else None

    def prepare(self, decoded: DecodedImage) -> Scene:
        """Return the image reduced, and what the detector needs of it where nobody else runs the detector."""
        unseen = None if self._bound else _prepared(self._boxes, decoded)
        pixels = decoded.pixels
        if max(pixels.size) > _SIDE:
            scale = _SIDE / max(pixels.size)
            pixels = pixels.resize(
                (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))), reducing_gap=2.0
            )
        return Scene(replace(decoded, pixels=pixels), unseen=unseen)

    def given(self, value: DecodedImage | Scene, rows: Mapping[str, Rows]) -> Scene:
        """Return an input with the boxes that are known of it."""
        scene = value if isinstance(value, Scene) else self.prepare(value)
        if not rows:
            return scene
        return replace(scene, boxes=rows[self.spec.boxes], unseen=None)

    def compute(self, batch: Sequence[DecodedImage | Scene]) -> list[Rows]:
        scenes = [self._scene(value) for value in batch]
        lacking = [i for i, scene in enumerate(scenes) if scene.boxes is None]
        if lacking:
            found = self._boxes.compute([scenes[i].unseen or scenes[i].image for i in lacking])
            for i, rows in zip(lacking, found, strict=True):
                if not isinstance(rows, np.ndarray):
                    raise TypeError(f"{self.spec.boxes} gave no boxes, but {rows!r}")
                scenes[i] = replace(scenes[i], boxes=rows)
        chosen = [self._chosen(scene) for scene in scenes]
        crops = [
            crop_of(scene.image, box, margin=self.spec.margin)
            for scene, rows in zip(scenes, chosen, strict=True)
            for box in rows["fraction"]
        ]
        embedded = iter(self._embed(crops) if crops else ())
        made = []
        for rows in chosen:
            seen = np.zeros(len(rows), dtype=self.dtype)
            for column in rows.dtype.names or ():
                seen[column] = rows[column]
            for i in range(len(seen)):
                seen["embedding"][i] = next(embedded)
            made.append(seen)
        return made

    def _embed(self, crops: Sequence[DecodedImage]) -> list[npt.NDArray[np.float32]]:
        rows = self._encoder.compute([_prepared(self._encoder, crop) for crop in crops])
        embedded: list[npt.NDArray[np.float32]] = []
        for row in rows:
            if not isinstance(row, np.ndarray):
                raise TypeError(f"{self.spec.encoder} gave no embedding, but {row!r}")
            embedded.append(row["embedding"][0])
        return embedded

    @property
    def _boxes(self) -> Primitive:
        return self._other(self.spec.boxes, "detector")

    @property
    def _encoder(self) -> Primitive:
        return self._other(self.spec.encoder, "clip")

    def _other(self, name: str, kind: str) -> Primitive:
        if name not in self._bound:  # alone, outside of a recipe: the usual model of the kind
            made = load("manyeyes.primitives", kind)
            primitive: Primitive = made.build(name, made.Spec(kind=kind))[name]
            return primitive
        return self._bound[name]

    def _scene(self, value: DecodedImage | Scene) -> Scene:
        if isinstance(value, Scene):
            return value
        return replace(self.prepare(value), unseen=_prepared(self._boxes, value))

    def _chosen(self, scene: Scene) -> Rows:
        rows = scene.boxes
        assert rows is not None
        kept = rows["score"] >= self.spec.min_score
        if self.spec.classes:
            names = list(self._boxes.info["names"])
            kept &= np.isin(rows["label"], [i for i, name in enumerate(names) if name in self.spec.classes])
        return rows[kept][: self.spec.max_regions]  # best first, as detectors give them


def crop_of(image: DecodedImage, box: npt.NDArray[Any], *, margin: float) -> DecodedImage:
    """Return a box of an image with some of its surroundings, and more of them where it is narrow.

    box: shape (4,), x0, y0, x1, y1 as fractions of the image.
    """
    width, height = image.pixels.size
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64) * (width, height, width, height)
    wide, high = (1 + 2 * margin) * (x1 - x0), (1 + 2 * margin) * (y1 - y0)
    wide = max(wide, _LEAST_ASPECT * high, _LEAST_SIDE)
    high = max(high, _LEAST_ASPECT * wide, _LEAST_SIDE)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = max(0, round(x - wide / 2)), max(0, round(y - high / 2))
    right, bottom = min(width, round(x + wide / 2)), min(height, round(y + high / 2))
    left, top = min(left, width - 1), min(top, height - 1)
    pixels = image.pixels.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    return DecodedImage(pixels, pixels.width, pixels.height, image.format)


def _prepared(primitive: Primitive, decoded: DecodedImage) -> Any:
    prepare = getattr(primitive, "prepare", None)
    return decoded if prepare is None else prepare(decoded)


def build(name: str, spec: RegionsSpec) -> Mapping[str, Primitive]:
    """Return ``{name: boxes with embeddings}``."""
    return {name: Regions(name, spec)}


KIND: Final = PrimitiveKind(Spec=RegionsSpec, build=build)
