"""Datasets to export: labels of a real Labeler over real files, as a finished job gives them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

from manyeyes import Item, Labeler, Recipe
from manyeyes.errors import SourceNotFound
from manyeyes.labeler import extractor_for
from manyeyes.primitives.base import Features
from manyeyes.primitives.detection import DTYPE as BOXES
from manyeyes.service.jobs.shapes import Manifest, Row
from manyeyes.types import Label, Versions

PAINT = """
name: paint
description: Colours of walls.
classes: [red, green, blue]
primitives: {toy: {}}
abstain_below: 0.4
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
"""


class Files:
    """Reads rows from this machine, as a job's fetcher does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def fetch(self, rows: Sequence[Row], *, attempts: int) -> Iterator[tuple[int, Any, int]]:
        assert attempts
        for position, row in enumerate(rows):
            if row.uri is None:
                yield position, None, 0
            elif not Path(row.uri).is_file():
                yield position, SourceNotFound("nothing is there"), 1
            else:
                yield position, Path(row.uri).read_bytes(), 1


@dataclass
class Made:
    """What a finished job gives. blocks: feature → what was stored of it, in blocks of ``shard_rows``."""

    recipe: Recipe
    versions: Versions
    given: list[tuple[Row, Label]]
    stored: Mapping[str, Features] = field(default_factory=dict)
    shard_rows: int = 7
    manifest: Manifest = field(default_factory=lambda: Manifest("0123456789abcdef", "file:///photos", ()))

    def rows(self) -> Iterator[tuple[Row, Label]]:
        return iter(self.given)

    def fetcher(self) -> Files:
        return Files()

    def features(self, feature: str) -> Iterator[Features] | None:
        block = self.stored.get(feature)
        return None if block is None else self._blocks(block)

    def _blocks(self, whole: Features) -> Iterator[Features]:
        for start in range(0, len(self.given), self.shard_rows):
            end = min(start + self.shard_rows, len(self.given))
            present = whole.present[start:end]
            if whole.offsets is None:
                yield Features(whole.rows[start:end], present, None, whole.info)
            else:
                first, last = whole.offsets[start], whole.offsets[end]
                yield Features(
                    whole.rows[first:last], present, whole.offsets[start : end + 1] - first, whole.info
                )

    def with_labels(self, names: Sequence[str | None], confidence: float = 0.9) -> Made:
        """Return the same rows with labels as a test wants them."""
        classes = self.recipe.classes
        rest = (1 - confidence) / (len(classes) - 1)
        given = []
        for (row, _), name in zip(self.given, names, strict=True):
            probs = {known: confidence if known == name else rest for known in classes}
            status: Any = "abstained" if name is None else "labeled"
            given.append((row, Label(row.id, status, name, confidence, probs)))
        return Made(self.recipe, self.versions, given, self.stored, self.shard_rows)


def labeled(recipe: Recipe, rows: Sequence[Row], *, features: Sequence[str] = ()) -> Made:
    """Label rows whose images are files of this machine."""
    items = [Item(row.id, image=row.uri, text=row.text, metadata=json.loads(row.metadata)) for row in rows]
    labeler = Labeler(recipe, extractor=extractor_for(recipe, cache=None))
    labels = labeler.label(items)
    stored = labeler.extractor.extract(items, features).blocks if features else {}
    return Made(recipe, labels.versions, list(zip(rows, labels, strict=True)), stored)


def textured(rng: np.random.Generator, colour: str, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return a picture that looks like no other, and like a colour."""
    base = np.asarray(Image.new("RGB", size, colour), dtype=np.float64)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    return Image.fromarray(np.clip(0.75 * base + 0.25 * np.asarray(small), 0, 255).astype(np.uint8))


def saved(image: Image.Image, path: Path, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)
    return path


@pytest.fixture(scope="session")
def paint(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return 40 rows: 30 images of three colours, of four formats, 6 with texts, 4 abstentions, a text, 2 errors."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    words = {
        "red": "a crimson wall",
        "green": "a lime wall, “très vert”",
        "blue": "a navy, wall\nwith a line",
    }
    rows = []
    for i in range(30):
        colour = list(words)[i % 3]
        suffix = (".jpg", ".png", ".webp", ".bmp")[i % 4]
        name = f"{colour}/IMG {i:02}{suffix}" if i else "rouge/mur-été.jpg"
        path = saved(textured(rng, {"green": "lime"}.get(colour, colour)), folder / name)
        text = words[colour] if i % 5 == 0 else None
        rows.append(Row(name, uri=str(path), text=text, metadata=json.dumps({"shelf": f"S{i % 7}", "n": i})))
    for i in range(4):
        path = saved(textured(rng, "gray"), folder / f"gray/{i}.jpg")
        rows.append(Row(f"gray/{i}.jpg", uri=str(path)))
    rows.append(Row("comments#1", text="a navy coat"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff and then nothing")
    rows.append(Row("broken.jpg", uri=str(folder / "broken.jpg")))
    rows.append(Row("gone.jpg", uri=str(folder / "gone.jpg")))
    return labeled(Recipe.parse(PAINT), rows)


@pytest.fixture(scope="session")
def coco128(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the photographs of coco128."""
    folder = tmp_path_factory.mktemp("coco128")
    with zipfile.ZipFile(shared_data / "coco128.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        archive.extractall(folder, names)
    return folder / "images"


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


THINGS = """
name: street
description: Streets, by what is seen in them.
classes: [street, room]
primitives: {detector: {}, image: {}}
lfs:
  - {name: bus, kind: detect, when: "count(bus) + count(car) + count(truck) >= 1", vote: street}
  - {name: inside, kind: detect, when: "count(cup) + count(cat) >= 1", vote: room}
  - {name: sunny, kind: metadata, when: "brightness > 0.9", vote: street}
"""


@pytest.fixture(scope="session")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return 12 images of 80 × 60 pixels with 0 to 3 boxes each that are known; one lies on its side (EXIF)."""
    folder = tmp_path_factory.mktemp("boxed")
    rng = np.random.default_rng(3)
    recipe = Recipe.parse(THINGS)
    given, boxes = [], []
    for i in range(12):
        how: dict[str, Any] = {}
        if i == 4:
            exif = Image.Exif()
            exif[0x0112] = 6  # upright, it is 60 × 80
            how["exif"] = exif
        path = saved(textured(rng, "gray", (80, 60)), folder / f"{i:02}.jpg", **how)
        name = "street" if i % 2 else "room"
        probs = {"street": 0.9 if i % 2 else 0.1, "room": 0.1 if i % 2 else 0.9}
        given.append((Row(path.name, uri=str(path)), Label(path.name, "labeled", name, 0.9, probs)))
        found = np.zeros(i % 4, dtype=BOXES)
        for j in range(len(found)):
            found[j]["fraction"] = (0.1 * j, 0.25, 0.1 * j + 0.5, 0.75)
            found[j]["label"] = (i + j) % 3
            found[j]["score"] = 0.9 - 0.25 * j
        boxes.append(found)
    offsets = np.concatenate([[0], np.cumsum([len(found) for found in boxes])]).astype(np.int64)
    info = {"names": ["person", "bus", "potted plant"]}
    stored = {"detector": Features(np.concatenate(boxes), np.ones(12, dtype=np.bool_), offsets, info)}
    versions = Versions("0f1e2d3c4b5a6978", {"detector": "detector/1", "image": "image/facts 1"}, "auto:1")
    return Made(recipe, versions, given, stored)
