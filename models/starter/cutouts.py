"""Cut-outs: what the starter detector's collages paste, each with its soft or hard edge and its box."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from manyeyes.models.starter.scene_sources import CLASSES, Image, Photo, Sources

PERSON = CLASSES.index("person")
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Cutout:
    """One thing to paste.

    image: uint8 (height, width, 3) RGB; alpha: uint8 (96, 96), 255 where the thing hides what is behind it;
    box: float32 (4,), x0 y0 x1 y1 as fractions of the image's sides.
    """

    image: Image
    alpha: NDArray[np.uint8]
    box: NDArray[np.float32]
    class_id: int


def pick(things: Sequence[Thing], rng: np.random.Generator) -> Thing:
    """Return one of the things, each as likely as the others."""
    return things[int(rng.integers(len(things)))]


def draw_class(sources: Sources, rng: np.random.Generator) -> int:
    """Draw a class by the square root of its photographs, and no more than 400 of them.

    CIFAR's thousands do not push out the garments, nor do classes with two photographs fill scenes with those two.
    """
    weights = np.array([min(len(sources.photos[i]), 400) ** 0.5 for i in range(len(CLASSES))])
    return int(rng.choice(len(CLASSES), p=weights / weights.sum()))


def draw_cutout(sources: Sources, rng: np.random.Generator, *, real_share: float) -> Cutout:
    """Draw one thing to paste, its class first.

    real_share: how often it is cut out of a real photograph of many things.
    """
    found = _cutout_of_scene(sources, rng) if rng.random() < real_share else None
    if found is not None:
        thing, class_id = found
        return Cutout(thing, _soft_edges(rng, elliptic=False), _inset(0.02), class_id)
    class_id = draw_class(sources, rng)
    photo = pick(sources.photos[class_id], rng)
    image, mask = photo.image(), photo.mask()
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    if photo.cut and mask.min() == 0:
        inner = _extent(mask)
        if rng.random() < 0.6:
            return Cutout(image, np.asarray(cv2.GaussianBlur(mask, (5, 5), 0), np.uint8), inner, class_id)
        return Cutout(image, _soft_edges(rng, elliptic=False), inner, class_id)
    return Cutout(
        image, _soft_edges(rng, elliptic=not photo.cut and rng.random() < 0.4), _inset(0.04), class_id
    )


def _cutout_of_scene(sources: Sources, rng: np.random.Generator) -> tuple[Image, int] | None:
    """Cut a thing out of a real photograph by its box, where no other box covers it; half of the time a person."""
    wanted_person = rng.random() < 0.45
    for _ in range(20):
        photo = pick(sources.scenes, rng)
        candidates = np.flatnonzero((photo.classes == PERSON) == wanted_person)
        if len(candidates) == 0:
            continue
        chosen = int(rng.choice(candidates))
        box = photo.boxes[chosen]
        others = np.delete(photo.boxes, chosen, axis=0)
        if min(box[2] - box[0], box[3] - box[1]) < 28 or any(hidden(box, other) > 0.25 for other in others):
            continue
        x0, y0, x1, y1 = (int(v) for v in box)
        thing = photo.image[y0:y1, x0:x1]
        return (thing[:, ::-1] if rng.random() < 0.5 else thing), int(photo.classes[chosen])
    return None


def _soft_edges(rng: np.random.Generator, *, elliptic: bool) -> NDArray[np.uint8]:
    """Return an alpha (96, 96): a rectangle or a rounded shape, from a hard edge to one an eighth of the side wide."""
    axis = np.abs(np.linspace(-1, 1, 96, dtype=np.float32))
    power = 4.0 if elliptic else 40.0
    distance = (axis[:, None] ** power + axis[None, :] ** power) ** (1 / power)
    width = float(rng.choice((0.0, 0.06, 0.25))) + 1e-3
    return (np.clip((1 - distance) / width, 0, 1) * 255).astype(np.uint8)


def photo_box(photo: Photo) -> NDArray[np.float32]:
    """Return the box of the thing in its photograph as fractions of the sides."""
    return _extent(photo.mask()) if photo.cut else _inset(0.04)


def _inset(margin: float) -> NDArray[np.float32]:
    return np.array([margin, margin, 1 - margin, 1 - margin], np.float32)


def _extent(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    rows, columns = np.flatnonzero(mask.max(axis=1)), np.flatnonzero(mask.max(axis=0))
    height, width = mask.shape
    return np.array(
        [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height], np.float32
    )


def hidden(box: NDArray[np.float32], by: NDArray[np.float32]) -> float:
    """Return which fraction of `box` the box `by` covers."""
    w = min(box[2], by[2]) - max(box[0], by[0])
    h = min(box[3], by[3]) - max(box[1], by[1])
    return float(max(w, 0) * max(h, 0) / max((box[2] - box[0]) * (box[3] - box[1]), 1e-6))
