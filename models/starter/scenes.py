"""Scenes with boxes for the starter detector: real photographs, zooms into them, collages and mosaics of them.

A scene is a function of the sources and a seed, so a training run, a resumed run and the benchmark all see the same
scenes without a folder of images between them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from manyeyes.models.starter.cutouts import PERSON, Cutout, draw_class, draw_cutout, hidden, photo_box, pick
from manyeyes.models.starter.scene_sources import Boxes, Image, LabeledPhoto, Sources, decode

GREY = 114  # the value with which ultralytics pads a photograph to a square


@dataclass(frozen=True)
class Scene:
    """One scene.

    image: uint8 (size, size, 3), RGB; boxes: float32 (n, 4), x0 y0 x1 y1 in pixels; classes: int64 (n,).
    """

    image: Image
    boxes: Boxes
    classes: NDArray[np.int64]


Builder = Callable[[Sources, np.random.Generator, int], Scene]


def build_scene(sources: Sources, *, seed: tuple[int, int], size: int) -> Scene:
    """Return the training scene of a seed: (run seed, index). size: its side in pixels."""
    rng = np.random.default_rng(seed)
    builders: tuple[Builder, ...] = (real, collage, grid, mosaic, solo)
    builder = builders[rng.choice(5, p=(0.20, 0.35, 0.25, 0.05, 0.15))]
    return degrade(builder(sources, rng, size), rng)


def real(sources: Sources, rng: np.random.Generator, size: int) -> Scene:
    """A real photograph: whole and padded as a detector is fed, or a zoom, half of the zooms around a person."""
    photo = pick(sources.scenes, rng)
    if rng.random() < 0.5 and PERSON not in photo.classes:  # people are what users ask for most
        photo = pick(sources.scenes, rng)
    if rng.random() < 0.25:
        scene = letterbox(photo, size, scale=rng.uniform(0.6, 1.0))
    else:
        scene = zoom(photo, rng, size)
    if rng.random() < 0.15:
        scene = paste(scene, sources, rng, count=1)
    return scene


def collage(sources: Sources, rng: np.random.Generator, size: int) -> Scene:
    """Things cut out of photographs and pasted on a background that holds none of them."""
    background = decode(pick(sources.backgrounds, rng))
    empty = LabeledPhoto(background, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    return paste(zoom(empty, rng, size), sources, rng, count=int(rng.integers(2, 6)))


def grid(sources: Sources, rng: np.random.Generator, size: int) -> Scene:
    """Two or three rows of things on a background, one a cell, some cells empty.

    Where a thing is gets learned long before what it is, and a full grid teaches that for a dozen things at the price
    of one scene.
    """
    background = decode(pick(sources.backgrounds, rng))
    image = np.asarray(cv2.resize(background, (size, size), interpolation=cv2.INTER_AREA))
    rows, columns = (int(n) for n in rng.integers(2, 4, 2))
    boxes, classes = [], []
    for row in range(rows):
        for column in range(columns):
            if rng.random() < 0.1:
                continue
            cutout = draw_cutout(sources, rng, real_share=0.12)
            thing = cutout.image
            room = np.array([size / columns, size / rows]) * rng.uniform(0.75, 1.0)
            factor = min(room / (thing.shape[1], thing.shape[0]))
            w, h = (max(8, int(side * factor)) for side in (thing.shape[1], thing.shape[0]))
            x = min(int(size / columns * column + rng.uniform(0, max(size / columns - w, 1))), size - w)
            y = min(int(size / rows * row + rng.uniform(0, max(size / rows - h, 1))), size - h)
            boxes.append(_blend(image, cutout, place=(x, y, w, h), rng=rng))
            classes.append(cutout.class_id)
    return _kept(image, np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64))


def mosaic(sources: Sources, rng: np.random.Generator, size: int) -> Scene:
    """Four scenes in a grid whose cross lies anywhere in the middle half."""
    cross_x, cross_y = (int(v) for v in rng.uniform(0.3, 0.7, 2) * size)
    image = np.empty((size, size, 3), np.uint8)
    boxes, classes = [], []
    for x0, y0, x1, y1 in (
        (0, 0, cross_x, cross_y),
        (cross_x, 0, size, cross_y),
        (0, cross_y, cross_x, size),
        (cross_x, cross_y, size, size),
    ):
        part = (real, real, collage, solo)[rng.integers(4)](sources, rng, size)
        image[y0:y1, x0:x1] = cv2.resize(part.image, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        factors = np.array([x1 - x0, y1 - y0] * 2, np.float32) / size
        boxes.append(part.boxes * factors + np.array([x0, y0, x0, y0], np.float32))
        classes.append(part.classes)
    return _kept(image, np.concatenate(boxes), np.concatenate(classes))


def solo(sources: Sources, rng: np.random.Generator, size: int) -> Scene:
    """One photograph of one thing, filling the scene: what a catalogue or a folder of crops looks like."""
    class_id = draw_class(sources, rng)
    photo = pick(sources.photos[class_id], rng)
    box = photo_box(photo)
    image = photo.image()
    height, width = image.shape[:2]
    scale = np.array([width, height, width, height], np.float32)
    whole = LabeledPhoto(image, (box * scale)[None], np.array([class_id], np.int64))
    return letterbox(whole, size, scale=1.0) if rng.random() < 0.6 else zoom(whole, rng, size, closest=0.75)


def letterbox(photo: LabeledPhoto, size: int, *, scale: float) -> Scene:
    """Fit a photograph into a padded square, as ultralytics does; `scale` below 1 leaves a wider pad."""
    height, width = photo.image.shape[:2]
    factor = size * scale / max(height, width)
    new_w, new_h = max(1, round(width * factor)), max(1, round(height * factor))
    left, top = (size - new_w) // 2, (size - new_h) // 2
    image = np.full((size, size, 3), GREY, np.uint8)
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image[top : top + new_h, left : left + new_w] = cv2.resize(
        photo.image, (new_w, new_h), interpolation=interpolation
    )
    boxes = photo.boxes * factor + np.array([left, top, left, top], np.float32)
    return _kept(image, boxes, photo.classes)


def zoom(photo: LabeledPhoto, rng: np.random.Generator, size: int, *, closest: float = 0.35) -> Scene:
    """Crop a window out of a photograph, often around one of its things, and stretch it to the scene.

    closest: the smallest side of a window that is not around a thing, as a fraction of the photograph.
    """
    height, width = photo.image.shape[:2]
    aspect = float(np.exp(rng.uniform(-0.3, 0.3)))
    people = np.flatnonzero(photo.classes == PERSON)
    if len(photo.boxes) and closest < 0.5 and rng.random() < 0.6:
        chosen = rng.choice(people) if len(people) and rng.random() < 0.6 else rng.integers(len(photo.boxes))
        x0, y0, x1, y1 = photo.boxes[chosen]
        side = max(float(max(x1 - x0, y1 - y0)) * float(np.exp(rng.uniform(0.05, 1.4))), 48.0)
        centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + rng.uniform(-0.3, 0.3, 2) * side
    else:
        side = float(rng.uniform(closest, 1.0)) * max(height, width)
        centre = rng.uniform(0, 1, 2) * (width, height)
    w, h = min(width, side * aspect), min(height, side / aspect)
    left = int(np.clip(centre[0] - w / 2, 0, width - w))
    top = int(np.clip(centre[1] - h / 2, 0, height - h))
    w, h = max(8, int(w)), max(8, int(h))
    window = photo.image[top : top + h, left : left + w]
    image = np.asarray(
        cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA if w > size else cv2.INTER_LINEAR)
    )
    factors = np.array([size / window.shape[1], size / window.shape[0]] * 2, np.float32)
    boxes = (photo.boxes - np.array([left, top, left, top], np.float32)) * factors
    return _kept(image, boxes, photo.classes)


def paste(scene: Scene, sources: Sources, rng: np.random.Generator, *, count: int) -> Scene:
    """Paste up to `count` things where they hide at most 40 % of a thing that is already there."""
    image, size = scene.image.copy(), scene.image.shape[0]
    boxes, classes = list(scene.boxes), list(scene.classes)
    for _ in range(count):
        cutout = draw_cutout(sources, rng, real_share=0.4)
        thing = cutout.image
        longer = size * float(np.exp(rng.uniform(np.log(0.28), np.log(0.85))))
        factor = longer / max(thing.shape[:2])
        stretch = float(np.exp(rng.uniform(-0.15, 0.15)))
        w = int(np.clip(thing.shape[1] * factor * stretch, 8, size))
        h = int(np.clip(thing.shape[0] * factor / stretch, 8, size))
        for _attempt in range(6):
            x, y = (int(v) for v in rng.integers(0, (size - w + 1, size - h + 1)))
            box = np.array([x, y, x, y], np.float32) + cutout.box * np.array([w, h, w, h], np.float32)
            if all(hidden(old, box) <= 0.4 for old in boxes):
                break
        else:
            continue
        boxes.append(_blend(image, cutout, place=(x, y, w, h), rng=rng))
        classes.append(np.int64(cutout.class_id))
    return _kept(image, np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64))


def _blend(
    image: Image, cutout: Cutout, *, place: tuple[int, int, int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Paste a thing into an image at (x, y, width, height), in place, and return its box."""
    x, y, w, h = place
    interpolation = cv2.INTER_AREA if w < cutout.image.shape[1] else cv2.INTER_LINEAR
    thing = recolour(np.asarray(cv2.resize(cutout.image, (w, h), interpolation=interpolation)), rng)
    weight = np.asarray(cv2.resize(cutout.alpha, (w, h))).astype(np.float32)[..., None] / 255
    region = image[y : y + h, x : x + w]
    image[y : y + h, x : x + w] = (thing * weight + region * (1 - weight)).astype(np.uint8)
    return np.array([x, y, x, y], np.float32) + cutout.box * np.array([w, h, w, h], np.float32)


