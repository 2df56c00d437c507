"""Looking at images with a loaded detector: what is asked of it, what it sees, and the rows of its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from manyeyes.primitives.base import DecodedImage, PrimitiveSpec, Rows
from manyeyes.primitives.open_vocabulary import MAX_CLASSES
from manyeyes.primitives.tiles import Tiling, TilingField, cut_by, fitted_size, merge, windows

DTYPE: Final = np.dtype(
    [
        ("box", "<f4", (4,)),  # x0, y0, x1, y1 in pixels of the upright image
        ("fraction", "<f4", (4,)),  # the same, as fractions of width and height
        ("label", "<i2"),  # index into info["names"]
        ("score", "<f4"),
        (
            "mask",
            "<f4",
        ),  # share of the image that the object's mask covers; NaN from a detector without masks
    ]
)


SIZES_FROM_OUTSIDE: Final = (320, 480, 640, 960, 1280)
"""The sizes in which callers of a service may have a detector see: each is a copy of it in memory."""


class DetectorSpec(PrimitiveSpec):
    """Which detector, and what it reports.

    model: ``starter``, a name such as ``yolo11n``, or the path of a ``.pt`` or ``.onnx`` file. classes: what to look
    for; words for an open vocabulary, else some of the detector's own classes; by default all of its own.
    text_encoder: a CLIP for those words, as in ``kind: clip``; by default the one that the detector was trained with.
    confidence: the least score of a box. iou: of two boxes of one label that overlap more, the better one is kept.
    image_size: the longer side that the model sees, in pixels; by default what it was trained or exported with.
    tile: look at images larger than this piece by piece, too.
    """

    names_models: ClassVar[tuple[str, ...]] = ("text_encoder",)

    classes: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=MAX_CLASSES)
    ] = ()
    text_encoder: str | None = Field(default=None, max_length=500)
    confidence: float = Field(default=0.25, ge=0.001, le=1)
    iou: float = Field(default=0.5, gt=0, le=1)
    image_size: int | None = Field(default=None, ge=32, le=4096)
    tile: TilingField | None = None

    def refused_from_outside(self) -> str | None:
        """Refuse what would have one more copy of the model loaded for every variation that a stranger thinks of."""
        if self.image_size not in (None, *SIZES_FROM_OUTSIDE):
            allowed = ", ".join(map(str, SIZES_FROM_OUTSIDE))
            return f"image_size: {self.image_size} is not one of {allowed}, which callers may ask for"
        if self.classes and self.model == "starter":
            return "classes: the starter knows what it finds; leave them out, and say in `when:` which ones matter"
        return None

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image reduced to what the detector sees.

    bgr: uint8, shape (height, width, 3); the whole image. size: width, height before any reduction.
    large: the same at its full size, where it is also seen in tiles; else None.
    """

    bgr: npt.NDArray[np.uint8]
    size: tuple[int, int]
    large: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class LoadedDetector:
    """A YOLO, to be used on the one thread that loaded it.

    names: what its labels are called. keep: for a label of its own, the label reported, or −1 for none; None where they
    are the same. side: the longer side that it sees, if it sees squares.
    """

    yolo: Any
    names: tuple[str, ...]
    side: int | None
    keep: npt.NDArray[np.int64] | None = None


def detect(detector: LoadedDetector, pixels: Pixels, spec: DetectorSpec) -> Rows:
    """Return an image's rows: of one look at the whole, or of that and its tiles, merged."""
    height, width = pixels.bgr.shape[:2]
    rows, labels = _look(detector, pixels.bgr, spec)
    fractions = np.clip(rows[:, :4] / (width, height, width, height), 0, 1)
    if pixels.large is not None and spec.tile is not None:
        height, width = pixels.large.shape[:2]
        whole = np.concatenate([fractions * (width, height, width, height), rows[:, 4:]], axis=1)
        parts, labels_of, cuts = [whole], [labels], [np.zeros(len(whole), dtype=np.bool_)]
        for left, top, right, bottom in windows(width, height, spec.tile):
            piece = np.ascontiguousarray(pixels.large[top:bottom, left:right])
            found, its_labels = _look(detector, piece, spec)
            found[:, :4] += (left, top, left, top)
            found[:, 5] *= (right - left) * (bottom - top) / (width * height)
            parts.append(found)
            labels_of.append(its_labels)
            cuts.append(cut_by(found[:, :4], (left, top, right, bottom), (width, height)))
        rows, labels = np.concatenate(parts), np.concatenate(labels_of)
        kept = merge(rows[:, :4], labels, rows[:, 4], np.concatenate(cuts), iou=spec.iou)
        rows, labels = rows[kept], labels[kept]
        fractions = np.clip(rows[:, :4] / (width, height, width, height), 0, 1)
    made = np.zeros(len(rows), dtype=DTYPE)
    made["fraction"] = fractions
    made["box"] = fractions * (pixels.size * 2)
    made["label"] = labels
    made["score"], made["mask"] = rows[:, 4], rows[:, 5]
    # Equal scores have an order too, so that equal images have equal rows.
    return made[np.lexsort((*made["fraction"].T, made["label"], -made["score"]))]


def _look(
    detector: LoadedDetector, bgr: npt.NDArray[np.uint8], spec: DetectorSpec
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return what one look at some pixels finds.

    Returns float64, shape (n, 6), the corners in pixels, the score and the mask's share of the pixels; and int64
    labels, shape (n,).
    """
    options = {} if spec.image_size is None else {"imgsz": spec.image_size}
    result = detector.yolo.predict(
        [bgr], conf=spec.confidence, iou=spec.iou, device="cpu", verbose=False, **options
    )[0]
    rows = np.full((len(result.boxes), 6), np.nan)
    rows[:, :4] = result.boxes.xyxy.numpy().reshape(-1, 4)
    rows[:, 4] = result.boxes.conf.numpy()
    if result.masks is not None and len(rows):
        rows[:, 5] = _without_margins(result.masks.data.numpy(), bgr.shape[:2]).mean(axis=(1, 2))
    labels = result.boxes.cls.numpy().astype(np.int64)
    if detector.keep is not None:
        labels = detector.keep[labels]
    return rows[labels >= 0], labels[labels >= 0]


def _without_margins(masks: npt.NDArray[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
    """Return the part of masks that lies on the image: the model's canvas, on which it was centred, may be larger.

    masks: shape (n, canvas height, canvas width). shape: height and width of the image.
    """
    height, width = masks.shape[1:]
    scale = min(height / shape[0], width / shape[1])
    top, left = ((canvas - side * scale) / 2 for canvas, side in zip((height, width), shape, strict=True))
    rows = slice(round(top), max(round(top) + 1, round(height - top)))
    columns = slice(round(left), max(round(left) + 1, round(width - left)))
    return masks[:, rows, columns]


def reduce(image: DecodedImage, side: int | None, tile: Tiling | None) -> Pixels:
    """Return BGR pixels no larger than the detector sees them, reduced just as ultralytics itself would."""
    bgr: npt.NDArray[np.uint8] = np.asarray(image.pixels)[..., ::-1]
    large = None
    if tile is not None and windows(*image.pixels.size, tile):
        large = _resized(bgr, fitted_size(*image.pixels.size, tile))
    scale = 1.0 if side is None else min(side / image.pixels.height, side / image.pixels.width)
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in image.pixels.size)
        bgr = _resized(bgr, (width, height))
    return Pixels(np.ascontiguousarray(bgr), (image.width, image.height), large)


def _resized(bgr: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if bgr.shape[1::-1] == size:
        return bgr
    import cv2

    smaller: npt.NDArray[np.uint8] = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    return smaller
