"""What the frozen image tower sees in the training photographs, computed once and kept in a work folder.

The towers of the starter CLIP never change, so its head is trained on stored features. Every photograph gives a
centre view, prepared exactly as at prediction, and a few random views; COCO also gives a view of each annotated
object. Nothing here reads a validation or test file.
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from manyeyes.models.starter.clip import IMAGE_SIZE, StarterClip

logger = logging.getLogger(__name__)

CENTRE = 0
"""The number of the view that is prepared as at prediction; random views count from 1."""

_CIFAR_PER_CLASS = 600
_RANDOM_VIEWS = {"clothing": 2, "cifar10": 0, "imagenet": 6, "coco": 2}
_SMALLEST_OBJECT_PX = 32 * 32
_OBJECTS_PER_PHOTO = 12


Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True, slots=True)
class Features:
    """Views of one data set's photographs.

    values: float16, shape (n_views, 1280), pooled tower features.
    labels: str, shape (n_views,); the class; for COCO the object in view, or "" for a whole photograph.
    photos: int64, shape (n_views,); which photograph a view is of: splits are made by photograph, not by view.
    views: int64, shape (n_views,); CENTRE or the number of a random view.
    contents: str, shape (n_views,); for whole COCO photographs JSON {object: count}, else "".
    """

    values: NDArray[np.float16]
    labels: NDArray[np.str_]
    photos: NDArray[np.int64]
    views: NDArray[np.int64]
    contents: NDArray[np.str_]

    def where(self, chosen: NDArray[np.bool_]) -> Features:
        """Return the views for which the bool mask of shape (n_views,) is True."""
        return Features(
            values=self.values[chosen],
            labels=self.labels[chosen],
            photos=self.photos[chosen],
            views=self.views[chosen],
            contents=self.contents[chosen],
        )


@dataclass(frozen=True, slots=True)
class _Photo:
    number: int
    label: str
    image: Image.Image
    contents: str = ""
    crop: Box | None = None


def load_features(name: str, *, data: Path, work: Path, starter: StarterClip, seed: int = 0) -> Features:
    """Return the features of one data set, from the work folder if they are there, else computed and stored there.

    name: "clothing", "cifar10", "imagenet" or "coco".
    data: folder with the zip files described in its README. work: folder for `<name>.npz`.
    Raises FileNotFoundError if a zip file is missing.
    """
    file = work / f"{name}.npz"
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        features = _compute(name, _PHOTOS[name](data), starter, np.random.default_rng(seed))
        logger.info("%s: %d views", name, len(features.values))
        columns = {field: getattr(features, field) for field in Features.__slots__}
        np.savez(file, **columns)
    with np.load(file) as stored:
        return Features(**{field: stored[field] for field in Features.__slots__})


def random_view(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a random part (at least 30% of the area) of an image, maybe mirrored, lighter or darker, 224 px square."""
    area, stretch = rng.uniform(0.3, 1.0), np.exp(rng.uniform(-0.25, 0.25))
    width = min(image.width, image.width * np.sqrt(area) * stretch)
    height = min(image.height, image.height * np.sqrt(area) / stretch)
    left, top = rng.uniform(0, image.width - width + 1e-6), rng.uniform(0, image.height - height + 1e-6)
    box = (left, top, left + width, top + height)
    view = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    view = ImageEnhance.Brightness(view).enhance(float(rng.uniform(0.75, 1.25)))
    return ImageEnhance.Color(view).enhance(float(rng.uniform(0.6, 1.3)))