def recolour(image: Image, rng: np.random.Generator) -> Image:
    """Change brightness, contrast and the balance of the channels a little."""
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.92, 1.08, 3)
    shift = rng.uniform(-20, 20)
    changed = np.clip(image * gain.astype(np.float32) + np.float32(shift), 0, 255)
    return np.asarray(changed, np.uint8)


def degrade(scene: Scene, rng: np.random.Generator) -> Scene:
    """Mirror, recolour and blur a whole scene, so that neither softness nor sharpness gives a pasted thing away."""
    image, boxes = scene.image, scene.boxes
    size = image.shape[0]
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], axis=1)
    image = recolour(image, rng)
    if rng.random() < 0.3:
        small = int(size * rng.uniform(0.5, 0.9))
        image = np.asarray(
            cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size))
        )
    if rng.random() < 0.08:
        grey = image.mean(axis=2, keepdims=True)
        image = np.repeat(grey, 3, axis=2).astype(np.uint8)
    if rng.random() < 0.15:
        noise = rng.normal(0, rng.uniform(2, 10), (size, size, 1)).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return Scene(np.ascontiguousarray(image), boxes.astype(np.float32), scene.classes)


def _kept(image: Image, boxes: Boxes, classes: NDArray[np.int64]) -> Scene:
    """Clip boxes to the scene and drop what lost two thirds of itself or is under 5 pixels."""
    size = image.shape[0]
    clipped = np.clip(boxes, 0, size).astype(np.float32)
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-6)
    keep = (sides.min(axis=1, initial=size) >= 5) & (sides.prod(axis=1) / whole >= 0.34)
    return Scene(image, clipped[keep], classes[keep])