def _compute(name: str, photos: Iterator[_Photo], starter: StarterClip, rng: np.random.Generator) -> Features:
    rows: list[tuple[str, int, int, str]] = []
    values: list[NDArray[np.float16]] = []
    batch: list[torch.Tensor] = []

    def flush() -> None:
        # Half the time of float32, and far less noise than between two views of one photograph.
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            pooled = starter.model.visual.trunk(torch.stack(batch).to(memory_format=torch.channels_last))
        values.append(pooled.float().numpy().astype(np.float16))
        batch.clear()

    def add(photo: _Photo, image: Image.Image, view: int) -> None:
        batch.append(starter.preprocess(image))
        rows.append((photo.label, photo.number, view, photo.contents))
        if len(batch) == 64:
            flush()

    for photo in photos:
        image = photo.image if photo.crop is None else photo.image.crop(photo.crop)
        add(photo, image, CENTRE)
        for view in range(1, 1 + (_RANDOM_VIEWS[name] if photo.crop is None else 1)):
            add(photo, random_view(image, rng), view)
    if batch:
        flush()
    labels, numbers, views, contents = zip(*rows, strict=True)
    return Features(
        np.concatenate(values), np.array(labels), np.array(numbers), np.array(views), np.array(contents)
    )


def _photos_in_class_folders(file: Path, per_class: int | None = None) -> Iterator[_Photo]:
    with zipfile.ZipFile(file) as archive:
        seen: dict[str, int] = {}
        for number, name in enumerate(sorted(n for n in archive.namelist() if n.endswith(".jpg"))):
            label = name.split("/")[0]
            seen[label] = seen.get(label, 0) + 1
            if per_class is None or seen[label] <= per_class:
                yield _Photo(number, label, Image.open(io.BytesIO(archive.read(name))).convert("RGB"))


def _imagenet_photos(data: Path) -> Iterator[_Photo]:
    for photo in _photos_in_class_folders(data / "imagenet_sample.zip"):
        # Sorted WordNet ids are the order of the tower's classifier.
        yield _Photo(photo.number, str(photo.number), photo.image)


def _coco_photos(data: Path) -> Iterator[_Photo]:
    with zipfile.ZipFile(data / "coco128.zip") as archive:
        names: dict[int, str] = yaml.safe_load(archive.read("classes.yaml"))["names"]
        files = sorted(n for n in archive.namelist() if n.startswith("images/") and n.endswith(".jpg"))
        labels = set(archive.namelist())
        for number, name in enumerate(files):
            image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            boxes_file = name.replace("images/", "labels/").replace(".jpg", ".txt")
            boxes = (
                _read_boxes(archive.read(boxes_file).decode(), names, image) if boxes_file in labels else []
            )
            counts: dict[str, int] = {}
            for label, _ in boxes:
                counts[label] = counts.get(label, 0) + 1
            yield _Photo(number, "", image, contents=json.dumps(counts))
            large = sorted(boxes, key=lambda item: _area(item[1]), reverse=True)[:_OBJECTS_PER_PHOTO]
            for label, box in large:
                if _area(box) >= _SMALLEST_OBJECT_PX:
                    yield _Photo(number, label, image, crop=_with_surroundings(box, image))


def _read_boxes(text: str, names: dict[int, str], image: Image.Image) -> list[tuple[str, Box]]:
    """Return the label and the box for each line of a YOLO label file."""
    boxes: list[tuple[str, Box]] = []
    for line in text.splitlines():
        number, x, y, w, h = (float(field) for field in line.split()[:5])
        box = (
            (x - w / 2) * image.width,
            (y - h / 2) * image.height,
            (x + w / 2) * image.width,
            (y + h / 2) * image.height,
        )
        boxes.append((names[int(number)], box))
    return boxes


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _with_surroundings(box: Box, image: Image.Image) -> Box:
    """Return a nearly square crop around a box: a tenth of margin, and more on the shorter side."""
    width, height = 1.1 * (box[2] - box[0]), 1.1 * (box[3] - box[1])
    width, height = max(width, 0.7 * height), max(height, 0.7 * width)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    left, top = round(max(0.0, x - width / 2)), round(max(0.0, y - height / 2))
    return left, top, round(min(image.width, x + width / 2)), round(min(image.height, y + height / 2))


_PHOTOS: dict[str, Callable[[Path], Iterator[_Photo]]] = {
    "clothing": lambda data: _photos_in_class_folders(data / "clothing_train.zip"),
    "cifar10": lambda data: _photos_in_class_folders(data / "cifar10_train.zip", _CIFAR_PER_CLASS),
    "imagenet": _imagenet_photos,
    "coco": _coco_photos,
}
